// Opens GraphiQL in a headless Chromium, runs the query in the editor and prints the results as JSON:
// node graphiql.mjs PROGRAM URL
import { inBrowser } from "./devtools.mjs";

const [program, url] = process.argv.slice(2);
await inBrowser(program, async (page) => {
  await page.open(url);
  const editor = (area) => `document.querySelector("${area} .CodeMirror")?.CodeMirror.getValue()`;
  const query = await page.eventually("query", editor(".graphiql-query-editor"));
  await page.eventually("button", `!!document.querySelector(".graphiql-execute-button")`);
  await page.evaluate(`document.querySelector(".graphiql-execute-button").click()`);
  const answer = await page.eventually("answer", editor(".result-window"));
  return { query, answer, requests: [...page.requests], errors: page.errors };
});
