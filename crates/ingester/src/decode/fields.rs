//! The fields of the event's JSON.

use std::borrow::Cow;

use super::json::object;

object! {
    /// The event, which is the whole value in structured mode.
    Event {
        "specversion" => specversion: Cow<'de, str>,
        "id" => id: Cow<'de, str>,
        "source" => source: Cow<'de, str>,
        "type" => kind: Cow<'de, str>,
        "subject" => subject: Cow<'de, str>,
        "time" => time: Cow<'de, str>,
        "datacontenttype" => datacontenttype: Cow<'de, str>,
        "data" => data: Data<'de>,
        "data_base64" => data_base64: Cow<'de, str>,
    }
}

object! {
    /// `data`, which is the whole value in binary mode.
    Data {
        "package" => package: Package<'de>,
        "publishedAt" => published_at: Cow<'de, str>,
        "revision" => revision: f64,
        "actor" => actor: Actor<'de>,
        "request" => request: Request<'de>,
        "auth" => auth: Auth<'de>,
        "staged" => staged: Box<Staged<'de>>,
    }
}

object! {
    /// `data.package`.
    Package {
        "ecosystem" => ecosystem: Cow<'de, str>,
        "name" => name: Cow<'de, str>,
        "version" => version: Cow<'de, str>,
        "integrity" => integrity: Cow<'de, str>,
    }
}

object! {
    /// The acting party.
    Actor {
        "kind" => kind: Cow<'de, str>,
        "username" => username: Cow<'de, str>,
    }
}

object! {
    /// The request by which the act reached the registry.
    Request {
        "ip" => ip: Cow<'de, str>,
        "edgeTor" => edge_tor: bool,
        "userAgent" => user_agent: Cow<'de, str>,
    }
}

object! {
    /// The publisher's authentication.
    Auth {
        "credential" => credential: Cow<'de, str>,
        "bypass2fa" => bypass2fa: bool,
        "amr" => amr: Vec<Cow<'de, str>>,
        "acr" => acr: Cow<'de, str>,
        "secondFactor" => second_factor: SecondFactor<'de>,
    }
}

object! {
    /// The registry's report about the second factor.
    SecondFactor {
        "presented" => presented: bool,
        "verified" => verified: bool,
        "method" => method: Cow<'de, str>,
        "verifiedAt" => verified_at: Cow<'de, str>,
    }
}

object! {
    /// The staging act of a staged version.
    Staged {
        "at" => at: Cow<'de, str>,
        "actor" => actor: Actor<'de>,
        "request" => request: Request<'de>,
        "auth" => auth: Auth<'de>,
    }
}
