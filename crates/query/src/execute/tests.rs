use std::sync::atomic::Ordering;

use model::{PackageName, Username};
use store::{Filter, Flag};

use super::*;
use crate::json::Json;
use crate::testing::{Memory, executor, run};

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
        __typename username created tor tfa torReason torSettled tfaReason credential actor disputed } } __typename }"#;
    assert_eq!(
        data(query, "{}").await,
        r#"{"data":{"package":{"__typename":"Package","name":"pg","version":"7.12.0","purl":"pkg:npm/pg@7.12.0","publicationInfo":{"__typename":"PublicationInfo","username":"brianc","created":"2019-07-25T18:09:11.204Z","tor":false,"tfa":true,"torReason":"NOT_LISTED","torSettled":true,"tfaReason":"SECOND_FACTOR","credential":"SESSION_TOKEN","actor":"USER","disputed":false}},"__typename":"Query"}}"#
    );
    let query = r#"{ package(name: "@scope/x", version: "1.0.0+b") { purl publicationInfo { username tor tfa } } }"#;
    assert_eq!(
        data(query, "{}").await,
        r#"{"data":{"package":{"purl":"pkg:npm/%40scope/x@1.0.0%2Bb","publicationInfo":{"username":null,"tor":null,"tfa":null}}}}"#
    );
}

/// A field of the schema that the executor does not know would be left out of the answer without a word.
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
    let query = r#"{ packagesByPurl(purls: ["pkg:npm/%40scope/x@1.0.0%2Bb", "pkg:npm/@scope/x@1.0.0+b?a=b#c", "PKG:NPM/pg@7.12.0",
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
    assert_eq!(error.code, Code::LimitExceeded);
    assert_eq!(
        error.exceeded,
        Some(Exceeded { limit: "limits.max_refs", maximum: 5_000, actual: Some(5_001) })
    );
    assert!(
        error.message.contains("5001") && error.message.contains("limits.max_refs"),
        "{}",
        error.message
    );
    let twice = "query ($refs: [PackageRef!]!) { a: packages(refs: $refs) { name } b: packages(refs: $refs) { name } }";
    let error = run(&executor, twice, &variables(2_501)).await.unwrap_err().remove(0);
    assert_eq!(error.exceeded.unwrap().actual, Some(5_002));
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
        r#"{"errors":[{"message":"argument `name` must not be null","locations":[{"line":1,"column":32}],"path":["a"],"extensions":{"code":"BAD_USER_INPUT"}}],"data":{"a":null,"__typename":"Query"}}"#
    );
    // A field that must not be null takes the whole data with it.
    let query = r#"query ($p: String = "pkg:npm/pg@7.12.0") { packagesByPurl(purls: [$p]) { name } __typename }"#;
    assert!(data(query, "{}").await.contains(r#"[{"name":"pg"}]"#));
    let body = data(query, r#"{"p":null}"#).await;
    assert!(
        body.ends_with(r#""data":null}"#) && body.contains(r#""path":["packagesByPurl"]"#),
        "{body}"
    );
    let query = "query ($f: Int = 1) { publications(first: $f) { edges { cursor } } }";
    assert!(data(query, r#"{"f":null}"#).await.ends_with(r#""data":null}"#));
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
    ] {
        let error = refused(refs, variables).await;
        assert_eq!(error.code, Code::BadUserInput);
        assert!(
            error.message.contains(place) && !error.message.contains("hunter2"),
            "{}",
            error.message
        );
    }
    let first = "query ($n: Int!) { publications(first: $n) { edges { cursor } } }";
    assert!(data(first, r#"{"n":1.0}"#).await.contains("cursor"));
    for wrong in ["1.5", "\"1\"", "2147483648", "1e400", "true"] {
        let variables = format!("{{\"n\":{wrong}}}");
        if Json::read(variables.as_bytes(), 10).is_ok() {
            assert_eq!(refused(first, &variables).await.code, Code::BadUserInput, "{wrong}");
        }
    }
    let flag =
        "query ($f: PublicationFilter) { publications(first: 1, filter: $f) { edges { cursor } } }";
    assert_eq!(
        refused(flag, r#"{"f":{"tor":"yes"}}"#).await.message,
        "variable $f.tor must be Flag, and it is a string"
    );
    assert_eq!(refused(flag, r#"{"f":{"disputed":1}}"#).await.code, Code::BadUserInput);
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
        order: store::Order::NewestFirst,
    };
    assert_eq!(*memory.filter.lock().unwrap(), Some(expected.clone()));
    let query = "query ($f: PublicationFilter!) { publications(first: 1, filter: $f) { edges { cursor } } }";
    let variables = r#"{"f":{"name":"pg","username":"brianc","tor":"UNKNOWN","tfa":"NO","disputed":true,"createdAfter":"2019-07-25T00:00:00Z","createdBefore":null}}"#;
    run(&executor, query, variables).await.unwrap();
    assert_eq!(*memory.filter.lock().unwrap(), Some(expected));
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
}

#[tokio::test]
async fn arguments_out_of_range_are_refused_before_any_work() {
    for (arguments, message) in [
        ("first: 0", "argument `first` is 0, it must be 1 to 100"),
        ("first: 101", "argument `first` is 101, it must be 1 to 100"),
        ("first: -1", "argument `first` is -1, it must be 1 to 100"),
        ("first: 1, after: \"x\"", "argument `after` is no cursor of this service"),
        (
            "first: 1, filter: { createdAfter: \"yesterday\" }",
            "`createdAfter` of the filter is not an RFC 3339 time",
        ),
    ] {
        let error =
            refused(&format!("{{ publications({arguments}) {{ edges {{ cursor }} }} }}"), "{}")
                .await;
        assert_eq!((error.code, error.message.as_str()), (Code::BadUserInput, message));
    }
    let pages: Vec<String> = (0..11)
        .map(|at| format!("p{at}: publications(first: 1) {{ edges {{ cursor }} }}"))
        .collect();
    let error = refused(&format!("{{ {} }}", pages.join(" ")), "{}").await;
    assert_eq!(
        error.exceeded,
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
}

#[tokio::test]
async fn a_long_answer_is_refused_and_not_sent_in_part() {
    let (executor, _) =
        executor(Limits { max_answer: bytesize::ByteSize::b(100), ..Limits::default() });
    let fields: Vec<String> = (0..20).map(|at| format!("f{at}: name")).collect();
    let query =
        format!("{{ package(name: \"pg\", version: \"7.12.0\") {{ {} }} }}", fields.join(" "));
    let error = run(&executor, &query, "{}").await.unwrap_err().remove(0);
    assert_eq!(error.exceeded.unwrap().limit, "limits.max_answer");
}

#[tokio::test]
async fn the_store_s_own_words_are_not_sent() {
    let (executor, memory) = executor(Limits::default());
    memory.away.store(true, Ordering::Relaxed);
    let query = r#"{ package(name: "pg", version: "7.12.0") { name } }"#;
    let error = run(&executor, query, "{}").await.unwrap_err().remove(0);
    assert_eq!(error.code, Code::StoreUnavailable);
    assert!(!error.message.contains("refused"), "{}", error.message);
    assert_eq!(executor.metrics.store_errors_total.with_label_values(&["transient"]).get(), 1);
    run(&executor, "{ __typename }", "{}").await.unwrap();
}
