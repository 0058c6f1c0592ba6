//! The parameters of a GraphQL request, from a body or from a URL (GraphQL over HTTP, "Request").

use std::borrow::Cow;

use axum::http::{HeaderMap, header};

use super::persisted::{self, Hash};
use crate::error::{Code, QueryError};
use crate::execute::Given;
use crate::json::Json;

/// What a client asks.
#[derive(Debug, Default)]
pub(super) struct Parameters<'a> {
    pub(super) query: Cow<'a, str>,
    pub(super) operation_name: Option<Cow<'a, str>>,
    pub(super) variables: Given<'a>,
    /// The SHA-256 of the text, where the client sends it (automatic persisted queries); the text may then be missing.
    pub(super) persisted: Option<Hash>,
}

/// JSON values that are kept of a request: four for each reference that may be asked for (the object, name and version,
/// and one to spare), and as many again as a request has beside them.
pub(super) fn budget(max_refs: u32) -> usize {
    max_refs as usize * 4 + 1_000
}

fn bad(message: impl Into<String>) -> QueryError {
    QueryError::new(Code::BadRequest, message)
}

/// Whether the body is said to be JSON in UTF-8. Content types that a page of another site may send without asking
/// (`text/plain`, forms, none at all) are not.
pub(super) fn is_json(headers: &HeaderMap) -> bool {
    let Some(text) = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()) else {
        return false;
    };
    let mut parts = text.split(';').map(str::trim);
    let is_json = parts.next().is_some_and(|name| name.eq_ignore_ascii_case("application/json"));
    let other_charset = |part: &str| {
        part.split_once('=').is_some_and(|(key, value)| {
            key.trim().eq_ignore_ascii_case("charset")
                && !value.trim().trim_matches('"').eq_ignore_ascii_case("utf-8")
        })
    };
    is_json && !parts.any(other_charset)
}

/// From a body.
pub(super) fn from_body(body: &[u8], budget: usize) -> Result<Parameters<'_>, QueryError> {
    // Told apart before it is read: it may be long.
    if body.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[') {
        return Err(bad(
            "arrays of operations are not taken; send one operation, with lists as variables",
        ));
    }
    let (value, cut) =
        Json::read(body, budget).map_err(|error| bad(format!("the body is no JSON: {error}")))?;
    let Json::Object(fields) = value else {
        return Err(bad("the body must be a JSON object"));
    };
    let mut parameters = Parameters::default();
    for (name, value) in fields {
        match name.as_ref() {
            "query" => parameters.query = text("query", value)?.unwrap_or_default(),
            "operationName" => parameters.operation_name = text("operationName", value)?,
            "variables" => parameters.variables = map("variables", value)?,
            "extensions" => parameters.persisted = persisted::hash(&map("extensions", value)?)?,
            // Unknown parameters are ignored, as the specification says.
            _ => {}
        }
    }
    parameters.checked(cut)
}

/// From the query part of a URL.
pub(super) fn from_url<'a>(
    pairs: &'a [(String, String)],
    budget: usize,
) -> Result<Parameters<'a>, QueryError> {
    let mut parameters = Parameters::default();
    let mut cut = false;
    let mut read = |name: &str, text: &'a str| {
        let (value, was_cut) = Json::read(text.as_bytes(), budget)
            .map_err(|error| bad(format!("parameter `{name}` is no JSON: {error}")))?;
        cut |= was_cut;
        map(name, value)
    };
    // An empty parameter counts as left out.
    for (name, value) in pairs.iter().filter(|(_, value)| !value.is_empty()) {
        match name.as_str() {
            "query" => parameters.query = value.as_str().into(),
            "operationName" => parameters.operation_name = Some(value.as_str().into()),
            "variables" => parameters.variables = read(name, value)?,
            "extensions" => parameters.persisted = persisted::hash(&read(name, value)?)?,
            _ => {}
        }
    }
    parameters.checked(cut)
}

impl Parameters<'_> {
    fn checked(self, cut: bool) -> Result<Self, QueryError> {
        if self.query.is_empty() && self.persisted.is_none() {
            return Err(bad("parameter `query` is missing"));
        }
        // Lists know their true length, so that too many keys are refused with their count; what else is that large
        // fits no operation.
        let has_list = || self.variables.iter().any(|(_, value)| matches!(value, Json::Array(_)));
        if cut && !has_list() {
            return Err(bad("the request has more values than any operation can use"));
        }
        Ok(self)
    }
}

fn text<'a>(name: &str, value: Json<'a>) -> Result<Option<Cow<'a, str>>, QueryError> {
    match value {
        Json::Null => Ok(None),
        Json::String(text) => Ok(Some(text)),
        other => Err(bad(format!("parameter `{name}` must be a string, it is {}", other.kind()))),
    }
}

fn map<'a>(name: &str, value: Json<'a>) -> Result<Given<'a>, QueryError> {
    match value {
        Json::Null => Ok(Vec::new()),
        Json::Object(fields) => Ok(fields),
        other => Err(bad(format!("parameter `{name}` must be an object, it is {}", other.kind()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    fn refused(body: &str) -> String {
        from_body(body.as_bytes(), 100).unwrap_err().message
    }

    #[test]
    fn parameters_have_their_types_and_null_is_left_out() {
        let body = br#"{"query":"{a}","operationName":null,"variables":{"x":1},"extensions":null,"other":[1]}"#;
        let parameters = from_body(body, 100).unwrap();
        assert_eq!(parameters.query, "{a}");
        assert_eq!(parameters.operation_name, None);
        assert_eq!(parameters.variables, vec![("x".into(), Json::Int(1))]);
        assert!(refused(r#"{"query":1}"#).contains("must be a string"));
        assert!(refused(r#"{"query":"{a}","variables":[]}"#).contains("must be an object"));
        assert!(refused(r#"{"query":"{a}","extensions":"x"}"#).contains("must be an object"));
        assert!(refused("{}").contains("missing"));
        assert!(refused(r#"{"query":""}"#).contains("missing"));
        assert!(refused(" [{}]").contains("arrays of operations"));
        assert!(refused("1").contains("must be a JSON object"));
        assert!(refused("{").contains("no JSON"));
    }

    #[test]
    fn a_cut_request_goes_on_only_for_its_list() {
        let values = "1,".repeat(200);
        let body = format!(r#"{{"query":"{{a}}","variables":{{"x":[{values}1]}}}}"#);
        let parameters = from_body(body.as_bytes(), 100).unwrap();
        assert!(matches!(&parameters.variables[0].1, Json::Array(array) if array.length == 201));
        let body = format!(r#"{{"query":"{{a}}","other":[{values}1],"variables":{{}}}}"#);
        assert!(refused(&body).contains("more values"));
    }

    #[test]
    fn a_url_has_json_in_two_parameters() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let pairs = [
            pair("query", "{a}"),
            pair("operationName", ""),
            pair("variables", r#"{"x":true}"#),
            pair("extensions", ""),
        ];
        let parameters = from_url(&pairs, 100).unwrap();
        assert_eq!(parameters.operation_name, None);
        assert_eq!(parameters.variables, vec![("x".into(), Json::Bool(true))]);
        assert!(from_url(&[pair("query", "{a}"), pair("variables", "1")], 100).is_err());
        assert!(from_url(&[pair("query", "{a}"), pair("variables", "x")], 100).is_err());
    }

    #[test]
    fn only_json_in_utf_8_is_taken() {
        let check = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_str(text).unwrap());
            is_json(&headers)
        };
        assert!(check("application/json") && check("Application/JSON; Charset=\"UTF-8\""));
        assert!(check("application/json; odd"));
        for text in [
            "text/plain",
            "application/json; charset=latin1",
            "application/x-www-form-urlencoded",
            "",
        ] {
            assert!(!check(text), "{text}");
        }
        assert!(!is_json(&HeaderMap::new()));
    }
}
