// A Security Scanner for Bun: asks how each package was published before Bun installs it.
// Configured by the environment, see README.md.

import { advisories, levels } from "./rules.js";
import { ask, hostsOf, settings, Unanswered } from "./service.js";
import { isFrom, packageOf } from "./tarball.js";

export const scanner = {
  version: "1",
  async scan({ packages }) {
    const { url, token, registry, unanswered, rules, timeout } = settings(process.env);
    const levelOf = levels(rules);
    const limit = { signal: AbortSignal.timeout(timeout), until: Date.now() + timeout };
    const found = [];
    try {
      const hosts = [...registry, ...(await hostsOf(url, token, limit))];
      if (hosts.length === 0) {
        throw new Unanswered("neither the service nor PUBLICATION_INSIGHTS_REGISTRY names a host of the registry");
      }
      const subjects = subjectsOf(packages, hosts);
      const answers = await ask(url, token, [...subjects.values()], limit);
      for (const [index, subject] of [...subjects.values()].entries()) {
        if (answers[index] instanceof Unanswered) {
          found.push(missing(subject.name, unanswered, answers[index]));
        } else {
          found.push(...advisories(subject, answers[index], levelOf, url));
        }
      }
    } catch (error) {
      // A defect of the scanner must not look like an answer of the service: Bun ends the installation and shows the error.
      if (!(error instanceof Unanswered)) throw error;
      found.push(missing("(all packages)", unanswered, error));
    }
    return found;
  },
};

// The packages to ask about: tarballs of the deployment's registry, each package and version once. Others may be private.
function subjectsOf(packages, hosts) {
  const subjects = new Map();
  for (const { name, version, tarball } of packages) {
    if (!isFrom(tarball, hosts)) continue;
    const real = packageOf(tarball, hosts);
    const subject = real
      ? { ...real, listed: { name, version }, disagrees: real.version !== version || real.name !== name }
      : { name, version, listed: { name, version }, disagrees: true };
    const key = JSON.stringify([subject.name, subject.version]);
    const known = subjects.get(key);
    if (!known || (subject.disagrees && !known.disagrees)) subjects.set(key, subject);
  }
  return subjects;
}

function missing(name, level, error) {
  return {
    level,
    package: name,
    url: null,
    description: `publication-insights: not answered, ${error.message}`,
  };
}
