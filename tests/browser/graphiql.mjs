// Opens GraphiQL in a headless Chromium, runs the query that stands there and prints what was seen, as JSON:
// node graphiql.mjs PROGRAM URL
// It speaks the DevTools protocol over a pipe, so that it needs no package.
import { spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const PATIENCE = 60_000;
const [program, url] = process.argv.slice(2);
const profile = mkdtempSync(join(tmpdir(), "graphiql-"));
const browser = spawn(
  program,
  [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--remote-debugging-pipe",
    `--user-data-dir=${profile}`,
    "about:blank",
  ],
  { stdio: ["ignore", "ignore", "ignore", "pipe", "pipe"] },
);
const [toBrowser, fromBrowser] = [browser.stdio[3], browser.stdio[4]];

const waiting = new Map();
const requests = new Set();
const errors = [];
let last = 0;
let rest = "";

function send(method, params = {}, sessionId = undefined) {
  last += 1;
  const id = last;
  toBrowser.write(`${JSON.stringify({ id, method, params, sessionId })}\0`);
  return new Promise((resolve, reject) => waiting.set(id, { resolve, reject }));
}

function received(message) {
  if (message.id !== undefined) {
    const { resolve, reject } = waiting.get(message.id);
    waiting.delete(message.id);
    if (message.error) reject(new Error(message.error.message));
    else resolve(message.result);
  } else if (message.method === "Network.requestWillBeSent") {
    const { url: asked } = message.params.request;
    // Fonts and icons within the style sheet ask nobody.
    if (!asked.startsWith("data:")) requests.add(asked);
  } else if (message.method === "Runtime.exceptionThrown") {
    errors.push(message.params.exceptionDetails.text);
  } else if (message.method === "Log.entryAdded" && message.params.entry.level === "error") {
    errors.push(message.params.entry.text);
  }
}

fromBrowser.setEncoding("utf8");
fromBrowser.on("data", (text) => {
  const parts = (rest + text).split("\0");
  rest = parts.pop();
  for (const part of parts) received(JSON.parse(part));
});

// What an expression in the page gives, once it gives anything.
async function eventually(session, what, expression) {
  const began = Date.now();
  for (;;) {
    const { result } = await send("Runtime.evaluate", { expression }, session);
    if (result.value) return result.value;
    if (Date.now() - began > PATIENCE) throw new Error(`no ${what}; errors: ${errors.join("; ")}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

async function look() {
  const { targetId } = await send("Target.createTarget", { url: "about:blank" });
  const { sessionId } = await send("Target.attachToTarget", { targetId, flatten: true });
  for (const domain of ["Network", "Page", "Runtime", "Log"]) await send(`${domain}.enable`, {}, sessionId);
  await send("Page.navigate", { url }, sessionId);
  const editor = (area) => `document.querySelector("${area} .CodeMirror")?.CodeMirror.getValue()`;
  const query = await eventually(sessionId, "query", editor(".graphiql-query-editor"));
  await eventually(sessionId, "button", `!!document.querySelector(".graphiql-execute-button")`);
  const click = `document.querySelector(".graphiql-execute-button").click()`;
  await send("Runtime.evaluate", { expression: click }, sessionId);
  const answer = await eventually(sessionId, "answer", editor(".result-window"));
  return { query, answer, requests: [...requests], errors };
}

let code = 0;
try {
  console.log(JSON.stringify(await look()));
} catch (error) {
  console.error(String(error));
  code = 1;
}
browser.on("exit", () => {
  rmSync(profile, { recursive: true, force: true, maxRetries: 5 });
  process.exit(code);
});
browser.kill();
