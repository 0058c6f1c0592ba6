// The rules of publication-audit (crates/audit/README.md) that need no lockfile: `error` is Bun's `fatal`.

const DEFAULTS = {
  tor: "error",
  weaker: "error",
  location: "error",
  "new-publisher": "warn",
  "returning-publisher": "warn",
  disputed: "warn",
  unknown: "warn",
  "no-second-factor": "off",
};
const ADVISORY = { error: "fatal", warn: "warn" };
const YEAR = 365 * 86_400_000;

// Reads "RULE=LEVEL,…" into a function from a rule's name to Bun's level, or null if the rule is off.
export function levels(text) {
  const chosen = { ...DEFAULTS };
  for (const item of text.split(",").map((item) => item.trim()).filter(Boolean)) {
    const [rule, level] = item.split("=").map((part) => part.trim());
    if (!Object.hasOwn(chosen, rule) || !["error", "warn", "off"].includes(level)) {
      throw new Error(`publication-insights: PUBLICATION_INSIGHTS_RULES has ${JSON.stringify(item)}`);
    }
    chosen[rule] = level;
  }
  return (rule) => ADVISORY[chosen[rule]] ?? null;
}

// The broken rules of one package. `answer` is the service's answer, null if it has no record.
export function advisories({ name, version, listed, disagrees }, answer, levelOf, url) {
  const broken = [];
  if (disagrees) {
    broken.push(["location", `listed as ${listed.name} ${listed.version}, but its tarball is another package's or unnamed`]);
  }
  const info = answer?.publicationInfo;
  if (info) {
    broken.push(...facts(info, answer.history));
  } else {
    broken.push(["unknown", "no publication is on record"]);
  }
  return broken
    .filter(([rule]) => levelOf(rule) !== null)
    .map(([rule, text]) => ({
      level: levelOf(rule),
      package: printable(name),
      url: pageOf(url, name),
      description: printable(`${rule}: ${name} ${version}: ${text}`),
    }));
}

function facts(info, history) {
  const who = info.username ?? "an account that is not known";
  const when = info.created ? ` on ${info.created.slice(0, 10)}` : "";
  const broken = [];
  if (info.tor === true) broken.push(["tor", `published over Tor${when} by ${who}`]);
  if (history.weaker === true) {
    const before = history.strongest ? `; ${history.strongest.version} was not` : "";
    broken.push(["weaker", `published with a single factor${when} by ${who}${before}`]);
  }
  if (history.newPublisher === true) broken.push(["new-publisher", `first publication of this package by ${who}${when}`]);
  if (info.created && history.publisherLast && Date.parse(info.created) - Date.parse(history.publisherLast) > YEAR) {
    broken.push(["returning-publisher", `${who} last published it on ${history.publisherLast.slice(0, 10)}`]);
  }
  if (info.disputed) broken.push(["disputed", "the registry's records contradict each other"]);
  if (info.tor === null || info.tfa === null) broken.push(["unknown", "it is not known how it was published"]);
  if (info.tfa === false) broken.push(["no-second-factor", `published without a second factor${when} by ${who}`]);
  return broken;
}

// The page of a package on the service.
function pageOf(url, name) {
  return new URL(`package/${encodeURIComponent(name)}`, url).href;
}

// Names come from outside and are shown on a terminal.
function printable(text) {
  return text.replace(/[\p{Cc}\p{Cf}\u2028\u2029]/gu, (letter) => `\\u{${letter.codePointAt(0).toString(16)}}`);
}
