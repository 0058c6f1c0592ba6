"""gql: python3 python.py http://127.0.0.1:8080/graphql"""

import sys

from gql import Client, gql
from gql.transport.exceptions import TransportQueryError
from gql.transport.requests import RequestsHTTPTransport

# The schema is fetched by introspection, and documents are validated against it.
client = Client(transport=RequestsHTTPTransport(url=sys.argv[1]), fetch_schema_from_transport=True)


def ask(document, **variables):
    query = gql(document)
    query.variable_values = variables
    return client.execute(query)


seed = ask('{ package(name: "pg", version: "7.12.0") { publicationInfo { username tor tfa } } }')
assert seed["package"]["publicationInfo"] == {"username": "brianc", "tor": False, "tfa": True}, seed

refs = [{"name": f"package-{n}", "version": "1.0.0" if n % 3 else "none"} for n in range(300)]
many = ask("query ($refs: [PackageRef!]!) { packages(refs: $refs) { name } }", refs=refs)["packages"]
assert [found and found["name"] for found in many] == [f"package-{n}" if n % 3 else None for n in range(300)]

PAGE = """query ($after: String) { publications(first: 100, after: $after, order: OLDEST_FIRST) {
    edges { node { id } } pageInfo { hasNextPage endCursor } } }"""
names, after = set(), None
while True:
    page = ask(PAGE, after=after)["publications"]
    names |= {edge["node"]["id"] for edge in page["edges"]}
    if not page["pageInfo"]["hasNextPage"]:
        break
    after = page["pageInfo"]["endCursor"]
assert len(names) == 302, len(names)

silent = ask('{ package(name: "silent", version: "1.0.0") { publicationInfo { username tor tfa } } }')
assert silent["package"]["publicationInfo"] == {"username": None, "tor": None, "tfa": None}, silent

try:
    ask("{ publications(first: 101) { edges { cursor } } }")
    sys.exit("an error is to be an error")
except TransportQueryError as error:
    assert error.errors[0]["extensions"]["code"] == "BAD_USER_INPUT", error.errors
print("gql")
