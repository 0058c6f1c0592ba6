// The client of the query API: sends batches, halves a batch over a limit, and retries transient errors.

import { readFileSync } from "node:fs";
import { host } from "./tarball.js";

const BATCH = 1_000;
const AT_ONCE = 4;
const TRIES = 4;
// The longest pause in milliseconds that the service did not ask for.
const LONGEST_WAIT = 5_000;
const REGISTRY = "query BunScannerRegistry { registry { ecosystem hosts } }";
const PACKAGES = `query BunScanner($refs: [PackageRef!]!) { packages(refs: $refs) { name version
  publicationInfo { username created tor tfa disputed }
  history { strongest { version } weaker newPublisher publisherLast } } }`;

// The service gave no answer; the message is the reason.
export class Unanswered extends Error {}

class TooLarge extends Error {}

// Reads the configuration from variables. Throws if a value is invalid: Bun then ends the installation.
export function settings(variables) {
  const wrong = (name, what) => new Error(`publication-insights: ${name} ${what}`);
  const address = variables.PUBLICATION_INSIGHTS_URL;
  const url = address ? URL.parse(address) : null;
  if (!url || !/^https?:$/.test(url.protocol) || url.username || url.password || url.search || url.hash) {
    throw wrong("PUBLICATION_INSIGHTS_URL", "is not a http or https address without user, query and fragment");
  }
  url.pathname = url.pathname.replace(/\/*(graphql)?\/*$/, "/");
  const file = variables.PUBLICATION_INSIGHTS_TOKEN_FILE;
  const isLocal = /^(localhost|127(\.\d+){3}|\[::1\])$/.test(url.hostname);
  if (file && url.protocol !== "https:" && !isLocal) {
    throw wrong("PUBLICATION_INSIGHTS_TOKEN_FILE", "is only for https or a loopback address");
  }
  const unanswered = variables.PUBLICATION_INSIGHTS_UNANSWERED || "warn";
  if (!["warn", "fatal"].includes(unanswered)) throw wrong("PUBLICATION_INSIGHTS_UNANSWERED", "is not warn or fatal");
  const seconds = Number(variables.PUBLICATION_INSIGHTS_TIMEOUT || "30");
  if (!(seconds > 0 && seconds <= 86_400)) throw wrong("PUBLICATION_INSIGHTS_TIMEOUT", "is not a number of seconds");
  const registry = (variables.PUBLICATION_INSIGHTS_REGISTRY || "").split(/[\s,]+/).filter(Boolean).map(host);
  const token = file ? readFileSync(file, "utf8").trim() : null;
  const rules = variables.PUBLICATION_INSIGHTS_RULES || "";
  return { url, token, registry, unanswered, rules, timeout: seconds * 1_000 };
}

// The registry's hosts, as the service names them. `limit` has the end of the time for all questions, as `until` and as `signal`.
export async function hostsOf(url, token, limit) {
  const { registry } = await post(url, token, { query: REGISTRY }, limit);
  if (registry?.ecosystem !== "npm") throw new Unanswered("the service is not for npm packages");
  return registry.hosts.map(host);
}

// The answers for { name, version } in the same order: an object, null without a record, or Unanswered.
export async function ask(url, token, subjects, limit) {
  const batches = [];
  for (let at = 0; at < subjects.length; at += BATCH) batches.push([at, subjects.slice(at, at + BATCH)]);
  const answers = new Array(subjects.length);
  const work = async () => {
    for (let next = batches.shift(); next; next = batches.shift()) {
      const [at, batch] = next;
      const found = await answersOf(url, token, batch, limit);
      for (const [index, answer] of found.entries()) answers[at + index] = answer;
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, work));
  return answers;
}

async function answersOf(url, token, batch, limit) {
  const refs = batch.map(({ name, version }) => ({ name, version }));
  try {
    const { packages } = await post(url, token, { query: PACKAGES, variables: { refs } }, limit);
    const fits = (answer, at) => answer === null || (answer.name === refs[at].name && answer.version === refs[at].version);
    if (!Array.isArray(packages) || packages.length !== refs.length || !packages.every(fits)) {
      throw new Unanswered("the answer is not for the packages that were asked about");
    }
    return packages;
  } catch (error) {
    if (error instanceof TooLarge && batch.length > 1) {
      const half = Math.floor(batch.length / 2);
      const one = await answersOf(url, token, batch.slice(0, half), limit);
      return [...one, ...(await answersOf(url, token, batch.slice(half), limit))];
    }
    if (!(error instanceof Unanswered || error instanceof TooLarge)) throw error;
    return batch.map(() => new Unanswered(error.message));
  }
}

async function post(url, token, body, limit) {
  let wait = 200;
  for (let tries = 1; ; tries += 1) {
    const { data, why, after } = await once(url, token, body, limit);
    if (data) return data;
    if (after === null && tries >= TRIES) throw new Unanswered(why);
    // `Retry-After: 0` must not lead to a flood of requests.
    await pause(Math.max(after ?? 0, wait), limit, why);
    wait = Math.min(wait * 2, LONGEST_WAIT);
  }
}

// { data }, or { why, after } for a transient failure; `after` is the wait in milliseconds, null for the default.
async function once(url, token, body, limit) {
  const headers = { "content-type": "application/json", accept: "application/graphql-response+json, application/json;q=0.9" };
  if (token) headers.authorization = `Bearer ${token}`;
  let response;
  let text;
  try {
    // Neither the token nor the names may go to the target of a redirect.
    const options = { method: "POST", headers, body: JSON.stringify(body), redirect: "manual", signal: limit.signal };
    response = await fetch(new URL("graphql", url), options);
    text = await response.text();
  } catch {
    if (limit.signal.aborted) throw new Unanswered("the service did not answer in time");
    return { why: "the service is away, or its answer was cut off", after: null };
  }
  const seconds = Number(response.headers.get("retry-after") ?? NaN);
  const after = Number.isFinite(seconds) && seconds >= 0 ? seconds * 1_000 : null;
  if (response.status === 401 || response.status === 403) throw new Unanswered("the service asks for a valid token");
  if (response.status === 429) return { why: "the rate limit is used up", after: after ?? 1_000 };
  if (response.status === 413) throw new TooLarge("over the size limit of the service");
  const answer = parsed(text);
  const code = answer?.errors?.[0]?.extensions?.code;
  if (code === "LIMIT_EXCEEDED") throw new TooLarge("over a limit of the service");
  if (code === "GRAPHQL_VALIDATION_FAILED") throw new Unanswered("the service is too old: it has no `registry` or no `history`");
  if (response.status >= 500) return { why: `the service answers with status ${response.status}`, after };
  if (!response.ok || !answer?.data || answer.errors?.length > 0) throw new Unanswered("the answer is not that of the query API");
  return { data: answer.data };
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

// Gives up at once if the pause would outlast the time for all questions.
function pause(milliseconds, { signal, until }, why) {
  return new Promise((resolve, reject) => {
    const stop = () => reject(new Unanswered(why));
    if (signal.aborted || Date.now() + milliseconds >= until) return stop();
    const timer = setTimeout(() => {
      signal.removeEventListener("abort", stop);
      resolve();
    }, milliseconds);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      stop();
    }, { once: true });
  });
}
