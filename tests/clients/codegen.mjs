// graphql-codegen: types from the introspection, checked by TypeScript: node codegen.mjs http://127.0.0.1:8080/graphql
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { generate } from "@graphql-codegen/cli";
import { MANY, NODE, NULLS, PAGE, SEED } from "./questions.mjs";

const schema = process.argv[2];
writeFileSync("operations.graphql", [SEED, MANY, PAGE, NULLS, NODE].join("\n"));
const plugins = ["typescript", "typescript-operations"];
const documents = "operations.graphql";
await generate({ schema, documents, generates: { "types.ts": { plugins } }, silent: true }, true);
const types = readFileSync("types.ts", "utf8");
assert.match(types, /tor\?: Maybe<Scalars\['Boolean'\]\['output'\]>/, "null is a value of its own");
assert.match(types, /OLDEST_FIRST|OldestFirst/);
writeFileSync(
  "use.ts",
  `import type { SeedQuery } from "./types";
const seed: SeedQuery = { package: { publicationInfo: { username: null, tor: null, tfa: false } } };
export const tor: boolean | null | undefined = seed.package?.publicationInfo?.tor;
`,
);
execFileSync("npx", ["tsc", "--noEmit", "--strict", "--skipLibCheck", "use.ts"], { stdio: "inherit" });
console.log("@graphql-codegen/cli");
