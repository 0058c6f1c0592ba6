//! Generates the parts of an event for which no public data exists: the address and the authentication. The shares
//! roughly follow the registry's history, so that every kind of answer occurs.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use model::Timestamp;
use serde_json::{Value, json};

use crate::exit_lists::ExitLists;
use crate::random::Random;

/// Shares in per mille since a day, newest first. Before the last day the share is 0.
type Shares = &'static [(&'static str, u64)];

/// Shares in per mille: publications over Tor, without an address, with a private address.
const OVER_TOR: u64 = 22;
const WITHOUT_ADDRESS: u64 = 15;
const NOT_GLOBAL: u64 = 3;
const IPV6: Shares = &[("2018", 80), ("2014", 30)];
/// Events without authentication data, mostly old ones.
const NOT_REPORTED: Shares = &[("2017", 20), ("2014", 150), ("2010", 600)];
/// npm has had automation tokens since then.
const AUTOMATION: Shares = &[("2021", 250), ("2020-10-02", 150)];
/// npm has had second factors since 2017-10-04, and has required them for more publishers over time.
const SECOND_FACTOR: Shares =
    &[("2022", 600), ("2021", 400), ("2020", 250), ("2019", 150), ("2018", 80), ("2017-10-04", 40)];
/// Security keys were added late.
const WEBAUTHN: Shares = &[("2022", 300), ("2021", 50)];

/// First octets and groups of public networks that contain no block that is not global.
const V4_NETWORKS: &[u8] =
    &[24, 31, 46, 62, 71, 77, 80, 81, 82, 84, 85, 86, 87, 88, 89, 93, 94, 95, 109, 176, 178, 217];
const V6_NETWORKS: &[u16] = &[0x2409, 0x2600, 0x2601, 0x2804, 0x2a00, 0x2a01, 0x2a02];

/// A publisher's address; `None` for an event without one.
pub(crate) fn address(random: &mut Random, at: Timestamp, lists: &ExitLists) -> Option<String> {
    let kind = random.below(1_000);
    if kind < OVER_TOR {
        return exit(random, at, lists).map(str::to_owned);
    }
    if kind < OVER_TOR + WITHOUT_ADDRESS {
        return None;
    }
    if kind < OVER_TOR + WITHOUT_ADDRESS + NOT_GLOBAL {
        return Some(Ipv4Addr::new(10, byte(random), byte(random), byte(random)).to_string());
    }
    loop {
        let address: IpAddr = if random.per_mille(share(IPV6, at)) {
            let groups: [u16; 7] = std::array::from_fn(|_| group(random));
            let [b, c, d, e, f, g, h] = groups;
            Ipv6Addr::new(random.pick(V6_NETWORKS), b, c, d, e, f, g, h).into()
        } else {
            let network = random.pick(V4_NETWORKS);
            Ipv4Addr::new(network, byte(random), byte(random), byte(random)).into()
        };
        if !lists.is_exit(address) {
            return Some(address.to_string());
        }
    }
}

/// An exit at that time. If the earlier lists are too old, one from the next list, as with real lists, which are
/// delayed. `None` without such a list.
fn exit(random: &mut Random, at: Timestamp, lists: &ExitLists) -> Option<&'static str> {
    let list = lists.before(at).or_else(|| lists.after(at))?;
    Some(random.pick(&lists.addresses(list)))
}

/// The kind of actor, and the event's authentication data.
pub(crate) fn authentication(random: &mut Random, at: Timestamp) -> (&'static str, Value) {
    if random.per_mille(share(NOT_REPORTED, at)) {
        return ("unknown", Value::Null);
    }
    if random.per_mille(share(AUTOMATION, at)) {
        return ("workflow", json!({ "credential": "automation_token", "bypass2fa": true }));
    }
    let auth = if random.per_mille(share(SECOND_FACTOR, at)) {
        with_second_factor(random, at)
    } else {
        match random.below(10) {
            0 | 1 => json!({ "credential": "password" }),
            2 => json!({ "credential": "session_token" }),
            _ => json!({ "credential": "session_token", "secondFactor": { "presented": false } }),
        }
    };
    ("user", auth)
}

/// Most second factors are verified. A few do not count, or only the login's methods are known.
fn with_second_factor(random: &mut Random, at: Timestamp) -> Value {
    let method = if random.per_mille(share(WEBAUTHN, at)) { "webauthn" } else { "totp" };
    let seconds_before = 1 + random.below(60);
    let (method, verified, seconds_before) = match random.below(100) {
        0 | 1 => (method, false, seconds_before),
        // Too long before the publication to count.
        2 => (method, true, 1_200),
        3 | 4 => ("recovery_code", true, seconds_before),
        5 => return json!({ "credential": "session_token", "amr": ["pwd", "otp"] }),
        _ => (method, true, seconds_before),
    };
    let verified_at = at.before(Duration::from_secs(seconds_before)).to_rfc3339_millis();
    json!({
        "credential": "session_token",
        "secondFactor": {
            "presented": true,
            "verified": verified,
            "method": method,
            "verifiedAt": verified_at,
        },
    })
}

fn share(shares: Shares, at: Timestamp) -> u64 {
    // RFC 3339 times and their prefixes sort as text.
    let day = at.to_rfc3339_millis();
    shares.iter().find(|(since, _)| day.as_str() >= *since).map_or(0, |&(_, share)| share)
}

const fn byte(random: &mut Random) -> u8 {
    let [byte, ..] = random.next().to_le_bytes();
    byte
}

const fn group(random: &mut Random) -> u16 {
    let [low, high, ..] = random.next().to_le_bytes();
    u16::from_le_bytes([low, high])
}

#[cfg(test)]
mod tests {
    use super::*;
    use enrich::address::{Parsed, parse};

    #[test]
    fn networks_are_global_throughout() {
        for &network in V4_NETWORKS {
            for (second, third) in (0..=255).flat_map(|second| [(second, 0), (second, 255)]) {
                let address = Ipv4Addr::new(network, second, third, 1).to_string();
                assert!(matches!(parse(&address), Parsed::Global(_)), "{network}.{second}");
            }
        }
        for &network in V6_NETWORKS {
            for second in 0..=u16::MAX {
                let address = Ipv6Addr::new(network, second, 0, 0, 0, 0, 0, 1).to_string();
                assert!(matches!(parse(&address), Parsed::Global(_)), "{network:x}:{second:x}");
            }
        }
    }

    #[test]
    fn shares_follow_the_day() {
        let at = |text| Timestamp::parse(text).unwrap();
        assert_eq!(share(SECOND_FACTOR, at("2017-10-03T23:59:59.999Z")), 0);
        assert_eq!(share(SECOND_FACTOR, at("2017-10-04T00:00:00Z")), 40);
        assert_eq!(share(SECOND_FACTOR, at("2031-01-01T00:00:00Z")), 600);
    }
}
