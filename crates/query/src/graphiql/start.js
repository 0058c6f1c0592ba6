// Opens GraphiQL on this service, with a first query ready to run.
const defaultQuery = `# Was this version published over Tor? Was a second factor verified?
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

ReactDOM.createRoot(document.getElementById("graphiql")).render(
  React.createElement(GraphiQL, {
    fetcher: GraphiQL.createFetcher({ url: "/graphql" }),
    defaultQuery,
    defaultEditorToolsVisibility: "variables",
  }),
);
