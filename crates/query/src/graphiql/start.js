// Opens GraphiQL for this service, with an example query or with the query in the URL.
const defaultQuery = `# Was this version published over Tor?
# Was a second factor verified?
# null means that it was not determined.
query {
  package(name: "pg", version: "7.12.0") {
    publicationInfo {
      username
      tor
      tfa
    }
  }
}
`;
const given = new URLSearchParams(window.location.search);

ReactDOM.createRoot(document.getElementById("graphiql")).render(
  React.createElement(GraphiQL, {
    fetcher: GraphiQL.createFetcher({ url: "/graphql" }),
    defaultQuery,
    query: given.get("query") ?? undefined,
    variables: given.get("variables") ?? undefined,
    defaultEditorToolsVisibility: "variables",
  }),
);
