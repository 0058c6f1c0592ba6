//! The expected results of events: a second implementation of the merge rule, `tor` and `tfa`, from
//! crates/model/README.md and crates/enrich/README.md. It shares no code with the ingester.

use std::collections::BTreeMap;
use std::net::IpAddr;

use sha2::{Digest, Sha256};

use crate::event::{ACR, Act, Event, HOUR, MINUTE, SOURCE, Second, VerifiedAt, written};
use crate::support::Row;

/// An exit list in the folder: its time and its exits.
#[derive(Debug, Clone)]
pub(crate) struct List {
    pub(crate) time: i64,
    pub(crate) exits: Vec<String>,
}

/// The inputs of a verdict in addition to the event.
#[derive(Debug, Default)]
pub(crate) struct Evidence {
    /// The valid lists.
    pub(crate) lists: Vec<List>,
}

/// An event of a publication, which may have been sent several times.
#[derive(Debug, Clone)]
pub(crate) struct SentEvent<'e> {
    pub(crate) event: &'e Event,
    /// Whether it must have been read; otherwise it may have been read.
    pub(crate) must: bool,
    /// A lower bound of the generation that evaluated it last.
    pub(crate) generation: i32,
    /// The number of lists, in order of arrival, at its last evaluation.
    pub(crate) lists: usize,
}

impl SentEvent<'_> {
    /// Combines two records of the same event: the later evaluation counts.
    pub(crate) fn join(&mut self, other: &Self) {
        self.must |= other.must;
        self.generation = self.generation.max(other.generation);
        self.lists = self.lists.max(other.lists);
    }
}

/// The row that results when all these events are read, and the lowest generation that it may have. Flags are computed
/// for `generation`. Where the merge rule allows several reasons, the one in `found` is used.
pub(crate) fn row(
    events: &[&SentEvent<'_>],
    evidence: &Evidence,
    generation: i32,
    found: &Row,
) -> (Row, i32) {
    let revision = events.iter().map(|sent| sent.event.revision).max().unwrap_or(0);
    let of_revision = events.iter().filter(|sent| sent.event.revision == revision);
    let greatest = of_revision
        .clone()
        .min_by_key(|sent| (sent.event.created, identity(sent.event)))
        .expect("a publication has an event");
    let of_revision: Vec<&Event> = of_revision.map(|sent| sent.event).collect();
    let kept = greatest.event;
    let evidence = &Evidence { lists: evidence.lists[..greatest.lists].to_vec() };
    let integrities: Vec<&String> =
        of_revision.iter().filter_map(|event| event.integrity.as_ref()).collect();
    let disputed = of_revision
        .iter()
        .any(|event| event.created != kept.created || event.username != kept.username)
        || integrities.iter().any(|integrity| *integrity != integrities[0]);
    let (tor, tor_reason) = tor(kept, evidence);
    let tor_reason = earlier_reason(kept, evidence, found).unwrap_or(tor_reason);
    let (tfa, tfa_reason) = tfa(kept, generation);
    let flag = |flag: Option<bool>| flag.map(|flag| flag.to_string());
    let known = |word: Option<&'static str>, words: &[&str]| {
        word.filter(|word| words.contains(word)).unwrap_or("unknown").to_owned()
    };
    let credentials = ["session_token", "granular_token", "automation_token", "password", "oidc"];
    let columns = [
        ("name", Some(kept.name.clone())),
        ("version", Some(kept.version.clone())),
        ("username", kept.username.clone()),
        ("created", Some(written(kept.created))),
        ("tor", flag(tor)),
        ("tor_reason", Some(tor_reason.to_owned())),
        ("tor_settled", Some(settled(kept, evidence, tor).to_string())),
        ("tfa", flag(tfa)),
        ("tfa_reason", Some(tfa_reason.to_owned())),
        ("credential", Some(known(kept.act.credential, &credentials))),
        ("actor", Some(known(kept.kind, &["user", "workflow"]))),
        ("revision", Some(revision.to_string())),
        ("event_identity", Some(identity(kept))),
        ("disputed", Some(disputed.to_string())),
        ("integrity", integrities.into_iter().min().cloned()),
    ];
    let row = columns.into_iter().map(|(name, value)| (name.to_owned(), value));
    (row.collect::<BTreeMap<_, _>>(), greatest.generation)
}

/// The first 16 bytes of the SHA-256 of source, line feed and id, in hexadecimal.
pub(crate) fn identity(event: &Event) -> String {
    let digest = Sha256::digest(format!("{SOURCE}\n{}", event.id));
    digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

type Verdict = (Option<bool>, &'static str);

fn tor(event: &Event, evidence: &Evidence) -> Verdict {
    let outer = tor_of(&event.act, event.created, evidence);
    let Some((at, act)) = &event.staged else { return outer };
    let staging = tor_of(act, *at, evidence);
    match (outer.0, staging.0) {
        (Some(true), _) | (None, None | Some(false)) => outer,
        (_, Some(true)) | (Some(false), None) => staging,
        (Some(false), Some(false)) => outer,
    }
}

/// Of two evaluations with the same verdict and the same newest list, the merge keeps the smaller reason, which may
/// come from an evaluation with fewer lists. Only a staged version has two possible reasons.
fn earlier_reason(event: &Event, evidence: &Evidence, found: &Row) -> Option<&'static str> {
    let newest = |lists: &[List]| lists.iter().map(|list| list.time).max();
    let (verdict, now) = tor(event, evidence);
    let found = found.get("tor_reason")?.as_deref();
    let fewer = (0..evidence.lists.len()).map(|count| &evidence.lists[..count]);
    let fewer = fewer.filter(|lists| newest(lists) == newest(&evidence.lists));
    let mut verdicts = fewer.map(|lists| tor(event, &Evidence { lists: lists.to_vec() }));
    let is_kept = |reason: &str| now != "listed_after" && reason < now && Some(reason) == found;
    verdicts.find_map(|(tor, reason)| (tor == verdict && is_kept(reason)).then_some(reason))
}

fn tor_of(act: &Act, time: i64, evidence: &Evidence) -> Verdict {
    let address = act.address.as_ref().map(|text| text.parse::<IpAddr>());
    let text = match &address {
        Some(Ok(address)) => address.to_canonical().to_string(),
        _ => String::new(),
    };
    let times = |from: i64, to: i64| {
        evidence.lists.iter().filter(move |list| list.time >= from && list.time <= to)
    };
    let names = |list: &List| list.exits.contains(&text);
    if times(time - 24 * HOUR + 1, time).any(names) {
        return (Some(true), "snapshot");
    }
    if act.edge == Some(true) {
        return (Some(true), "edge");
    }
    if text.starts_with("2405:8100:8000:") {
        return (Some(true), "prefix");
    }
    let address = match address {
        None => return (None, "no_address"),
        Some(Err(_)) => return (None, "bad_address"),
        Some(Ok(address)) => address.to_canonical(),
    };
    if text.starts_with("10.") {
        return (None, "not_global");
    }
    if times(time + 1, time + 3 * HOUR).any(names) {
        return (None, "listed_after");
    }
    // The lists of this run have sixty IPv4 addresses and no IPv6 address.
    if address.is_ipv4() && times(time - 6 * HOUR, time + 3 * HOUR).next().is_some() {
        return (Some(false), "not_listed");
    }
    (None, "no_coverage")
}

fn settled(event: &Event, evidence: &Evidence, tor: Option<bool>) -> bool {
    let until = evidence.lists.iter().map(|list| list.time).max();
    let act = |act: &Act, time: i64| {
        let reason = tor_of(act, time, evidence).1;
        let final_reason = ["no_address", "bad_address", "not_global"].contains(&reason);
        final_reason || until.is_some_and(|until| until >= time + 3 * HOUR)
    };
    let staging = event.staged.as_ref();
    tor == Some(true)
        || act(&event.act, event.created) && staging.is_none_or(|(at, staging)| act(staging, *at))
}

/// Whether a generation trusts the level of assurance, for a rule that an operator changed: only even ones do.
pub(crate) fn believes(generation: i32) -> bool {
    generation % 2 == 0
}

fn tfa(event: &Event, generation: i32) -> Verdict {
    let act = &event.act;
    if let Some(verdict) = act.second.as_ref().and_then(|second| by_factor(second, event.created)) {
        return verdict;
    }
    if matches!(act.credential, Some("oidc" | "automation_token")) || act.bypass {
        return (Some(false), "no_human_factor");
    }
    let kind = |method: &str| match method {
        "pwd" | "pin" | "kba" => Some(0),
        "otp" | "hwk" | "swk" | "sc" | "sms" | "tel" | "pop" => Some(1),
        "face" | "fpt" | "iris" | "retina" | "vbm" => Some(2),
        _ => None,
    };
    let kinds: Vec<i32> = act.amr.iter().filter_map(|method| kind(method)).collect();
    if act.amr.contains(&"mfa") || kinds.iter().any(|kind| *kind != kinds[0]) {
        return (Some(true), "amr");
    }
    if !kinds.is_empty() {
        return (Some(false), "amr");
    }
    if act.acr == Some(ACR) {
        return (Some(believes(generation)), "acr");
    }
    if act.credential == Some("password") {
        return (Some(false), "password_only");
    }
    (None, "not_reported")
}

fn by_factor(second: &Second, time: i64) -> Option<Verdict> {
    let Second { presented, verified, method, verified_at } = second;
    if (presented, verified, method) == (&None, &None, &None) && *verified_at == VerifiedAt::Missing
    {
        return None;
    }
    let in_time = match verified_at {
        VerifiedAt::Missing => true,
        VerifiedAt::Unusable => false,
        VerifiedAt::At(at) => (time - 5 * MINUTE..=time).contains(at),
    };
    let known = matches!(method, Some("totp" | "webauthn" | "recovery_code" | "sms"));
    Some(if *verified == Some(true) && known && in_time {
        (Some(true), "second_factor")
    } else if *presented == Some(false) {
        (Some(false), "no_second_factor")
    } else {
        (Some(false), "second_factor_rejected")
    })
}
