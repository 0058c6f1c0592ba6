// graphql-request, Apollo Client, and urql with graphcache: node javascript.mjs http://127.0.0.1:8080/graphql
import assert from "node:assert/strict";
import { ApolloClient, CombinedGraphQLErrors, HttpLink, InMemoryCache, gql } from "@apollo/client";
import { Client, fetchExchange } from "@urql/core";
import { cacheExchange } from "@urql/exchange-graphcache";
import { GraphQLClient } from "graphql-request";
import { check } from "./questions.mjs";

const url = process.argv[2];

const plain = new GraphQLClient(url);
await check(async (query, variables) => {
  try {
    return { data: await plain.request(query, variables) };
  } catch (error) {
    return { code: error.response.errors[0].extensions.code };
  }
});
console.log("graphql-request");

const cache = new InMemoryCache();
const apollo = new ApolloClient({ link: new HttpLink({ uri: url }), cache });
await check(async (query, variables) => {
  try {
    return await apollo.query({ query: gql(query), variables });
  } catch (error) {
    assert.ok(CombinedGraphQLErrors.is(error), String(error));
    return { code: error.errors[0].extensions.code };
  }
});
// The cache has a package once, although several answers contain it.
const kept = Object.keys(cache.extract()).filter((key) => key.includes("package-1@"));
assert.deepEqual(kept, ["Package:pkg:npm/package-1@1.0.0"]);
console.log("@apollo/client");

const none = () => null;
const keys = { EarlierPublication: none, History: none, PublicationInfo: none, Registry: none };
const urql = new Client({ url, preferGetMethod: false, exchanges: [cacheExchange({ keys }), fetchExchange] });
await check(async (query, variables) => {
  const { data, error } = await urql.query(query, variables).toPromise();
  return error ? { code: error.graphQLErrors[0].extensions.code } : { data };
});
// graphcache warns about an object without an id if its type is missing in `keys`.
const warnings = [];
console.warn = (text) => warnings.push(text);
const history = `{ package(name: "pg", version: "7.12.0") { id history { earlier strongest { version } } } }`;
assert.equal((await urql.query(history, {}).toPromise()).data.package.history.earlier, 0);
assert.deepEqual(warnings, []);
console.log("@urql/core with @urql/exchange-graphcache");
