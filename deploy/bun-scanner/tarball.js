// Finds the packages of the deployment's registry, and the name and version in the address of a tarball. The rules are those
// of publication-audit (crates/audit/src/location.rs).

// "HOST[:PORT][/PATH]" or an address, as { host, port, path }; the default port is "".
export function host(text) {
  const url = URL.parse(text.includes("://") ? text.trim() : `https://${text.trim()}`);
  if (!url || !isHttp(url) || !url.hostname || url.username || url.password || url.search || url.hash) {
    throw new Error(`publication-insights: not a registry's host: ${JSON.stringify(text)}`);
  }
  const path = url.pathname.endsWith("/") ? url.pathname : `${url.pathname}/`;
  return { host: url.hostname, port: url.port, path };
}

function isHttp(url) {
  return url.protocol === "https:" || url.protocol === "http:";
}

// The part of a tarball's path after the registry's path; null if the tarball is not from the registry.
function restOf(tarball, hosts) {
  const url = typeof tarball === "string" ? URL.parse(tarball) : null;
  if (!url || !isHttp(url)) return null;
  const rests = hosts
    .filter(({ host, port, path }) => url.hostname === host && url.port === port && url.pathname.startsWith(path))
    .map(({ path }) => url.pathname.slice(path.length))
    .sort((one, other) => one.length - other.length);
  return rests.length > 0 ? rests[0] : null;
}

export function isFrom(tarball, hosts) {
  return restOf(tarball, hosts) !== null;
}

// { name, version } of NAME/-/NAME-VERSION.tgz or download/@SCOPE/NAME/VERSION/…; null for any other path.
export function packageOf(tarball, hosts) {
  let segments;
  try {
    segments = restOf(tarball, hosts).split("/").filter((segment) => segment !== "").map(decodeURIComponent);
  } catch {
    return null;
  }
  const download = segments.findIndex((segment, at) => segment === "download" && segments[at + 1]?.startsWith("@"));
  if (download >= 0 && segments.length >= download + 5) {
    const [scope, name, version] = segments.slice(download + 1);
    return { name: `${scope}/${name}`, version };
  }
  const dash = segments.lastIndexOf("-");
  if (dash < 1 || dash === segments.length - 1) return null;
  const scope = segments[dash - 2];
  const last = segments[dash - 1];
  const name = scope?.startsWith("@") && !last.includes("/") ? `${scope}/${last}` : last;
  const base = name.slice(name.lastIndexOf("/") + 1);
  const file = segments.at(-1).split("/").at(-1);
  const stem = file.endsWith(".tgz") ? file.slice(0, -4) : file.endsWith(".tar.gz") ? file.slice(0, -7) : null;
  if (stem === null || !stem.startsWith(`${base}-`)) return null;
  const version = stem.slice(base.length + 1);
  return version === "" ? null : { name, version };
}
