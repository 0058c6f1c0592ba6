// Compiled by relay-compiler; the fragment's refetch query asks `node(id:)`.
import { graphql } from "relay-runtime";

export const fragment = graphql`
  fragment queries_package on Package @refetchable(queryName: "queriesRefetchQuery") {
    id
    name
    publicationInfo { username tor tfa }
  }
`;

export const seed = graphql`
  query queriesSeedQuery {
    package(name: "pg", version: "7.12.0") { ...queries_package id }
  }
`;

export const feed = graphql`
  query queriesFeedQuery($count: Int!, $cursor: String) {
    publications(first: $count, after: $cursor, order: OLDEST_FIRST) {
      edges { cursor node { id name } }
      pageInfo { hasNextPage endCursor }
    }
  }
`;

export const many = graphql`
  query queriesManyQuery($refs: [PackageRef!]!) {
    packages(refs: $refs) { id name }
  }
`;

export const nulls = graphql`
  query queriesNullsQuery {
    package(name: "silent", version: "1.0.0") { id publicationInfo { username tor tfa } }
    none: package(name: "none", version: "1") { id }
  }
`;

export const wrong = graphql`
  query queriesWrongQuery {
    publications(first: 101) { edges { cursor } }
  }
`;
