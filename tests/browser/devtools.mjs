// Controls a headless Chromium with the DevTools protocol over a pipe, which needs no npm package.
import { spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const PATIENCE = 60_000;

// Starts the program, opens an empty page, passes it to `look`, prints the result of `look` as JSON, and exits.
export async function inBrowser(program, look) {
  const profile = mkdtempSync(join(tmpdir(), "browser-"));
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
  let code = 0;
  try {
    console.log(JSON.stringify(await look(await Page.open(browser.stdio[3], browser.stdio[4]))));
  } catch (error) {
    console.error(String(error));
    code = 1;
  }
  browser.on("exit", () => {
    rmSync(profile, { recursive: true, force: true, maxRetries: 5 });
    process.exit(code);
  });
  browser.kill();
}

class Page {
  // The URLs that the page requested, and its errors: exceptions, and violations of its content security policy.
  requests = new Set();
  errors = [];
  #toBrowser;
  #waiting = new Map();
  #last = 0;
  #loads = 0;
  #session;

  static async open(toBrowser, fromBrowser) {
    const page = new Page();
    page.#toBrowser = toBrowser;
    let rest = "";
    fromBrowser.setEncoding("utf8");
    fromBrowser.on("data", (text) => {
      const parts = (rest + text).split("\0");
      rest = parts.pop();
      for (const part of parts) page.#received(JSON.parse(part));
    });
    const { targetId } = await page.send("Target.createTarget", { url: "about:blank" });
    const { sessionId } = await page.send("Target.attachToTarget", { targetId, flatten: true });
    page.#session = sessionId;
    for (const domain of ["Network", "Page", "Runtime", "Log"]) await page.send(`${domain}.enable`);
    await page.send("Emulation.setFocusEmulationEnabled", { enabled: true });
    return page;
  }

  send(method, params = {}) {
    this.#last += 1;
    const id = this.#last;
    this.#toBrowser.write(`${JSON.stringify({ id, method, params, sessionId: this.#session })}\0`);
    return new Promise((resolve, reject) => this.#waiting.set(id, { resolve, reject }));
  }

  #received(message) {
    const { id, method, params } = message;
    if (id !== undefined) {
      const { resolve, reject } = this.#waiting.get(id);
      this.#waiting.delete(id);
      if (message.error) reject(new Error(message.error.message));
      else resolve(message.result);
    } else if (method === "Network.requestWillBeSent") {
      const { url } = params.request;
      // Inline fonts and icons in the style sheet cause no network request.
      if (!url.startsWith("data:")) this.requests.add(url);
    } else if (method === "Page.loadEventFired") {
      this.#loads += 1;
    } else if (method === "Runtime.exceptionThrown") {
      this.errors.push(params.exceptionDetails.text);
    } else if (method === "Log.entryAdded" && params.entry.level === "error") {
      this.errors.push(`${params.entry.text} ${params.entry.url ?? ""}`);
    }
  }

  // Evaluates an expression in the page. A promise is awaited.
  async evaluate(expression) {
    const wanted = { expression, awaitPromise: true, returnByValue: true };
    const { result, exceptionDetails } = await this.send("Runtime.evaluate", wanted);
    if (exceptionDetails) throw new Error(exceptionDetails.exception?.description ?? exceptionDetails.text);
    return result.value;
  }

  // Polls `look` until it returns a value, and returns that value.
  async #until(what, look) {
    const began = Date.now();
    for (;;) {
      const value = await look();
      if (value) return value;
      if (Date.now() - began > PATIENCE) throw new Error(`no ${what}; errors: ${this.errors.join("; ")}`);
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }

  // Polls an expression in the page until it has a value, and returns that value.
  eventually(what, expression) {
    return this.#until(what, () => this.evaluate(expression));
  }

  async open(url) {
    const before = this.#loads;
    const { errorText } = await this.send("Page.navigate", { url });
    if (errorText) throw new Error(`${url}: ${errorText}`);
    await this.#until(url, () => this.#loads > before);
  }

  async press(key, code, text = undefined) {
    for (const type of ["keyDown", "keyUp"]) {
      await this.send("Input.dispatchKeyEvent", { type, key, code: key, windowsVirtualKeyCode: code, text });
    }
  }
}
