use std::sync::atomic::Ordering;

use model::{PackageName, Username};
use store::{Filter, Flag, Order};

use super::*;
use crate::config::QuerySettings;
use crate::error::Exceeded;
use crate::testing::{Memory, admission, client, executor, run, run_admitted};

async fn data(text: &str, variables: &str) -> String {
    run(&executor(Limits::default()).0, text, variables).await.unwrap()
}

async fn refused(text: &str, variables: &str) -> QueryError {
    run(&executor(Limits::default()).0, text, variables).await.unwrap_err().remove(0)
}

#[tokio::test]
async fn the_seed_s_query_answers_byte_for_byte() {
    let query = r#"query { package(name: "pg", version: "7.12.0") { publicationInfo { username tor tfa } } }"#;
    let expected =
        r#"{"data":{"package":{"publicationInfo":{"username":"brianc","tor":false,"tfa":true}}}}"#;
    assert_eq!(data(query, "{}").await, expected);
}

#[tokio::test]
async fn every_field_has_its_value() {
    let query = r#"{ package(name: "pg", version: "7.12.0") { __typename name version purl publicationInfo {
        __typename username created tor tfa torReason torSettled tfaReason credential actor disputed method } } __typename }"#;
    assert_eq!(
        data(query, "{}").await,
        r#"{"data":{"package":{"__typename":"Package","name":"pg","version":"7.12.0","purl":"pkg:npm/pg@7.12.0","publicationInfo":{"__typename":"PublicationInfo","username":"brianc","created":"2019-07-25T18:09:11.204Z","tor":false,"tfa":true,"torReason":"NOT_LISTED","torSettled":true,"tfaReason":"SECOND_FACTOR","credential":"SESSION_TOKEN","actor":"USER","disputed":false,"method":"SECOND_FACTOR"}},"__typename":"Query"}}"#
    );
    let query = r#"{ package(name: "@scope/x", version: "1.0.0+b") { purl publicationInfo { username tor tfa } } }"#;
    assert_eq!(
        data(query, "{}").await,
        r#"{"data":{"package":{"purl":"pkg:npm/%40scope/x@1.0.0%2Bb","publicationInfo":{"username":null,"tor":null,"tfa":null}}}}"#
    );
}

/// A schema field that the executor does not know would silently be missing from the answer.
#[tokio::test]
async fn no_field_of_the_schema_is_forgotten() {
    use apollo_compiler::schema::ExtendedType;
    let (executor, _) = executor(Limits::default());
    for (name, around) in [
        ("Package", "{ packages(refs: [{name: \"pg\", version: \"7.12.0\"}]) { # } }"),
        (
            "PublicationInfo",
            "{ package(name: \"pg\", version: \"7.12.0\") { publicationInfo { # } } }",
        ),
        ("Registry", "{ registry { # } }"),
        ("PublicationConnection", "{ publications(first: 1) { # } }"),
        ("PublicationEdge", "{ publications(first: 1) { edges { # } } }"),
        ("PageInfo", "{ publications(first: 1) { pageInfo { # } } }"),
    ] {
        let Some(ExtendedType::Object(definition)) = executor.schema.valid.types.get(name) else {
            panic!("{name}")
        };
        for field in definition.fields.values() {
            let inner = executor.schema.valid.types.get(field.ty.inner_named_type()).unwrap();
            let selection = if inner.is_object() {
                format!("{} {{ __typename }}", field.name)
            } else {
                field.name.to_string()
            };
            let body = run(&executor, &around.replace('#', &selection), "{}").await.unwrap();
            assert!(
                body.contains(&format!("\"{}\":", field.name)),
                "{name}.{}: {body}",
                field.name
            );
            let as_typename = format!("\"{}\":\"{name}\"", field.name);
            assert!(!body.contains(&as_typename), "{name}.{} has no entry", field.name);
        }
    }
}

#[tokio::test]
async fn names_are_exact_and_what_cannot_be_a_name_has_no_record() {
    let query = "query ($refs: [PackageRef!]!) { packages(refs: $refs) { name } }";
    let long = "a".repeat(513);
    let variables = format!(
        r#"{{"refs":[{{"name":"JSONStream","version":"1.0.0"}},{{"version":"1.0.0","name":"jsonstream"}},{{"name":"JsonStream","version":"1.0.0"}},{{"name":"{long}","version":"1"}},{{"name":"a\nb","version":"1"}},{{"name":"","version":"1"}},{{"name":"q\"uote\\","version":"1"}},{{"name":"%40scope/x","version":"1.0.0+b"}},{{"name":"@scope/x","version":"1.0.0+b"}}]}}"#
    );
    assert_eq!(
        data(query, &variables).await,
        r#"{"data":{"packages":[{"name":"JSONStream"},{"name":"jsonstream"},null,null,null,null,{"name":"q\"uote\\"},null,{"name":"@scope/x"}]}}"#
    );
}

#[tokio::test]
async fn purls_are_decoded_and_others_are_null() {
    let query = r#"{ packagesByPurl(purls: ["pkg:npm/%40scope/x@1.0.0%2Bb", "pkg:npm/@scope/x@1.0.0+b?a=b#c", "PKG:NPM/pg@7.12.0/",
        "pkg:pypi/pg@7.12.0", "pkg:npm/pg", "pg@7.12.0", ""]) { name } }"#;
    assert_eq!(
        data(query, "{}").await,
        r#"{"data":{"packagesByPurl":[{"name":"@scope/x"},{"name":"@scope/x"},{"name":"pg"},null,null,null,null]}}"#
    );
}

#[tokio::test]
async fn all_keys_of_an_operation_are_one_statement() {
    let (executor, memory) = executor(Limits::default());
    let query = r#"query ($refs: [PackageRef!]!) {
        a: package(name: "pg", version: "7.12.0") { name } b: package(name: "none", version: "1") { name }
        c: packages(refs: $refs) { version } d: packagesByPurl(purls: "pkg:npm/pg@7.12.0") { purl } }"#;
    let body = run(
        &executor,
        query,
        r#"{"refs":[{"name":"pg","version":"7.12.0"},{"name":"x","version":"1"}]}"#,
    )
    .await;
    assert_eq!(
        body.unwrap(),
        r#"{"data":{"a":{"name":"pg"},"b":null,"c":[{"version":"7.12.0"},null],"d":[{"purl":"pkg:npm/pg@7.12.0"}]}}"#
    );
    assert_eq!(memory.finds.load(Ordering::Relaxed), 1);
    run(&executor, "{ __typename }", "{}").await.unwrap();
    run(&executor, "query ($r: [PackageRef!]!) { packages(refs: $r) { name } }", r#"{"r":[]}"#)
        .await
        .unwrap();
    assert_eq!(memory.finds.load(Ordering::Relaxed), 1, "nothing to find, nothing asked");
}

#[tokio::test]
async fn five_thousand_keys_are_answered_and_one_more_is_refused_with_limit_and_count() {
    let (executor, memory) = executor(Limits::default());
    let query = "query ($refs: [PackageRef!]!) { packages(refs: $refs) { name } }";
    let variables = |count: usize| {
        let refs: Vec<String> =
            (0..count).map(|at| format!(r#"{{"name":"p{at}","version":"1"}}"#)).collect();
        format!(r#"{{"refs":[{}]}}"#, refs.join(","))
    };
    let body = run(&executor, query, &variables(5_000)).await.unwrap();
    assert_eq!(body.matches("null").count(), 5_000);
    assert_eq!(memory.finds.load(Ordering::Relaxed), 1);
    let error = run(&executor, query, &variables(5_001)).await.unwrap_err().remove(0);
    assert_eq!(error.code(), Code::LimitExceeded);
    assert_eq!(
        error.extensions.exceeded,
        Some(Exceeded { limit: "limits.max_refs", maximum: 5_000, actual: Some(5_001) })
    );
    assert!(
        error.message.contains("5001") && error.message.contains("limits.max_refs"),
        "{}",
        error.message
    );
    let often: String = (0..200).map(|n| format!("a{n}:packages(refs:$refs){{name}}")).collect();
    let often = format!("query ($refs: [PackageRef!]!) {{ {often} }}");
    let error = run(&executor, &often, &variables(5_000)).await.unwrap_err().remove(0);
    assert_eq!(error.extensions.exceeded.unwrap().actual, Some(1_000_000));
    let twice = "query ($refs: [PackageRef!]!) { a: packages(refs: $refs) { name } b: packages(refs: $refs) { name } }";
    let error = run(&executor, twice, &variables(2_501)).await.unwrap_err().remove(0);
    assert_eq!(error.extensions.exceeded.unwrap().actual, Some(5_002));
    assert_eq!(memory.finds.load(Ordering::Relaxed), 1, "refused before any work");
}

#[tokio::test]
async fn fragments_aliases_and_conditions_are_collected_in_order() {
    let query = r#"query ($yes: Boolean!, $no: Boolean = false) {
        ...P
        package(name: "pg", version: "7.12.0") { v: version ...N @include(if: $no) ... on Package @skip(if: $no) { purl } }
    }
    fragment P on Query { package(version: "7.12.0", name: "pg") { name @include(if: $yes) i: publicationInfo { tor } ...N } }
    fragment N on Package { name i: publicationInfo { tfa ... @skip(if: $yes) { actor } } }"#;
    assert_eq!(
        data(query, r#"{"yes":true}"#).await,
        r#"{"data":{"package":{"name":"pg","i":{"tor":false,"tfa":true},"v":"7.12.0","purl":"pkg:npm/pg@7.12.0"}}}"#
    );
    let query = "query ($no: Boolean!) { package(name: \"pg\", version: \"7.12.0\") { name @include(if: $no) } }";
    assert_eq!(data(query, r#"{"no":false}"#).await, r#"{"data":{"package":{}}}"#);
}

#[tokio::test]
async fn more_fields_than_are_searched_keep_their_order() {
    let fields: Vec<String> = (0..40).map(|at| format!("f{at}: name f{}: name", at / 2)).collect();
    let query =
        format!("{{ package(name: \"pg\", version: \"7.12.0\") {{ {} }} }}", fields.join(" "));
    let body = data(&query, "{}").await;
    let expected: Vec<String> = (0..40).map(|at| format!("\"f{at}\":\"pg\"")).collect();
    assert_eq!(body, format!("{{\"data\":{{\"package\":{{{}}}}}}}", expected.join(",")));
}

#[tokio::test]
async fn a_null_that_a_default_let_through_makes_its_field_null() {
    let query = r#"query ($n: String = "pg") { a: package(name: $n, version: "7.12.0") { name } __typename }"#;
    assert_eq!(data(query, "{}").await, r#"{"data":{"a":{"name":"pg"},"__typename":"Query"}}"#);
    assert_eq!(
        data(query, r#"{"n":null}"#).await,
        r#"{"data":{"a":null,"__typename":"Query"},"errors":[{"message":"argument `name` must not be null","locations":[{"line":1,"column":32}],"path":["a"],"extensions":{"code":"BAD_USER_INPUT"}}]}"#
    );
    // A non-null field without a value makes the whole data null.
    let query = r#"query ($p: String = "pkg:npm/pg@7.12.0") { packagesByPurl(purls: [$p]) { name } __typename }"#;
    assert!(data(query, "{}").await.contains(r#"[{"name":"pg"}]"#));
    let body = data(query, r#"{"p":null}"#).await;
    assert!(
        body.starts_with(r#"{"data":null,"#) && body.contains(r#""path":["packagesByPurl"]"#),
        "{body}"
    );
    let query = "query ($f: Int = 1) { publications(first: $f) { edges { cursor } } }";
    assert!(data(query, r#"{"f":null}"#).await.starts_with(r#"{"data":null,"#));
}

#[tokio::test]
async fn a_document_may_repeat_a_variable_and_a_purl_has_a_longest_length() {
    let query = "query($p: String!, $r: PackageRef!) {
        packagesByPurl(purls: [$p, $p]) { name } packages(refs: [$r, $r]) { name } }";
    let asked = async |qualifier: usize| {
        let purl = format!(r"\u0070kg:npm/pg@7.12.0?a={}", "b".repeat(qualifier));
        let reference = r#"{"name":"\u0070g","version":"7.12.0"}"#;
        data(query, &format!(r#"{{"p":"{purl}","r":{reference}}}"#)).await
    };
    let pg = r#"[{"name":"pg"},{"name":"pg"}]"#;
    for (qualifier, found) in [(8_000, pg), (9_000, "[null,null]")] {
        let expected = format!(r#"{{"data":{{"packagesByPurl":{found},"packages":{pg}}}}}"#);
        assert_eq!(asked(qualifier).await, expected);
    }
}

#[tokio::test]
async fn variables_are_coerced_and_never_quoted() {
    let refs = "query ($refs: [PackageRef!]!) { packages(refs: $refs) { name } }";
    let one = r#"{"refs":{"name":"pg","version":"7.12.0"}}"#;
    assert_eq!(
        data(refs, one).await,
        r#"{"data":{"packages":[{"name":"pg"}]}}"#,
        "a single value is a list of it"
    );
    for (variables, place) in [
        (r#"{"refs":[{"name":"hunter2"}]}"#, "$refs[0].version must be String!, and it is missing"),
        (
            r#"{"refs":[{"name":"a","version":"1"},{"name":"hunter2","version":1}]}"#,
            "$refs[1].version must be String!, and it is an integer",
        ),
        (
            r#"{"refs":[{"name":"a","version":"1","hunter":1}]}"#,
            "$refs[0].hunter must be a field of PackageRef",
        ),
        (r#"{"refs":[null]}"#, "$refs[0] must be PackageRef!, and it is null"),
        (r#"{"refs":"hunter2"}"#, "$refs must be PackageRef!, and it is a string"),
        (r#"{"refs":null}"#, "$refs must be [PackageRef!]!, and it is null"),
        ("{}", "$refs of type [PackageRef!]! has no value"),
        (r#"{"refs":1e999}"#, "$refs has a number out of range"),
        (r#"{"refs":{"name":"\ud800hunter2"}}"#, "$refs.name has a number out of range, or a text"),
    ] {
        let error = refused(refs, variables).await;
        assert_eq!(error.code(), Code::BadUserInput);
        assert!(
            error.message.contains(place) && !error.message.contains("hunter2"),
            "{}",
            error.message
        );
    }
    let first = "query ($n: Int!) { publications(first: $n) { edges { cursor } } }";
    assert!(data(first, r#"{"n":1.0}"#).await.contains("cursor"));
    for wrong in ["1.5", "\"1\"", "2147483648", "9223372036854775808", "1e10", "true"] {
        let variables = format!("{{\"n\":{wrong}}}");
        assert_eq!(refused(first, &variables).await.code(), Code::BadUserInput, "{wrong}");
    }
    let flag =
        "query ($f: PublicationFilter) { publications(first: 1, filter: $f) { edges { cursor } } }";
    assert_eq!(
        refused(flag, r#"{"f":{"tor":"yes"}}"#).await.message,
        "variable $f.tor must be one of YES, NO, UNKNOWN, and it is \"yes\""
    );
    assert_eq!(refused(flag, r#"{"f":{"disputed":1}}"#).await.code(), Code::BadUserInput);
}

#[tokio::test]
async fn pages_walk_through_every_row_once() {
    let (executor, _) = executor(Limits::default());
    let query = "query ($after: String) { publications(first: 2, after: $after) {
        edges { cursor node { name } } pageInfo { hasNextPage hasPreviousPage startCursor endCursor } } }";
    let mut names = Vec::new();
    let mut variables = "{}".to_owned();
    for page in 0.. {
        let body: serde_json::Value =
            serde_json::from_str(&run(&executor, query, &variables).await.unwrap()).unwrap();
        let connection = &body["data"]["publications"];
        let edges = connection["edges"].as_array().unwrap();
        names.extend(edges.iter().map(|edge| edge["node"]["name"].as_str().unwrap().to_owned()));
        let info = &connection["pageInfo"];
        assert_eq!(info["hasPreviousPage"], page > 0);
        assert_eq!(info["startCursor"], edges[0]["cursor"]);
        assert_eq!(info["endCursor"], edges[edges.len() - 1]["cursor"]);
        if info["hasNextPage"] == false {
            break;
        }
        variables = format!("{{\"after\":{}}}", info["endCursor"]);
    }
    assert_eq!(names, ["pg", "q\"uote\\", "jsonstream", "JSONStream", "@scope/x"]);
}

#[tokio::test]
async fn an_empty_page_has_no_cursors() {
    let (mut executor, _) = executor(Limits::default());
    executor.reader = Arc::new(Memory::default());
    let query = "{ publications(first: 1) { edges { cursor } pageInfo { hasNextPage hasPreviousPage startCursor endCursor } } }";
    assert_eq!(
        run(&executor, query, "{}").await.unwrap(),
        r#"{"data":{"publications":{"edges":[],"pageInfo":{"hasNextPage":false,"hasPreviousPage":false,"startCursor":null,"endCursor":null}}}}"#
    );
}

#[tokio::test]
async fn a_filter_reaches_the_store_whole() {
    let (executor, memory) = executor(Limits::default());
    let query = r#"query ($u: String, $none: String) { publications(first: 100, filter: { name: "pg", username: $u, tor: UNKNOWN, tfa: NO,
        disputed: true, createdAfter: "2019-07-25T00:00:00Z", createdBefore: $none }) { edges { cursor } } }"#;
    run(&executor, query, r#"{"u":"brianc"}"#).await.unwrap();
    let expected = Filter {
        name: PackageName::new("pg").ok(),
        username: Username::new("brianc").ok(),
        tor: Some(Flag::Unknown),
        tfa: Some(Flag::No),
        disputed: Some(true),
        created_after: Some(model::Timestamp::parse("2019-07-25T00:00:00Z").unwrap()),
        created_before: None,
        order: Order::NewestFirst,
    };
    assert_eq!(*memory.filter.lock(), Some(expected.clone()));
    let query = "query ($f: PublicationFilter!) { publications(first: 1, filter: $f) { edges { cursor } } }";
    let variables = r#"{"f":{"name":"pg","username":"brianc","tor":"UNKNOWN","tfa":"NO","disputed":true,"createdAfter":"2019-07-25T00:00:00Z","createdBefore":null}}"#;
    run(&executor, query, variables).await.unwrap();
    assert_eq!(*memory.filter.lock(), Some(expected));
}

#[tokio::test]
async fn what_can_be_no_name_lists_nothing() {
    let (executor, memory) = executor(Limits::default());
    let query =
        "query ($f: PublicationFilter) { publications(first: 1, filter: $f) { edges { cursor } } }";
    for filter in [r#"{"name":"a\u0000"}"#, r#"{"username":"a\u0000"}"#, r#"{"username":""}"#] {
        assert_eq!(
            run(&executor, query, &format!(r#"{{"f":{filter}}}"#)).await.unwrap(),
            r#"{"data":{"publications":{"edges":[]}}}"#
        );
    }
    assert_eq!(memory.lists.load(Ordering::Relaxed), 0);
    for prefix in [r"a\u0000", r"\u0000", r"a\u0007"] {
        let search = format!(r#"{{ search(prefix: "{prefix}", first: 1) }}"#);
        assert_eq!(run(&executor, &search, "{}").await.unwrap(), r#"{"data":{"search":[]}}"#);
    }
    let all = run(&executor, r#"{ search(prefix: "p", first: 9) }"#, "{}").await.unwrap();
    let after = r#"{ search(prefix: "p", after: "\u0000z", first: 9) }"#;
    assert_eq!(run(&executor, after, "{}").await.unwrap(), all);
}

/// Statements that may take long leave connections to look-ups.
#[tokio::test(start_paused = true)]
async fn look_ups_do_not_wait_behind_listings() {
    let (executor, _) = executor(Limits::default());
    let admission = admission();
    let mut listings = Vec::new();
    for _ in 0..QuerySettings::default().store.max_connections / 2 {
        listings.push(admission.of(client(1)).scan().await);
    }
    let run = async |query: &str| {
        let minute = std::time::Duration::from_secs(60);
        tokio::time::timeout(minute, run_admitted(&executor, &admission, query, "{}")).await
    };
    let one = r#"{ package(name: "pg", version: "7.12.0") { name } }"#;
    assert_eq!(run(one).await.unwrap().unwrap(), r#"{"data":{"package":{"name":"pg"}}}"#);
    for long in
        ["{ publications(first: 1) { edges { cursor } } }", r#"{ search(prefix: "p", first: 1) }"#]
    {
        assert!(run(long).await.is_err(), "{long}");
    }
}

#[tokio::test]
async fn arguments_out_of_range_are_refused_before_any_work() {
    for (arguments, message) in [
        ("first: 0", "argument `first` is 0, it must be 1 to 100"),
        ("first: 101", "argument `first` is 101, it must be 1 to 100"),
        ("first: -1", "argument `first` is -1, it must be 1 to 100"),
        ("first: 1, after: \"x\"", "argument `after` is not a cursor of this service"),
        (
            "first: 1, filter: { createdAfter: \"yesterday\" }",
            "`createdAfter` of the filter is not an RFC 3339 time",
        ),
    ] {
        let error =
            refused(&format!("{{ publications({arguments}) {{ edges {{ cursor }} }} }}"), "{}")
                .await;
        assert_eq!((error.code(), error.message.as_str()), (Code::BadUserInput, message));
    }
    let pages: Vec<String> = (0..11)
        .map(|at| format!("p{at}: publications(first: 1) {{ edges {{ cursor }} }}"))
        .collect();
    let error = refused(&format!("{{ {} }}", pages.join(" ")), "{}").await;
    assert_eq!(
        error.extensions.exceeded,
        Some(Exceeded { limit: "limits.max_pages", maximum: 10, actual: Some(11) })
    );
}

#[tokio::test]
async fn the_introspection_stands_in_the_order_of_the_fields() {
    let query = r#"{ package(name: "none", version: "1") { name } __schema { queryType { name } } __typename
        t: __type(name: "Flag") { enumValues { name } } }"#;
    assert_eq!(
        data(query, "{}").await,
        r#"{"data":{"package":null,"__schema":{"queryType":{"name":"Query"}},"__typename":"Query","t":{"enumValues":[{"name":"YES"},{"name":"NO"},{"name":"UNKNOWN"}]}}}"#
    );
    let query = "query ($n: String!) { __type(name: $n) { kind } }";
    assert_eq!(data(query, r#"{"n":"Flag"}"#).await, r#"{"data":{"__type":{"kind":"ENUM"}}}"#);
    let query = r#"query ($n: String = "Flag") { t: __type(name: $n) { kind } }"#;
    let answer = data(query, r#"{"n":null}"#).await;
    assert!(answer.contains(r#""path":["t"]"#), "{answer}");
}

#[tokio::test]
async fn a_long_answer_is_refused_and_not_sent_in_part() {
    let (executor, _) =
        executor(Limits { max_answer: bytesize::ByteSize::b(100), ..Limits::default() });
    let fields: Vec<String> = (0..20).map(|at| format!("f{at}: name")).collect();
    let query =
        format!("{{ package(name: \"pg\", version: \"7.12.0\") {{ {} }} }}", fields.join(" "));
    let error = run(&executor, &query, "{}").await.unwrap_err().remove(0);
    assert_eq!(error.extensions.exceeded.unwrap().limit, "limits.max_answer");
    // The limit is exact to the byte.
    let whole = r#"{"data":{"__typename":"Query"}}"#;
    for (max_answer, is_given) in [(whole.len(), true), (whole.len() - 1, false)] {
        let max_answer = bytesize::ByteSize::b(max_answer as u64);
        let (executor, _) = self::executor(Limits { max_answer, ..Limits::default() });
        let answer = run(&executor, "{ __typename }", "{}").await;
        assert_eq!(answer.is_ok_and(|answer| answer == whole), is_given, "{max_answer}");
    }
}

#[tokio::test]
async fn the_store_s_own_words_are_not_sent() {
    let (executor, memory) = executor(Limits::default());
    memory.away.store(true, Ordering::Relaxed);
    let query = r#"{ package(name: "pg", version: "7.12.0") { name } }"#;
    let error = run(&executor, query, "{}").await.unwrap_err().remove(0);
    assert_eq!(error.code(), Code::StoreUnavailable);
    assert!(!error.message.contains("refused"), "{}", error.message);
    assert_eq!(executor.metrics.store_errors_total.with_label_values(&["transient"]).get(), 1);
    run(&executor, "{ __typename }", "{}").await.unwrap();
}

#[tokio::test]
async fn a_purl_that_names_another_artifact_or_registry_is_null() {
    let query = "query ($purls: [String!]!) { packagesByPurl(purls: $purls) { version } }";
    for (qualifiers, is_ours) in [
        ("arch=x86&checksum=sha1:0", true),
        ("repository_url=", true),
        ("repository_url=https://registry.example/", true),
        ("repository_url=https%3A%2F%2Fregistry.example", true),
        ("Repository_Url=registry.example", true),
        ("repository_url=https://npm.example", false),
        ("vcs_url=git%2Bhttps://example.org/pg.git", false),
        ("download_url=https://registry.example/pg/-/pg-7.12.0.tgz", false),
    ] {
        let variables = format!(r#"{{"purls":["pkg:npm/pg@7.12.0?{qualifiers}"]}}"#);
        let expected = if is_ours { r#"[{"version":"7.12.0"}]"# } else { "[null]" };
        let body = data(query, &variables).await;
        assert_eq!(body, format!(r#"{{"data":{{"packagesByPurl":{expected}}}}}"#), "{qualifiers}");
    }
}

#[tokio::test]
async fn a_node_is_found_by_its_canonical_id_alone() {
    let query = "query ($id: ID!) { node(id: $id) { __typename id ... on Package { version } ... on Node { i: id } } }";
    assert_eq!(
        data(query, r#"{"id":"pkg:npm/pg@7.12.0"}"#).await,
        r#"{"data":{"node":{"__typename":"Package","id":"pkg:npm/pg@7.12.0","version":"7.12.0","i":"pkg:npm/pg@7.12.0"}}}"#
    );
    for id in [
        "pkg:npm/pg@7.12.1",
        "PKG:npm/pg@7.12.0",
        "pkg:npm/pg@7.12.0?a=b",
        "pkg:npm/@scope/x@1.0.0%2Bb",
        "pkg:pypi/pg@7.12.0",
        "pg",
        "",
    ] {
        let body = data(query, &format!(r#"{{"id":"{id}"}}"#)).await;
        assert_eq!(body, r#"{"data":{"node":null}}"#, "{id}");
    }
    assert_eq!(
        data(query, r#"{"id":7}"#).await,
        r#"{"data":{"node":null}}"#,
        "an id may be a number"
    );
    let literal =
        "{ node(id: \"pkg:npm/%40scope/x@1.0.0%2Bb\") { ...P } } fragment P on Package { name }";
    assert_eq!(data(literal, "{}").await, r#"{"data":{"node":{"name":"@scope/x"}}}"#);
}

#[tokio::test]
async fn the_registry_says_its_hosts() {
    assert_eq!(
        data("{ registry { ecosystem hosts __typename } }", "{}").await,
        r#"{"data":{"registry":{"ecosystem":"npm","hosts":["registry.example"],"__typename":"Registry"}}}"#
    );
}

#[tokio::test]
async fn oldest_first_is_the_reverse_with_the_same_cursors() {
    let (executor, _) = executor(Limits::default());
    let query = "query ($after: String, $order: Order = OLDEST_FIRST) {
        publications(first: 100, after: $after, order: $order) { edges { cursor } } }";
    let cursors = async |variables: &str| -> Vec<String> {
        let body = run(&executor, query, variables).await.unwrap();
        let body: serde_json::Value = serde_json::from_str(&body).unwrap();
        let edges = body["data"]["publications"]["edges"].as_array().unwrap();
        edges.iter().map(|edge| edge["cursor"].as_str().unwrap().to_owned()).collect()
    };
    let oldest = cursors("{}").await;
    let mut newest = cursors(r#"{"order":"NEWEST_FIRST"}"#).await;
    newest.reverse();
    assert_eq!(oldest, newest);
    assert_eq!(cursors(&format!(r#"{{"after":"{}"}}"#, oldest[1])).await, oldest[2..]);
    let body = run(&executor, query, r#"{"order":null}"#).await.unwrap();
    assert!(
        body.starts_with(r#"{"data":null,"#) && body.contains("`order` must not be null"),
        "{body}"
    );
}

/// As graphql-js does: the object whose fields would have been collected is null.
#[tokio::test]
async fn a_condition_that_is_null_makes_its_object_null() {
    let query = r#"query ($x: Boolean = true) { package(name: "pg", version: "7.12.0") {
        name publicationInfo { tor tfa @include(if: $x) } } }"#;
    let body = data(query, r#"{"x":null}"#).await;
    assert!(
        body.starts_with(r#"{"data":{"package":{"name":"pg","publicationInfo":null}},"errors":[{"message":"argument `if` of @include must not be null","#),
        "{body}"
    );
    assert!(body.contains(r#""path":["package","publicationInfo"]"#), "{body}");
    let query = r#"query ($x: Boolean = true, $r: [PackageRef!]!) { packages(refs: $r) { name @skip(if: $x) } }"#;
    let refs = r#"[{"name":"none","version":"1"},{"name":"pg","version":"7.12.0"}]"#;
    let body = data(query, &format!(r#"{{"x":null,"r":{refs}}}"#)).await;
    assert!(body.starts_with(r#"{"data":{"packages":[null,null]},"errors":[{"#), "{body}");
    assert!(
        body.contains(r#""path":["packages",1]"#) && body.matches("path").count() == 1,
        "{body}"
    );
    let query = "query ($x: Boolean = true) { publications(first: 1) { edges { cursor node { name @skip(if: $x) } } } }";
    let body = data(query, r#"{"x":null}"#).await;
    assert!(body.starts_with(r#"{"data":null,"#), "{body}");
    assert!(body.contains(r#""path":["publications","edges",0,"node"]"#), "{body}");
    let query = "query ($x: Boolean = true) { __typename @include(if: $x) }";
    assert!(data(query, r#"{"x":null}"#).await.starts_with(r#"{"data":null,"errors":[{"#));
    let query = "query ($x: Boolean = true) { __type(name: \"Flag\") { name @include(if: $x) } }";
    assert!(
        data(query, r#"{"x":null}"#).await.starts_with(r#"{"data":{"__type":null},"errors":[{"#)
    );
}

#[tokio::test]
async fn is_one_of_is_false_for_input_objects_and_null_for_others() {
    let query = r#"{ a: __type(name: "PackageRef") { isOneOf ...F } b: __type(name: "Flag") { x: isOneOf name }
        __schema { queryType { isOneOf @skip(if: true) name } } } fragment F on __Type { y: isOneOf kind }"#;
    assert_eq!(
        data(query, "{}").await,
        r#"{"data":{"a":{"isOneOf":false,"y":false,"kind":"INPUT_OBJECT"},"b":{"x":null,"name":"Flag"},"__schema":{"queryType":{"name":"Query"}}}}"#
    );
}

/// The cases in which apollo-compiler's executor and validation deviate from the specification, so that the
/// differential test cannot find them. `tests/it` runs the same cases in graphql-js and compares with the same file.
#[tokio::test]
async fn answers_as_graphql_js_does_in_the_corners() {
    #[derive(serde::Deserialize)]
    struct Case {
        query: String,
        variables: Box<RawValue>,
    }
    let cases = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/audits/cases.json"));
    let expected = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/audits/expected.json"));
    let cases: Vec<Case> = serde_json::from_str(cases).unwrap();
    let expected: Vec<serde_json::Value> = serde_json::from_str(expected).unwrap();
    assert_eq!(cases.len(), expected.len());
    let (executor, _) = executor(Limits::default());
    for (case, expected) in cases.iter().zip(expected) {
        let answer = match run(&executor, &case.query, case.variables.get()).await {
            Err(_) => serde_json::json!({"refused": true}),
            Ok(body) => {
                let body: serde_json::Value = serde_json::from_str(&body).unwrap();
                let errors = body["errors"].as_array().cloned().unwrap_or_default();
                let place = |error: serde_json::Value| match &error["path"] {
                    serde_json::Value::Null => serde_json::json!([]),
                    path => path.clone(),
                };
                let places: Vec<_> = errors.into_iter().map(place).collect();
                serde_json::json!({"data": body["data"], "places": places})
            }
        };
        assert_eq!(answer, expected, "{} {}", case.query, case.variables);
    }
}

#[tokio::test]
async fn the_lists_of_all_variables_count_together() {
    let text = "query ($a: [String!]!, $b: [String!]!) {
        packagesByPurl(purls: $a) @skip(if: true) { name } b: packagesByPurl(purls: $b) { name } }";
    let list = |count| vec!["\"\""; count].join(",");
    let variables = |b| format!(r#"{{"a":[{}],"b":[{}]}}"#, list(2_000), list(b));
    let (executor, _) = executor(Limits::default());
    assert!(run(&executor, text, &variables(3_000)).await.is_ok());
    let error = run(&executor, text, &variables(3_100)).await.unwrap_err().remove(0);
    assert_eq!(
        error.extensions.exceeded,
        Some(Exceeded { limit: "limits.max_refs", maximum: 5_000, actual: Some(5_100) })
    );
}
