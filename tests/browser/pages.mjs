// Opens pages in a headless Chromium, in both colour schemes, in a wide and a 320 pixel window, and prints measurements and
// the violations that axe-core finds, as JSON. With a folder it also writes screenshots, including one of the print layout.
// node pages.mjs PROGRAM URL PATHS [FOLDER], where PATHS is a JSON array
import { readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { inBrowser } from "./devtools.mjs";

const [program, url, listed, folder] = process.argv.slice(2);
const paths = JSON.parse(listed);
const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const WIDTHS = [320, 1280];
const SCHEMES = ["light", "dark"];
const METRICS = { height: 800, deviceScaleFactor: 1, mobile: false };
const TAB = ["Tab", 9];

// Measurements of the open page that need no script in it.
const SEEN = `({
  scripts: document.scripts.length,
  handlers: [...document.querySelectorAll("*")].flatMap((element) =>
    element.getAttributeNames().filter((name) => name.startsWith("on"))),
  ground: getComputedStyle(document.body).backgroundColor,
  heading: document.querySelector("h1").textContent,
  overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
  cutOff: [...document.querySelectorAll("body *:not(input, thead)")].filter((element) =>
    getComputedStyle(element).overflowX !== "visible" && element.scrollWidth > element.clientWidth)
    .map((element) => element.localName),
})`;
const VIOLATIONS = `axe.run(document, { resultTypes: ["violations"] }).then(({ violations }) =>
  violations.flatMap(({ id, nodes }) => nodes.map((node) => id + ": " + node.html + " " + node.failureSummary)))`;
// The focused element, and whether its focus is visible.
const FOCUS = `(() => {
  const element = document.activeElement;
  if (element === document.body) return null;
  const { outlineStyle, outlineWidth } = getComputedStyle(element);
  const name = element.id || element.getAttribute("href") || element.localName;
  return { name, isVisible: outlineStyle !== "none" && outlineWidth !== "0px" };
})()`;
const FOCUSABLE = `document.querySelectorAll("a[href], input, button, [tabindex='0']").length`;

async function picture(page, name) {
  const { cssContentSize } = await page.send("Page.getLayoutMetrics");
  const clip = { ...cssContentSize, height: Math.min(cssContentSize.height, 4_000), scale: 1 };
  const { data } = await page.send("Page.captureScreenshot", { clip, captureBeyondViewport: true });
  writeFileSync(join(folder, `${name}.png`), Buffer.from(data, "base64"));
}

async function looks(page) {
  const seen = [];
  for (const path of paths) {
    for (const width of WIDTHS) {
      await page.send("Emulation.setDeviceMetricsOverride", { ...METRICS, width });
      for (const scheme of SCHEMES) {
        const features = [{ name: "prefers-color-scheme", value: scheme }];
        await page.send("Emulation.setEmulatedMedia", { media: "screen", features });
        await page.open(url + path);
        const found = await page.evaluate(SEEN);
        await page.evaluate(axe);
        seen.push({ path, width, scheme, ...found, violations: await page.evaluate(VIOLATIONS) });
        if (folder) await picture(page, `${seen.length}-${width}-${scheme}`);
      }
    }
    if (folder) {
      // The width of an A4 sheet. The print layout is always light.
      await page.send("Emulation.setDeviceMetricsOverride", { ...METRICS, width: 794 });
      await page.send("Emulation.setEmulatedMedia", { media: "print", features: [] });
      await picture(page, `${seen.length}-print`);
    }
  }
  await page.send("Emulation.setEmulatedMedia", { media: "screen", features: [] });
  return seen;
}

// The elements that the Tab key reaches.
async function keyboard(page, path) {
  await page.open(url + path);
  const reached = [];
  for (let left = await page.evaluate(FOCUSABLE); left > 0; left -= 1) {
    await page.press(...TAB);
    reached.push(await page.evaluate(FOCUS));
  }
  return reached;
}

// Searches for a package with the keyboard only.
async function search(page, prefix) {
  await page.open(`${url}/`);
  while ((await page.evaluate(FOCUS))?.name !== "prefix") await page.press(...TAB);
  await page.send("Input.insertText", { text: prefix });
  await page.press("Enter", 13, "\r");
  const found = `location.search !== "" && document.readyState === "complete" && document.querySelector("h1").textContent`;
  return { heading: await page.eventually("search", found), address: await page.evaluate("location.search") };
}

await inBrowser(program, async (page) => {
  const seen = await looks(page);
  const reached = {};
  for (const path of paths) reached[path] = await keyboard(page, path);
  return { seen, reached, search: await search(page, "sto"), requests: [...page.requests], errors: page.errors };
});
