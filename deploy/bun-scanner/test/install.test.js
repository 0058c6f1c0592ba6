// A real Bun installs from a real registry on this machine, with the scanner.

import { afterAll, beforeAll, expect, test } from "bun:test";
import { cp, mkdir, mkdtemp, rm } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { service } from "./service.js";

const scannerFolder = join(import.meta.dir, "..");
let folder;
let registry;
let verdaccio;

function freePort() {
  return new Promise((resolve) => {
    const server = createServer().listen(0, "127.0.0.1", () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });
}

async function run(command, cwd, env = {}) {
  const all = { ...process.env, HOME: folder, BUN_INSTALL_CACHE_DIR: join(folder, "cache"), ...env };
  const child = Bun.spawn(command, { cwd, env: all, stdout: "pipe", stderr: "pipe", stdin: "ignore" });
  const [out, err, code] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ]);
  return { code, text: out + err };
}

async function publish(name, version, more = {}) {
  const at = join(folder, "published", `${name.replace("/", "-")}-${version}`);
  await mkdir(at, { recursive: true });
  await Bun.write(join(at, "package.json"), JSON.stringify({ name, version, ...more }));
  await Bun.write(join(at, ".npmrc"), `registry=${registry}\n${registry.replace("http:", "")}:_authToken=anybody\n`);
  const { code, text } = await run([process.execPath, "publish"], at);
  expect(code, text).toBe(0);
}

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "bun-scanner-"));
  const port = await freePort();
  registry = `http://127.0.0.1:${port}/`;
  const config = `storage: ${folder}/storage
auth: { htpasswd: { file: ${folder}/htpasswd } }
packages: { '**': { access: $all, publish: $all } }
log: { type: stdout, level: warn }
`;
  await Bun.write(join(folder, "config.yaml"), config);
  const program = join(import.meta.dir, "node_modules", "verdaccio", "bin", "verdaccio");
  verdaccio = Bun.spawn(["node", program, "--config", join(folder, "config.yaml"), "--listen", `127.0.0.1:${port}`], {
    stdout: "ignore",
    stderr: "inherit",
  });
  const deadline = Date.now() + 60_000;
  while (!(await fetch(`${registry}-/ping`).then((answer) => answer.ok, () => false))) {
    if (Date.now() > deadline || verdaccio.exitCode !== null) throw new Error("verdaccio does not start: run `npm install` in test/");
    await Bun.sleep(50);
  }
  await publish("calm", "1.0.0");
  await publish("client", "1.14.1", { dependencies: { calm: "1.0.0" } });
  await publish("@corp/secret", "1.0.0");
}, 90_000);

afterAll(async () => {
  verdaccio?.kill();
  await verdaccio?.exited;
  await rm(folder, { recursive: true, force: true });
});

async function install(dependencies, server, more = {}) {
  const project = await mkdtemp(join(folder, "project-"));
  await Bun.write(join(project, "package.json"), JSON.stringify({ name: "project", dependencies }));
  // As README.md says: a copy of these files in the project, and a path that is relative to it.
  const copy = "publication-insights-bun-scanner";
  for (const file of ["index.js", "rules.js", "service.js", "tarball.js", "package.json"]) {
    await cp(join(scannerFolder, file), join(project, copy, file));
  }
  const bunfig = `[install]\nregistry = "${registry}"\n\n[install.security]\nscanner = "./${copy}/index.js"\n`;
  await Bun.write(join(project, "bunfig.toml"), bunfig);
  const result = await run([process.execPath, "install"], project, { PUBLICATION_INSIGHTS_URL: server.url, ...more });
  const has = (name) => Bun.file(join(project, "node_modules", name, "package.json")).exists();
  return { ...result, installed: await Promise.all(Object.keys(dependencies).map(has)) };
}

const hosts = () => [registry.slice("http://".length, -1)];

test("what breaks no rule is installed", async () => {
  const server = service(hosts(), { "calm 1.0.0": {}, "client 1.14.1": {} });
  const { code, text, installed } = await install({ client: "1.14.1" }, server);
  server.stop();
  expect(code, text).toBe(0);
  expect(installed).toEqual([true]);
  expect(server.asked.sort()).toEqual(["calm 1.0.0", "client 1.14.1"]);
}, 60_000);

test("an error ends the installation", async () => {
  const server = service(hosts(), { "calm 1.0.0": {}, "client 1.14.1": { weaker: true, tfa: false } });
  const { code, text, installed } = await install({ client: "1.14.1" }, server);
  server.stop();
  expect(code).not.toBe(0);
  expect(text).toContain("weaker: client 1.14.1");
  expect(installed).toEqual([false]);
}, 60_000);

test("a package of another registry is not asked about", async () => {
  const server = service(["registry.example"], {});
  const { code, text, installed } = await install({ "@corp/secret": "1.0.0" }, server);
  server.stop();
  expect(code, text).toBe(0);
  expect(installed).toEqual([true]);
  expect(server.asked).toEqual([]);
}, 60_000);

test("a service that is away ends the installation where it is wanted", async () => {
  const away = { url: "http://127.0.0.1:1" };
  const { code, text } = await install({ calm: "1.0.0" }, away, { PUBLICATION_INSIGHTS_UNANSWERED: "fatal" });
  expect(code).not.toBe(0);
  expect(text).toContain("not answered");
}, 60_000);
