// The queries of each client, and their expected answers. The test that starts the server inserts the rows.
import assert from "node:assert/strict";

export const SEED = `query Seed { package(name: "pg", version: "7.12.0") { publicationInfo { username tor tfa } } }`;
export const MANY = `query Many($refs: [PackageRef!]!) { packages(refs: $refs) { id name publicationInfo { tor tfa } } }`;
export const PAGE = `query Page($after: String, $order: Order!) {
  publications(first: 100, after: $after, order: $order) {
    edges { cursor node { id name } } pageInfo { hasNextPage endCursor } } }`;
export const NULLS = `query Nulls { package(name: "silent", version: "1.0.0") { id publicationInfo { username tor tfa } } none: package(name: "none", version: "1") { id } }`;
export const NODE = `query Node($id: ID!) { node(id: $id) { __typename id ... on Package { name version } } }`;
export const WRONG = `query Wrong { publications(first: 101) { edges { cursor } } }`;

// `ask` sends a document with variables and returns { data, code }: the data, or the code of the first error.
export async function check(ask) {
  const seed = await ask(SEED, {});
  const info = seed.data.package.publicationInfo;
  assert.deepEqual([info.username, info.tor, info.tfa], ["brianc", false, true]);

  const refs = Array.from({ length: 300 }, (_, n) => ({ name: `package-${n}`, version: n % 3 ? "1.0.0" : "none" }));
  const { data } = await ask(MANY, { refs });
  assert.equal(data.packages.length, 300);
  data.packages.forEach((found, n) => assert.equal(found?.name ?? null, n % 3 ? `package-${n}` : null));

  for (const order of ["NEWEST_FIRST", "OLDEST_FIRST"]) {
    const names = new Set();
    let after = null;
    do {
      const page = (await ask(PAGE, { after, order })).data.publications;
      page.edges.forEach((edge) => names.add(edge.node.id));
      after = page.pageInfo.hasNextPage ? page.pageInfo.endCursor : null;
    } while (after);
    assert.equal(names.size, 302);
  }

  const nulls = (await ask(NULLS, {})).data;
  const silent = nulls.package.publicationInfo;
  assert.deepEqual([silent.username, silent.tor, silent.tfa, nulls.none], [null, null, null, null]);

  const id = "pkg:npm/pg@7.12.0";
  const node = (await ask(NODE, { id })).data.node;
  assert.deepEqual([node.__typename, node.id, node.name], ["Package", id, "pg"]);

  assert.equal((await ask(WRONG, {})).code, "BAD_USER_INPUT");
}
