// Finds the packages of the deployment's registry, and the name and version in the address of a tarball. The rules are those
// of publication-audit (crates/audit/src/location.rs).

// "HOST[:PORT][/PATH]" or an address, as { host, port, path }; the default port is "".
export function host(text) {
  const hasScheme = text.includes("://");
  const url = URL.parse(hasScheme ? text.trim() : `http://${text.trim()}`);
  if (!url || !isHttp(url) || !url.hostname || url.username || url.password || url.search || url.hash) {
    // Without the text, which may have a password.
    throw new Error("publication-insights: a registry's host must be HOST[:PORT][/PATH]");
  }
  // Without a scheme, the default ports are those of both.
  const port = hasScheme || url.port !== "443" ? url.port : "";
  return { host: withoutDot(url.hostname), port, path: segments(url.pathname) };
}

function withoutDot(hostname) {
  return hostname.replace(/\.$/, "");
}

// The decoded parts of a path, as servers read it: neither `%65` for `e` nor a second slash leads elsewhere.
function segments(path) {
  const bytes = path.replace(/(%[0-9a-f]{2})+/gi, (text) =>
    new TextDecoder().decode(Uint8Array.from(text.slice(1).split("%"), (byte) => parseInt(byte, 16))),
  );
  return bytes.split("/").filter((segment) => segment !== "");
}

function isHttp(url) {
  return url.protocol === "https:" || url.protocol === "http:";
}

// The part of a tarball's path after the registry's path; null if the tarball is not from the registry.
function restOf(tarball, hosts) {
  const url = typeof tarball === "string" ? URL.parse(tarball) : null;
  if (!url || !isHttp(url)) return null;
  const parts = segments(url.pathname);
  // An encoded `..` may lead out of the registry's path.
  if (parts.some((part) => part === "." || part === "..")) return null;
  const isBelow = (path) => path.every((part, at) => part === parts[at]);
  const rests = hosts
    .filter(({ host, port, path }) => withoutDot(url.hostname) === host && url.port === port && isBelow(path))
    .map(({ path }) => parts.slice(path.length))
    .sort((one, other) => one.length - other.length);
  return rests.length > 0 ? rests[0] : null;
}

export function isFrom(tarball, hosts) {
  return restOf(tarball, hosts) !== null;
}

// { name, version } of NAME/-/NAME-VERSION.tgz or download/@SCOPE/NAME/VERSION/…; null for any other path.
export function packageOf(tarball, hosts) {
  const rest = restOf(tarball, hosts);
  const download = rest.findIndex((part, at) => part === "download" && rest[at + 1]?.startsWith("@"));
  if (download >= 0 && rest.length >= download + 5) {
    const [scope, name, version] = rest.slice(download + 1);
    return { name: `${scope}/${name}`, version };
  }
  const dash = rest.lastIndexOf("-");
  if (dash < 1 || dash === rest.length - 1) return null;
  const scope = rest[dash - 2];
  const base = rest[dash - 1];
  const name = scope?.startsWith("@") ? `${scope}/${base}` : base;
  const file = rest.at(-1);
  const stem = file.endsWith(".tgz") ? file.slice(0, -4) : file.endsWith(".tar.gz") ? file.slice(0, -7) : null;
  if (stem === null || !stem.startsWith(`${base}-`)) return null;
  const version = stem.slice(base.length + 1);
  return version === "" ? null : { name, version };
}
