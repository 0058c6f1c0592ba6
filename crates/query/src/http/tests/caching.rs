//! Caching: answers by HTTP caches, documents by their hashes.

use std::sync::atomic::Ordering;

use sha2::{Digest, Sha256};

use super::{JSON, NEW, SEED, header, start};

const SETTLED: &str =
    "/graphql?query=%7Bpackage(name%3A%22pg%22%2Cversion%3A%227.12.0%22)%7Bname%7D%7D";
const UNSETTLED: &str =
    "/graphql?query=%7Bpackage(name%3A%22jsonstream%22%2Cversion%3A%221.0.0%22)%7Bname%7D%7D";
const INTROSPECTION: &str = "/graphql?query=%7B__schema%7BqueryType%7Bname%7D%7Dpackage(name%3A%22pg%22%2Cversion%3A%227.12.0%22)%7Bname%7D%7D";
const UNKNOWN: &str = "/graphql?query=%7Bpackage(name%3A%22x%22%2Cversion%3A%221%22)%7Bname%7D%7D";
const PAGE: &str = "/graphql?query=%7Bpublications(first%3A1)%7Bedges%7Bcursor%7D%7D%7D";

#[tokio::test]
async fn answers_to_get_may_be_kept_and_settled_ones_longer() {
    let running = start(|_| ()).await;
    for (path, control) in [
        (SETTLED, "public, max-age=3600"),
        (UNSETTLED, "public, max-age=30"),
        (UNKNOWN, "public, max-age=30"),
        (PAGE, "public, max-age=30"),
        (INTROSPECTION, "public, max-age=30"),
        ("/graphql?query=%7B__typename%7D", "public, max-age=30"),
        ("/graphql?query=%7B__schema%7BqueryType%7Bname%7D%7D%7D", "public, max-age=30"),
        ("/graphql?query=%7Bx%7D", "no-store"),
        ("/graphql", "no-store"),
    ] {
        let (_, answer) = running.get(path, NEW).await;
        assert_eq!(header(&answer, "cache-control"), Some(control), "{path}: {answer}");
        assert_eq!(header(&answer, "etag").is_some(), control != "no-store", "{answer}");
        assert_eq!(header(&answer, "vary"), Some("accept, accept-encoding"));
    }
    let (_, answer) = running.post(&[JSON], SEED).await;
    assert!(header(&answer, "cache-control").is_none() && header(&answer, "etag").is_none());
    running.memory.away.store(true, Ordering::Relaxed);
    let (status, answer) = running.get(SETTLED, NEW).await;
    assert_eq!((status, header(&answer, "cache-control")), (503, Some("no-store")));
}

#[tokio::test]
async fn what_a_client_has_is_not_sent_again() {
    let running = start(|_| ()).await;
    let (_, first) = running.get(SETTLED, NEW).await;
    let tag = header(&first, "etag").unwrap();
    let (status, answer) = running.get(SETTLED, &format!("{NEW}\r\nif-none-match: {tag}")).await;
    assert_eq!((status, header(&answer, "etag")), (304, Some(tag)));
    assert!(
        answer.ends_with("\r\n\r\n") && header(&answer, "content-length").is_none(),
        "{answer}"
    );
    assert_eq!(header(&answer, "cache-control"), Some("public, max-age=3600"));
    // The same bytes in another media type are a different answer.
    let (status, _) = running.get(SETTLED, &format!("if-none-match: {tag}")).await;
    assert_eq!(status, 200);
    let (status, _) = running.get(UNKNOWN, &format!("{NEW}\r\nif-none-match: {tag}")).await;
    assert_eq!(status, 200);
}

#[tokio::test]
async fn a_query_is_known_by_its_hash_once_it_was_sent() {
    const TEXT: &str = "query($n: String!) { package(name: $n, version: \"7.12.0\") { name } }";
    let running = start(|_| ()).await;
    let hash: String = Sha256::digest(TEXT).iter().map(|byte| format!("{byte:02x}")).collect();
    let extensions = format!(r#"{{"persistedQuery":{{"version":1,"sha256Hash":"{hash}"}}}}"#);
    let alone = format!(r#"{{"variables":{{"n":"pg"}},"extensions":{extensions}}}"#);
    for (headers, expected) in [(&[JSON][..], 200), (&[JSON, NEW], 400)] {
        let (status, answer) = running.post(headers, &alone).await;
        assert!(answer.contains(r#"{"errors":[{"message":"PersistedQueryNotFound","extensions":{"code":"PERSISTED_QUERY_NOT_FOUND"}}]}"#));
        assert!(status == expected && answer.contains("cache-control: no-store"), "{answer}");
    }
    let wrong = format!(r#"{{"query":"{{ __typename }}","extensions":{extensions}}}"#);
    let (status, answer) = running.post(&[JSON], &wrong).await;
    assert!(status == 400 && answer.contains("PERSISTED_QUERY_HASH_MISMATCH"), "{answer}");
    let text = serde_json::to_string(TEXT).unwrap();
    let both = format!(r#"{{"query":{text},"variables":{{"n":"pg"}},"extensions":{extensions}}}"#);
    const FOUND: &str = r#"{"data":{"package":{"name":"pg"}}}"#;
    for body in [&both, &alone] {
        let (status, answer) = running.post(&[JSON], body).await;
        assert!(status == 200 && answer.ends_with(FOUND), "{answer}");
    }
    let encoded = extensions.replace('"', "%22").replace('{', "%7B").replace('}', "%7D");
    let path = format!("/graphql?extensions={encoded}&variables=%7B%22n%22%3A%22pg%22%7D");
    let (status, answer) = running.get(&path, NEW).await;
    assert!(status == 200 && answer.ends_with(FOUND), "{answer}");
    assert_eq!(header(&answer, "cache-control"), Some("public, max-age=3600"));
}

#[tokio::test]
async fn only_valid_documents_are_kept_and_none_where_there_is_no_room() {
    let invalid = "{ x }";
    let hash = |text: &str| -> String {
        let digits: String =
            Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect();
        format!(r#""extensions":{{"persistedQuery":{{"version":1,"sha256Hash":"{digits}"}}}}"#)
    };
    let running = start(|_| ()).await;
    let body = format!(r#"{{"query":"{invalid}",{}}}"#, hash(invalid));
    assert!(running.post(&[JSON], &body).await.1.contains("GRAPHQL_VALIDATION_FAILED"));
    let alone = format!("{{{}}}", hash(invalid));
    assert!(running.post(&[JSON], &alone).await.1.contains("PERSISTED_QUERY_NOT_FOUND"));

    let running =
        start(|settings| settings.cache.persisted_queries = bytesize::ByteSize::b(0)).await;
    let valid = "{ __typename }";
    let body = format!(r#"{{"query":"{valid}",{}}}"#, hash(valid));
    assert_eq!(running.post(&[JSON, NEW], &body).await.0, 200);
    let alone = format!("{{{}}}", hash(valid));
    let (_, answer) = running.post(&[JSON], &alone).await;
    assert!(answer.contains("PERSISTED_QUERY_NOT_SUPPORTED"), "{answer}");
}
