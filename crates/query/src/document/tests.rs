use super::*;
use crate::testing::{executor, run};

fn refusal(text: &str) -> QueryError {
    let schema = ApiSchema::new(&Limits::default(), "").unwrap();
    match prepare(&schema, &Limits::default(), text, false, None) {
        Err(mut errors) => errors.remove(0),
        other => panic!("{other:?}"),
    }
}

fn limit(text: &str) -> &'static str {
    let error = refusal(text);
    assert_eq!(error.code(), Code::LimitExceeded, "{}", error.message);
    let limit = error.extensions.exceeded.unwrap().limit;
    assert!(error.message.contains(limit), "{}", error.message);
    limit
}

/// `f0` spreads `f1` `times` times, and so on; the last fragment selects a field.
fn multiplying(times: usize, levels: usize) -> String {
    let mut text = String::from("{ package(name: \"a\", version: \"1\") { ...f0 } }");
    for level in 0..levels {
        let spread = format!("...f{} ", level + 1).repeat(times);
        text.push_str(&format!(" fragment f{level} on Package {{ {spread} }}"));
    }
    text.push_str(&format!(" fragment f{levels} on Package {{ name }}"));
    text
}

#[test]
fn multiplying_fragments_are_measured_and_refused() {
    for (times, levels) in [(2, 20), (2, 28), (4, 12), (20, 8)] {
        assert_eq!(limit(&multiplying(times, levels)), "limits.max_selections", "{times} {levels}");
    }
    assert_eq!(limit(&multiplying(2, 60)), "limits.max_depth");
    let schema = ApiSchema::new(&Limits::default(), "").unwrap();
    assert!(prepare(&schema, &Limits::default(), &multiplying(2, 6), false, None).is_ok());
}

#[test]
fn nesting_is_limited_in_every_grammar() {
    let deep = |open: &str, close: &str, levels: usize| open.repeat(levels) + &close.repeat(levels);
    for levels in [40, 300] {
        for text in [
            format!("{{ packages(refs: {}) {{ name }} }}", deep("[", "]", levels)),
            format!(
                "{{ packages(refs: {}1{}) {{ name }} }}",
                "{a:".repeat(levels),
                "}".repeat(levels)
            ),
            format!("query ($x: String = {}) {{ __typename }}", deep("[", "]", levels)),
            format!(
                "query ($x: {}String{}) {{ __typename }}",
                "[".repeat(levels),
                "]".repeat(levels)
            ),
            format!("{{ {}__typename{} }}", "... { ".repeat(levels), " }".repeat(levels)),
            format!("{{ __typename @skip(if: {}) }}", deep("[", "]", levels)),
        ] {
            assert_eq!(limit(&text), "limits.max_depth", "{text}");
        }
    }
    for open in ["[", "{a:"] {
        let text = format!("{{ packages(refs: {}", open.repeat(100_000));
        let limit = limit(&text);
        assert!(limit == "limits.max_document" || limit == "limits.max_tokens", "{limit}");
    }
}

/// This document overflowed the stack in apollo-compiler's validation under its own limits.
#[test]
fn chained_fragments_of_nested_selections_are_refused() {
    let mut text = String::from("{ ...f0 }");
    for fragment in 0..60 {
        let inner = format!("{}...f{}{}", "... { ".repeat(20), fragment + 1, " }".repeat(20));
        text.push_str(&format!(" fragment f{fragment} on Query {{ {inner} }}"));
    }
    text.push_str(" fragment f60 on Query { __typename }");
    let limits = Limits { max_tokens: 100_000, ..Limits::default() };
    let schema = ApiSchema::new(&limits, "").unwrap();
    let Err(errors) = prepare(&schema, &limits, &text, false, None) else { panic!() };
    assert_eq!(errors[0].extensions.exceeded.unwrap().limit, "limits.max_depth");
}

#[test]
fn long_documents_are_refused_by_their_tokens_definitions_and_bytes() {
    let aliases: String = (0..10_000).map(|at| format!("a{at}:__typename ")).collect();
    assert_eq!(limit(&format!("{{ {aliases} }}")), "limits.max_document");
    let aliases: String = (0..1_500).map(|at| format!("a{at}:__typename ")).collect();
    assert_eq!(limit(&format!("{{ {aliases} }}")), "limits.max_tokens");
    assert_eq!(limit(&format!("{{ {} }}", "name ".repeat(100_000))), "limits.max_document");
    assert_eq!(limit(&format!("{{ __typename {} }}", "@a".repeat(5_000))), "limits.max_tokens");
    let operations: String = (0..65).map(|at| format!("query q{at} {{ __typename }} ")).collect();
    assert_eq!(limit(&operations), "limits.max_definitions");
    assert_eq!(
        limit(&format!("# {}\n{{ __typename }}", "x".repeat(70_000))),
        "limits.max_document"
    );
}

#[test]
fn a_document_at_its_limits_passes_and_one_over_does_not() {
    let (schema, limits) = (ApiSchema::new(&Limits::default(), "").unwrap(), Limits::default());
    let passes = |text: &str| prepare(&schema, &limits, text, false, Some("q0")).is_ok();
    let fields = "__typename ".repeat(limits.max_tokens / 2 - 1);
    let tokens = format!("{{{fields}}}");
    assert!(passes(&tokens));
    assert_eq!(limit(&format!(" {tokens}")), "limits.max_tokens");
    let selections = |count: usize| {
        let (own, fields) = ("__typename".repeat(count % 2), "__typename,".repeat(count / 2 - 1));
        format!("query q0{{...f ...f,{own}}}fragment f on Query{{{fields}}}")
    };
    let most = usize::try_from(limits.max_selections).unwrap();
    assert!(passes(&selections(most)));
    assert_eq!(limit(&selections(most + 1)), "limits.max_selections");
    let operations = |count: usize| -> String {
        (0..count).map(|n| format!("query q{n}{{__typename}}")).collect()
    };
    assert!(passes(&operations(limits.max_definitions)));
    assert_eq!(limit(&operations(limits.max_definitions + 1)), "limits.max_definitions");
}

/// The introspection is built as a tree, in which each item of a list has a copy of the key.
#[test]
fn a_long_key_in_the_lists_of_the_introspection_is_refused() {
    let introspection = |key: usize| {
        let roots: String =
            (0..280).map(|n| format!("a{n}:__schema{{types{{fields{{...f}}}}}}")).collect();
        format!("{{{roots}}}fragment f on __Field{{{}:name}}", "k".repeat(key))
    };
    assert_eq!(limit(&introspection(54_000)), "limits.max_cost");
    let (schema, limits) = (ApiSchema::new(&Limits::default(), "").unwrap(), Limits::default());
    assert!(prepare(&schema, &limits, &introspection(63), false, None).is_ok());
    let data = format!("{{ {}: __typename }}", "k".repeat(54_000));
    assert!(prepare(&schema, &limits, &data, false, None).is_ok());
}

#[test]
fn the_introspection_is_measured_by_its_lists() {
    let aliases: String = (0..40)
        .map(|at| {
            format!("a{at}: types {{ fields {{ args {{ type {{ fields {{ name }} }} }} }} }} ")
        })
        .collect();
    assert_eq!(limit(&format!("{{ __schema {{ {aliases} }} }}")), "limits.max_cost");
}

#[tokio::test]
async fn the_introspection_of_tools_is_answered() {
    let type_ref = (0..9)
        .fold(String::from("kind name"), |inner, _| format!("kind name ofType {{ {inner} }}"));
    let query = format!(
        "query IntrospectionQuery {{ __schema {{ description queryType {{ name }} mutationType {{ name }}
        subscriptionType {{ name }} types {{ ...FullType }} directives {{ name description isRepeatable locations
        args(includeDeprecated: true) {{ ...InputValue }} }} }} }}
        fragment FullType on __Type {{ kind name description specifiedByURL isOneOf
        fields(includeDeprecated: true) {{ name description args(includeDeprecated: true) {{ ...InputValue }}
        type {{ ...TypeRef }} isDeprecated deprecationReason }} inputFields(includeDeprecated: true) {{ ...InputValue }}
        interfaces {{ ...TypeRef }} enumValues(includeDeprecated: true) {{ name description isDeprecated deprecationReason }}
        possibleTypes {{ ...TypeRef }} }}
        fragment InputValue on __InputValue {{ name description type {{ ...TypeRef }} defaultValue isDeprecated deprecationReason }}
        fragment TypeRef on __Type {{ {type_ref} }}"
    );
    let body = run(&executor(Limits::default()).0, &query, "{}").await.unwrap();
    assert!(body.starts_with("{\"data\":{\"__schema\":") && body.len() > 10_000);
}

#[tokio::test]
async fn the_nesting_of_the_introspection_is_measured_on_the_document_itself() {
    let nested = |field: &str| {
        format!(
            "{{ __schema {{ types {{ fields {{ type {{ fields {{ type {{ {field} }} }} }} }} }} }} }}"
        )
    };
    for field in ["name", "isOneOf"] {
        let run = run(&executor(Limits::default()).0, &nested(field), "{}").await;
        assert!(run.unwrap().contains(field));
    }
    let error = refusal(&nested("fields { type { fields { name } } }"));
    assert!(error.code() == Code::ValidationFailed && error.message.contains("depth"), "{error:?}");
}

#[test]
fn cycles_are_reported_and_not_followed() {
    let text = "{ ...a } fragment a on Query { ...b ...b } fragment b on Query { ...a ...a }";
    assert_eq!(refusal(text).code(), Code::ValidationFailed);
}

/// apollo-compiler accepts the first two, because it compares lists only up to the shorter length.
#[test]
fn fields_with_different_lists_are_not_merged() {
    let a = "{name: \"a\", version: \"1\"}";
    let b = "{name: \"b\", version: \"1\"}";
    for text in [
        format!("{{ packages(refs: [{a}]) {{ name }} packages(refs: [{a}, {b}]) {{ name }} }}"),
        format!("{{ packages(refs: []) {{ name }} ... {{ packages(refs: [{a}]) {{ name }} }} }}"),
        format!("{{ packages(refs: [{a}]) {{ name }} ...F }} fragment F on Query {{ packages(refs: [{b}]) {{ name }} }}"),
        "{ package(name: \"a\", version: \"1\") { name } package(name: \"b\", version: \"1\") { name } }".into(),
    ] {
        assert_eq!(refusal(&text).code(), Code::ValidationFailed, "{text}");
    }
    let swapped = "{version: \"1\", name: \"a\"}";
    let text =
        format!("{{ packages(refs: [{a}]) {{ name }} packages(refs: [{swapped}]) {{ version }} }}");
    let schema = ApiSchema::new(&Limits::default(), "").unwrap();
    assert!(prepare(&schema, &Limits::default(), &text, false, None).is_ok());
}

#[test]
fn errors_are_limited_and_have_their_codes() {
    assert_eq!(refusal("{").code(), Code::ParseFailed);
    assert_eq!(refusal("").code(), Code::ParseFailed);
    assert_eq!(refusal("{ nothing }").code(), Code::ValidationFailed);
    assert_eq!(refusal("query ($x: Int) { __typename }").code(), Code::ValidationFailed);
    let many: String = (0..100).map(|at| format!("x{at} ")).collect();
    let schema = ApiSchema::new(&Limits::default(), "").unwrap();
    let Err(errors) = prepare(&schema, &Limits::default(), &format!("{{ {many} }}"), false, None)
    else {
        panic!()
    };
    assert_eq!(errors.len(), Limits::default().max_errors);
    assert!(!errors[0].locations.is_empty());
}

#[test]
fn a_safe_method_executes_queries_only() {
    let schema = ApiSchema::new(&Limits::default(), "").unwrap();
    let text = "query Q { __typename } mutation M { __typename } subscription S { __typename }";
    for (operation_name, is_get, refused) in [
        (Some("M"), true, true),
        (Some("S"), true, true),
        (Some("Q"), true, false),
        (Some("M"), false, false),
    ] {
        let errors = prepare(&schema, &Limits::default(), text, is_get, operation_name);
        let code = errors.unwrap_err()[0].code();
        assert_eq!(code == Code::MethodNotAllowed, refused, "{operation_name:?}");
    }
}

#[test]
fn an_input_object_names_each_field_once() {
    for text in [
        "{ packages(refs: [{name: \"zz\", name: \"pg\", version: \"1\"}]) { name } }",
        "{ ...f } fragment f on Query { packages(refs: {version: \"1\", name: \"zz\", version: \"1\"}) { name } }",
        "query ($f: PublicationFilter = {tor: NO, tor: NO}) { publications(first: 1, filter: $f) { edges { cursor } } }",
    ] {
        let error = refusal(text);
        assert_eq!(error.code(), Code::ValidationFailed, "{text}");
        assert!(error.message.ends_with("is given twice in one object"), "{}", error.message);
        assert_eq!(error.locations.len(), 1);
    }
    let schema = ApiSchema::new(&Limits::default(), "").unwrap();
    let text = "{ packages(refs: [{name: \"a\", version: \"1\"}, {name: \"a\", version: \"1\"}]) { name } }";
    assert!(prepare(&schema, &Limits::default(), text, false, None).is_ok());
}

#[test]
fn a_variable_that_may_be_null_fits_no_place_that_must_not_be() {
    let place = "{ __typename @include(if: $x) }";
    for text in [
        format!("query ($x: Boolean = null) {place}"),
        format!("query ($x: Boolean) {place}"),
        "query ($x: String = null) { package(name: $x, version: \"1\") { name } }".into(),
        "query ($x: String = null) { packages(refs: [{name: $x, version: \"1\"}]) { name } }".into(),
        "query ($x: String) { packagesByPurl(purls: [$x]) { name } }".into(),
        "query ($x: PackageRef = null) { packages(refs: [$x]) { name } }".into(),
        "query ($x: Int) { ...F } fragment F on Query { publications(first: $x) { edges { cursor } } }".into(),
        "query ($x: [String]) { packagesByPurl(purls: $x) { name } }".into(),
        "query ($x: Int!) { packages(refs: [{name: $x, version: \"1\"}]) { name } }".into(),
    ] {
        assert_eq!(refusal(&text).code(), Code::ValidationFailed, "{text}");
    }
    let schema = ApiSchema::new(&Limits::default(), "").unwrap();
    for text in [
        format!("query ($x: Boolean = false) {place}"),
        format!("query ($x: Boolean!) {place}"),
        "query ($x: Order) { publications(first: 1, order: $x) { edges { cursor } } }".into(),
        "query ($x: String = \"a\") { packages(refs: {name: $x, version: \"1\"}) { name } }".into(),
        "query ($x: [PackageRef!]!) { packages(refs: $x) { name } }".into(),
        "query ($x: Flag) { publications(first: 1, filter: {tor: $x}) { edges { cursor } } }"
            .into(),
    ] {
        let prepared = prepare(&schema, &Limits::default(), &text, false, None);
        assert!(prepared.is_ok(), "{text}: {:?}", prepared.err());
    }
}

#[test]
fn the_response_keys_of_a_substitute_are_refused() {
    for text in [
        "{ __type(name: \"Flag\") { __isOneOf_x: name } }",
        "{ __isOneOf_x: __typename }",
        "{ __schema { ...F } } fragment F on __Schema { types { ... { __isOneOf_: kind } } }",
    ] {
        let error = refusal(text);
        assert_eq!(error.code(), Code::ValidationFailed, "{text}");
        assert!(error.message.contains("must not begin with `__isOneOf_`"), "{}", error.message);
        assert_eq!(error.locations.len(), 1);
    }
}

#[test]
fn the_first_error_is_the_one_that_helps() {
    let error = refusal("query ($n: String!) { pakage(name: $n, version: \"1\") { name } }");
    assert!(error.message.contains("pakage"), "{}", error.message);
    let error = refusal(
        "{ ...F nothing } fragment F on Query { __typename } fragment G on Query { __typename }",
    );
    assert!(error.message.contains("nothing"), "{}", error.message);
}
