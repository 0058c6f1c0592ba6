// The audits of npm's graphql-http against a running server: node audit.mjs http://127.0.0.1:8080/graphql
// Prints the audits that fail, and a last line with the counts. The exit code is 0 when all pass.
import { auditServer } from "graphql-http";

const url = process.argv[2];
if (!url) {
  console.error("usage: node audit.mjs URL");
  process.exit(2);
}
const results = await auditServer({ url });
const counts = { ok: 0, notice: 0, warn: 0, error: 0 };
for (const result of results) {
  counts[result.status] += 1;
  if (result.status !== "ok") {
    console.log(result.status, result.id, result.name, "-", result.reason);
  }
}
console.log(results.length, JSON.stringify(counts));
process.exit(counts.ok === results.length && results.length >= 61 ? 0 : 1);
