//! The event's JSON, field by field, as it can arrive.

use std::borrow::Cow;

use super::json::object;

object! {
    /// The whole value in structured mode.
    Structured {
        b"specversion" => specversion: Cow<'de, str>,
        b"id" => id: Cow<'de, str>,
        b"source" => source: Cow<'de, str>,
        b"type" => kind: Cow<'de, str>,
        b"subject" => subject: Cow<'de, str>,
        b"time" => time: Cow<'de, str>,
        b"datacontenttype" => datacontenttype: Cow<'de, str>,
        b"data" => data: Data<'de>,
    }
}

object! {
    /// Only what makes a value a CloudEvent.
    Attributes {
        b"specversion" => specversion: Cow<'de, str>,
        b"id" => id: Cow<'de, str>,
        b"source" => source: Cow<'de, str>,
        b"type" => kind: Cow<'de, str>,
    }
}

object! {
    /// `data`, which is the whole value in binary mode.
    Data {
        b"package" => package: Package<'de>,
        b"publishedAt" => published_at: Cow<'de, str>,
        b"revision" => revision: u64,
        b"actor" => actor: Actor<'de>,
        b"request" => request: Request<'de>,
        b"auth" => auth: Auth<'de>,
        b"staged" => staged: Box<Staged<'de>>,
    }
}

object! {
    /// `data.package`.
    Package {
        b"ecosystem" => ecosystem: Cow<'de, str>,
        b"name" => name: Cow<'de, str>,
        b"version" => version: Cow<'de, str>,
    }
}

object! {
    /// Who acted.
    Actor {
        b"kind" => kind: Cow<'de, str>,
        b"username" => username: Cow<'de, str>,
    }
}

object! {
    /// How the act reached the registry.
    Request {
        b"ip" => ip: Cow<'de, str>,
        b"edgeTor" => edge_tor: bool,
        b"userAgent" => user_agent: Cow<'de, str>,
    }
}

object! {
    /// How the publisher authenticated.
    Auth {
        b"credential" => credential: Cow<'de, str>,
        b"bypass2fa" => bypass2fa: bool,
        b"amr" => amr: Vec<Cow<'de, str>>,
        b"acr" => acr: Cow<'de, str>,
        b"secondFactor" => second_factor: SecondFactor<'de>,
    }
}

object! {
    /// What the registry verified.
    SecondFactor {
        b"presented" => presented: bool,
        b"verified" => verified: bool,
        b"method" => method: Cow<'de, str>,
        b"verifiedAt" => verified_at: Cow<'de, str>,
    }
}

object! {
    /// The staging act of a staged version.
    Staged {
        b"at" => at: Cow<'de, str>,
        b"actor" => actor: Actor<'de>,
        b"request" => request: Request<'de>,
        b"auth" => auth: Auth<'de>,
    }
}
