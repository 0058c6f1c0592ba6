//! The event's JSON Schema, for producers: generated from the decoder's rules, and committed as `event.schema.json`.
//! Its descriptions contain the rules that a schema cannot express.

use model::{Actor, Credential, Integrity, PackageName, PackageVersion, Username};
use serde_json::{Value, json};

use super::MAX_REVISION;

/// The JSON Schema (draft 2020-12) of a publish event in structured mode. In binary mode the value is `$defs/data`.
#[must_use]
pub fn event_schema() -> Value {
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Package publication",
        "description": "A CloudEvents 1.0 event in structured mode. Null is the same as a missing field, an empty string \
            is not. Unknown fields are ignored. Words are compared byte for byte; unknown ones count as unknown.",
        "type": "object",
        "required": ["specversion", "id", "source", "type"],
        "properties": {
            "specversion": {"const": "1.0"},
            "id": {"type": "string", "minLength": 1, "description": "With source, the identity of the event."},
            "source": {"type": "string", "minLength": 1},
            "type": {"type": "string", "minLength": 1,
                "description": "events.type of the configuration; other types are skipped."},
            "subject": optional("string", "A purl that names the same package and version."),
            "time": optional("string", "Stands in for data.publishedAt where that is missing."),
            "datacontenttype": optional("string", "application/json"),
        },
        "oneOf": [
            {
                "required": ["data"],
                "properties": {"data": {"$ref": "#/$defs/data"}, "data_base64": {"type": "null"}},
                "anyOf": [
                    {"required": ["time"], "properties": {"time": {"type": "string"}}},
                    {"properties": {"data": {"required": ["publishedAt"], "properties": {"publishedAt": {"type": "string"}}}}},
                ],
            },
            {
                "required": ["data_base64"],
                "properties": {
                    "data": {"type": "null"},
                    "data_base64": {
                        "type": "string",
                        "contentEncoding": "base64",
                        "contentMediaType": "application/json",
                        "contentSchema": {"$ref": "#/$defs/data"},
                        "description": "The same data as JSON text in canonical base64 (RFC 4648, section 4), as SDKs write bytes.",
                    },
                },
            },
        ],
        "$defs": {
            "data": data(),
            "actor": actor(),
            "request": request(),
            "auth": auth(),
        },
    })
}

fn data() -> Value {
    json!({
        "type": "object",
        "required": ["package"],
        "properties": {
            "package": {
                "type": "object",
                "required": ["ecosystem", "name", "version"],
                "properties": {
                    "ecosystem": {"type": "string", "description": "The registry's purl type, for example npm."},
                    "name": name(PackageName::MAX_BYTES, "With its namespace: @scope/name."),
                    "version": name(PackageVersion::MAX_BYTES, "The version as published."),
                    "integrity": nullable(name(Integrity::MAX_BYTES,
                        "The digest of the published artifact, as Subresource Integrity writes it: sha512-….")),
                },
            },
            "publishedAt": optional("string", "T, RFC 3339, seconds 00 to 59, truncated to microseconds; at most 5 \
                minutes after the record's Kafka timestamp. Required unless the event has a time."),
            "revision": {"type": ["integer", "null"], "minimum": 0, "maximum": MAX_REVISION, "default": 0,
                "description": "A corrected event has a higher one."},
            "actor": {"$ref": "#/$defs/actor"},
            "request": {"$ref": "#/$defs/request"},
            "auth": {"$ref": "#/$defs/auth"},
            "staged": {
                "type": ["object", "null"],
                "description": "The staging act of a version that was approved later; the outer fields are the approval's.",
                "properties": {
                    "at": optional("string", "RFC 3339, not after publishedAt; missing = publishedAt."),
                    "actor": {"$ref": "#/$defs/actor"},
                    "request": {"$ref": "#/$defs/request"},
                    "auth": {"$ref": "#/$defs/auth"},
                },
            },
        },
    })
}

fn actor() -> Value {
    let username = nullable(name(Username::MAX_BYTES, "The account or workflow."));
    let kinds: Vec<&str> = Actor::ALL.iter().map(|kind| kind.as_str()).collect();
    json!({
        "type": ["object", "null"],
        "properties": {"kind": words(&kinds, "Who acted."), "username": username},
    })
}

fn request() -> Value {
    json!({
        "type": ["object", "null"],
        "properties": {
            "ip": optional("string", "The publisher's address as the registry's edge resolved it, without port or zone; \
                one that cannot be used makes tor null. Never stored."),
            "edgeTor": optional("boolean", "The edge's own verdict; only true is evidence."),
            "userAgent": optional("string", "Not read."),
        },
    })
}

fn auth() -> Value {
    let credentials: Vec<&str> =
        Credential::ALL.iter().map(|credential| credential.as_str()).collect();
    json!({
        "type": ["object", "null"],
        "description": "What was verified on this act; account or package policy is no evidence.",
        "properties": {
            "credential": words(&credentials, "What the publisher authenticated with."),
            "bypass2fa": optional("boolean", "Whether the token is exempt from the second factor."),
            "amr": {"type": ["array", "null"], "items": {"type": "string"},
                "description": "RFC 8176 methods of the authentication made for this act."},
            "acr": optional("string", "The assurance level of the authentication made for this act."),
            "secondFactor": {
                "type": ["object", "null"],
                "properties": {
                    "presented": optional("boolean", "Whether one was presented."),
                    "verified": optional("boolean", "Whether it was verified."),
                    "method": words(&["totp", "webauthn", "recovery_code", "sms", "email", "remembered_device"],
                        "The first four count; anything else does not."),
                    "verifiedAt": optional("string", "RFC 3339, from 5 minutes before the act to the act."),
                },
            },
        },
    })
}

fn optional(kind: &str, description: &str) -> Value {
    json!({"type": [kind, "null"], "description": description})
}

fn nullable(mut name: Value) -> Value {
    name["type"] = json!(["string", "null"]);
    name
}

/// Known words as examples, because other words are allowed.
fn words(known: &[&str], description: &str) -> Value {
    json!({"type": ["string", "null"], "examples": known, "description": description})
}

fn name(max_bytes: usize, description: &str) -> Value {
    // The schema counts characters, the limit counts bytes, and a text has at least as many bytes as characters.
    let description = format!(
        "{description} 1 to {max_bytes} bytes, no control characters, no outer white space."
    );
    json!({
        "type": "string", "minLength": 1, "maxLength": max_bytes, "pattern": NAME_PATTERN, "description": description,
    })
}

/// No control characters (Unicode's Cc), and no white space (Unicode's `White_Space`) at either end. Uses ranges of
/// characters, because not every validator supports Unicode's classes.
const NAME_PATTERN: &str = concat!(
    r"^[^\u0000-\u0020\u007f-\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]",
    r"([^\u0000-\u001f\u007f-\u009f]*",
    r"[^\u0000-\u0020\u007f-\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000])?$",
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_schema_is_the_one_that_is_made_here() {
        let committed: Value =
            serde_json::from_str(include_str!("../../event.schema.json")).unwrap();
        let made = event_schema();
        assert!(
            committed == made,
            "event.schema.json is to be:\n{}",
            serde_json::to_string_pretty(&made).unwrap()
        );
    }
}
