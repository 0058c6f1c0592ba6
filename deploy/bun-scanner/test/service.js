// A service that gives the API's answers, for the tests.

// `rows` has a publication's facts by "name version"; other packages have no record. `fault` may answer instead.
export function service(hosts, rows, fault = () => null) {
  const asked = [];
  const requests = [];
  const server = Bun.serve({
    port: 0,
    hostname: "127.0.0.1",
    async fetch(request) {
      const body = await request.json();
      requests.push(request);
      const early = fault(body, request);
      if (early) return early;
      if (!body.variables) return Response.json({ data: { registry: { ecosystem: "npm", hosts } } });
      const packages = body.variables.refs.map(({ name, version }) => {
        asked.push(`${name} ${version}`);
        const row = rows[`${name} ${version}`];
        return row ? { name, version, ...publication(row) } : null;
      });
      return Response.json({ data: { packages } });
    },
  });
  return { url: `http://127.0.0.1:${server.port}`, asked, requests, stop: () => server.stop(true) };
}

function publication(row) {
  const { weaker = false, newPublisher = false, publisherLast = null, strongest = null, ...info } = row;
  const usual = { username: "made-up", created: "2026-01-02T03:04:05.678Z", tor: false, tfa: true, disputed: false };
  return { publicationInfo: { ...usual, ...info }, history: { weaker, newPublisher, publisherLast, strongest } };
}
