// The answers of graphql-js to cases.json, with the rows of the query crate's unit tests: node oracle.mjs SCHEMA
// Prints the data and the paths of errors of each case, or that it is refused. expected.json is this output.
import { readFileSync } from "node:fs";
import { buildSchema, execute, parse, validate } from "graphql";

const schema = buildSchema(readFileSync(process.argv[2], "utf8"));
const cases = JSON.parse(readFileSync(new URL("cases.json", import.meta.url), "utf8"));

const row = (name, version) => {
  const id = `pkg:npm/${name}@${version}`;
  return { __typename: "Package", id, name, version, purl: id, publicationInfo: { tor: false, tfa: true } };
};
const rows = [row("pg", "7.12.0"), row("jsonstream", "1.0.0")];
const find = ({ name, version }) => rows.find((own) => own.name === name && own.version === version) ?? null;
const root = {
  package: find,
  packages: ({ refs }) => refs.map(find),
  packagesByPurl: ({ purls }) => purls.map((purl) => rows.find((own) => own.purl === purl) ?? null),
  node: ({ id }) => rows.find((own) => own.id === id) ?? null,
  publications: () => ({ edges: [], pageInfo: { hasNextPage: false, hasPreviousPage: false } }),
  registry: { ecosystem: "npm", hosts: ["registry.example"] },
};

const answers = [];
for (const { query, variables } of cases) {
  const document = parse(query);
  let answer = { errors: validate(schema, document) };
  if (answer.errors.length === 0) {
    answer = await execute({ schema, document, rootValue: root, variableValues: variables });
  }
  if (answer.data === undefined) {
    answers.push({ refused: true });
  } else {
    const places = (answer.errors ?? []).map(({ path }) => path ?? []);
    answers.push({ data: answer.data, places });
  }
}
console.log(`[\n${answers.map((answer) => JSON.stringify(answer)).join(",\n")}\n]`);
