// Relay's compiler and runtime: node relay.mjs http://127.0.0.1:8080/graphql
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdirSync, writeFileSync } from "node:fs";
import relay from "relay-runtime";

const { Environment, Network, RecordSource, Store, fetchQuery } = relay;
const url = process.argv[2];
mkdirSync("relay/__generated__", { recursive: true });
writeFileSync("relay/schema.graphql", await (await fetch(new URL("/schema.graphql", url))).text());
execFileSync("npx", ["relay-compiler", "relay/relay.config.json"], { stdio: "inherit" });

const environment = new Environment({
  network: Network.create(async ({ text }, variables) => {
    const headers = { "content-type": "application/json" };
    const body = JSON.stringify({ query: text, variables });
    return (await fetch(url, { method: "POST", headers, body })).json();
  }),
  store: new Store(new RecordSource()),
});
const ask = async (name, variables) => {
  const { default: query } = await import(`./relay/__generated__/${name}.graphql.js`);
  return fetchQuery(environment, query, variables).toPromise();
};

const id = "pkg:npm/pg@7.12.0";
assert.equal((await ask("queriesSeedQuery", {})).package.id, id);
// The store keys the object by its id, independent of the query.
const record = () => environment.getStore().getSource().get(id);
assert.equal(record().name, "pg");
const refetched = await ask("queriesRefetchQuery", { id });
assert.equal(refetched.node.__id ?? refetched.node.id, id);
const names = [];
let cursor = null;
do {
  const page = (await ask("queriesFeedQuery", { count: 100, cursor })).publications;
  names.push(...page.edges.map((edge) => edge.node.id));
  cursor = page.pageInfo.hasNextPage ? page.pageInfo.endCursor : null;
} while (cursor);
assert.equal(new Set(names).size, 302);

const refs = Array.from({ length: 300 }, (_, n) => ({ name: `package-${n}`, version: n % 3 ? "1.0.0" : "none" }));
const { packages } = await ask("queriesManyQuery", { refs });
assert.deepEqual(packages.map((found) => found?.name ?? null), refs.map(({ name }, n) => (n % 3 ? name : null)));

const nulls = await ask("queriesNullsQuery", {});
const silent = nulls.package.publicationInfo;
assert.deepEqual([silent.username, silent.tor, silent.tfa, nulls.none], [null, null, null, null]);

const refused = await ask("queriesWrongQuery", {}).catch((error) => error);
assert.equal(refused.source?.errors[0].extensions.code, "BAD_USER_INPUT", String(refused));
console.log("relay-compiler and relay-runtime");
