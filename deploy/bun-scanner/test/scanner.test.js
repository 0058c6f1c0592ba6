// The scanner as Bun calls it, against a service that gives the API's answers.

import { afterEach, expect, test } from "bun:test";
import { scanner } from "../index.js";
import { service } from "./service.js";

const NAMES = ["URL", "TOKEN_FILE", "REGISTRY", "UNANSWERED", "RULES", "TIMEOUT"];
afterEach(() => NAMES.forEach((name) => delete process.env[`PUBLICATION_INSIGHTS_${name}`]));

const tarball = (name, version) => `https://registry.example/${name}/-/${name.split("/").at(-1)}-${version}.tgz`;
const one = (name, version, at = tarball(name, version)) => ({ name, version, requestedRange: "*", tarball: at });

async function scan(server, packages, more = {}) {
  process.env.PUBLICATION_INSIGHTS_URL = server.url;
  for (const [name, value] of Object.entries(more)) process.env[`PUBLICATION_INSIGHTS_${name}`] = value;
  try {
    return await scanner.scan({ packages });
  } finally {
    server.stop();
  }
}

const levelsOf = (found) => found.map(({ level, description }) => `${level} ${description.split(":")[0]}`);

test("only tarballs of the registry are asked about, each once", async () => {
  const server = service(["registry.example"], {});
  await scan(server, [
    one("a", "1.0.0"),
    one("a", "1.0.0"),
    one("@s/x", "1.0.0"),
    one("secret", "1.0.0", "https://npm.corp.example/secret/-/secret-1.0.0.tgz"),
    one("port", "1.0.0", "https://registry.example:8443/port/-/port-1.0.0.tgz"),
    one("user", "1.0.0", "https://registry.example@other.example/user/-/user-1.0.0.tgz"),
    one("folder", "workspace:packages/folder", ""),
    one("file", "file:./file.tgz", "./file.tgz"),
    one("github", "github:u/r#0a", "https://api.github.com/repos/u/r/tarball/0a"),
  ]);
  expect(server.asked).toEqual(["a 1.0.0", "@s/x 1.0.0"]);
});

test("one host is written in several ways", async () => {
  for (const [hosts, at, isAsked] of [
    ["registry.example:80", "http://registry.example/a/-/a-1.0.0.tgz", true],
    ["registry.example:80", "http://registry.example:80/a/-/a-1.0.0.tgz", true],
    ["registry.example:443", "https://registry.example/a/-/a-1.0.0.tgz", true],
    ["http://registry.example:443", "https://registry.example/a/-/a-1.0.0.tgz", false],
    ["registry.example/npm", "https://registry.example.//npm//a/-/a-1.0.0.tgz", true],
    ["registry.example/npm", "https://registry.example/n%70m/%61/-/a-1.0.0.tgz", true],
    ["registry.example/npm", "https://registry.example/npm/x%2f..%2f..%2fa/-/a-1.0.0.tgz", false],
    ["registry.example/npm", "https://registry.example/npmx/a/-/a-1.0.0.tgz", false],
  ]) {
    const server = service([hosts], {});
    await scan(server, [one("a", "1.0.0", at)]);
    expect([at, server.asked]).toEqual([at, isAsked ? ["a 1.0.0"] : []]);
  }
});

test("an empty list of errors is no error", async () => {
  const data = { registry: { ecosystem: "npm", hosts: ["registry.example"] } };
  const server = service([], { "a 1.0.0": {} }, (body) => (body.variables ? null : Response.json({ data, errors: [] })));
  expect(await scan(server, [one("a", "1.0.0")])).toEqual([]);
});

test("each rule has the level of the audit", async () => {
  for (const [row, expected] of [
    [{}, []],
    [{ tor: true }, ["fatal tor"]],
    [{ weaker: true }, ["fatal weaker"]],
    [{ newPublisher: true }, ["warn new-publisher"]],
    [{ publisherLast: "2024-12-31T00:00:00.000Z" }, ["warn returning-publisher"]],
    [{ publisherLast: "2025-01-02T03:04:05.678Z" }, []],
    [{ disputed: true }, ["warn disputed"]],
    [{ tor: null }, ["warn unknown"]],
    [{ tfa: null }, ["warn unknown"]],
    [{ tfa: false, weaker: null, newPublisher: null }, []],
  ]) {
    const found = await scan(service(["registry.example"], { "a 1.0.0": row }), [one("a", "1.0.0")]);
    expect(levelsOf(found)).toEqual(expected);
  }
  const none = await scan(service(["registry.example"], {}), [one("a", "1.0.0")]);
  expect(levelsOf(none)).toEqual(["warn unknown"]);
});

test("levels can be chosen, and a wrong choice ends the installation", async () => {
  const rows = { "a 1.0.0": { tfa: false, newPublisher: true } };
  const found = await scan(service(["registry.example"], rows), [one("a", "1.0.0")], {
    RULES: "no-second-factor=error, new-publisher=off",
  });
  expect(levelsOf(found)).toEqual(["fatal no-second-factor"]);
  for (const RULES of ["tor", "tor=fatal", "torr=off"]) {
    expect(scan(service([], {}), [], { RULES })).rejects.toThrow("PUBLICATION_INSIGHTS_RULES");
  }
});

test("the tarball says which package it is", async () => {
  const rows = { "evil 1.0.0": {} };
  const server = service(["registry.example"], rows);
  const found = await scan(server, [one("lodash", "4.17.21", tarball("evil", "1.0.0"))]);
  expect(server.asked).toEqual(["evil 1.0.0"]);
  expect(levelsOf(found)).toEqual(["fatal location"]);
});

test("unanswered is a warning, or fatal by a variable", async () => {
  const error = (code) => () => Response.json({ errors: [{ message: "no", extensions: { code } }] });
  for (const fault of [
    () => new Response("", { status: 401 }),
    () => new Response("", { status: 404 }),
    () => new Response("<html>"),
    error("GRAPHQL_VALIDATION_FAILED"),
    () => Response.json({ data: { packages: [] , registry: { ecosystem: "gem", hosts: [] } } }),
    () => Response.redirect("http://127.0.0.1:1/graphql", 307),
    (body) => (body.variables ? error("LIMIT_EXCEEDED")() : null),
  ]) {
    const found = await scan(service(["registry.example"], {}, fault), [one("a", "1.0.0")]);
    expect(found.map(({ level }) => level)).toEqual(["warn"]);
  }
  const away = { url: "http://127.0.0.1:1", stop: () => {} };
  const [found] = await scan(away, [one("a", "1.0.0")], { UNANSWERED: "fatal" });
  expect(found.level).toBe("fatal");
});

test("without any host nothing is asked", async () => {
  const server = service([], {});
  const [found] = await scan(server, [one("a", "1.0.0")]);
  expect(found.description).toContain("PUBLICATION_INSIGHTS_REGISTRY");
  expect(server.asked).toEqual([]);
  const named = service([], { "a 1.0.0": {} });
  expect(await scan(named, [one("a", "1.0.0")], { REGISTRY: "registry.example" })).toEqual([]);
});

test("a batch over a limit goes in halves, and what passes is tried again", async () => {
  const packages = Array.from({ length: 50 }, (_, at) => one(`p${at}`, "1.0.0"));
  const rows = Object.fromEntries(packages.map(({ name }) => [`${name} 1.0.0`, {}]));
  let failures = 2;
  const server = service(["registry.example"], rows, (body) => {
    if (body.variables && failures-- > 0) return new Response("", { status: 503, headers: { "retry-after": "0" } });
    if (body.variables?.refs.length > 10) return new Response("", { status: 413 });
    return null;
  });
  expect(await scan(server, packages)).toEqual([]);
  expect(server.asked.length).toBe(50);
});

test("no Retry-After leads to a flood of requests", async () => {
  // The latter is longer than a timer of JavaScript can wait.
  for (const [seconds, timeout, longest] of [["0", 1, 5_000], ["60", 30, 2_000], ["9999999", 30, 2_000]]) {
    let requests = 0;
    const started = Date.now();
    const server = service(["registry.example"], {}, (body) => {
      if (!body.variables) return null;
      requests += 1;
      return new Response("", { status: 429, headers: { "retry-after": seconds } });
    });
    const found = await scan(server, [one("a", "1.0.0")], { TIMEOUT: `${timeout}` });
    expect(levelsOf(found)).toEqual(["warn publication-insights"]);
    expect(requests).toBeLessThan(5);
    expect(Date.now() - started).toBeLessThan(longest);
  }
});

test("a token is sent to https or loopback alone", async () => {
  const file = `${import.meta.dir}/package.json`;
  const far = { url: "http://publications.example", stop: () => {} };
  expect(scan(far, [], { TOKEN_FILE: file })).rejects.toThrow("TOKEN_FILE");
});

test("a name cannot move the cursor", async () => {
  const rows = { "a 1.0.0": { tor: true, username: "x\u001b[2J\n" } };
  const [found] = await scan(service(["registry.example"], rows), [one("a", "1.0.0")]);
  expect(found.description).toContain("x\\u{1b}[2J\\u{a}");
});
