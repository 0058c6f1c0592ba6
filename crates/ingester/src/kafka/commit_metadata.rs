//! What a commit says beside the offset, in the text that Kafka keeps with it.

use std::fmt::Write as _;

/// What a commit says beside the offset.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct CommitMetadata {
    /// The evidence fingerprint by which the verdicts of the partition are settled.
    pub(crate) settled_by: Option<String>,
    /// The cluster that the topic is in.
    pub(crate) cluster: Option<String>,
    /// The id of the topic. It shows that an offset belongs to a deleted topic of the same name.
    pub(crate) topic_id: Option<String>,
    /// Whether the table has an account of the partition. Where it is gone, the table was emptied.
    pub(crate) has_account: bool,
    /// The last replay that was done. A table without it has lost what it wrote.
    pub(crate) replay: Option<i64>,
}

const SETTLED_BY: &str = "evidence=";
const CLUSTER: &str = "cluster=";
const TOPIC_ID: &str = "topic-id=";
const ACCOUNT: &str = "account=kept";
const REPLAY: &str = "replay=";

impl CommitMetadata {
    /// Reads what [`Self::to_text`] wrote; what an earlier version or somebody else left out is none.
    pub(crate) fn parse(text: &str) -> Self {
        let value = |key| {
            let found = text.split(' ').find_map(|part| part.strip_prefix(key));
            found.map(str::to_owned)
        };
        Self {
            settled_by: value(SETTLED_BY),
            cluster: value(CLUSTER),
            topic_id: value(TOPIC_ID),
            has_account: text.split(' ').any(|part| part == ACCOUNT),
            replay: value(REPLAY).and_then(|text| text.parse().ok()),
        }
    }

    /// Whether the ingester wrote it, this version or an earlier one. Other tools write none.
    pub(crate) fn is_own(&self) -> bool {
        *self != Self::default()
    }

    /// One line, parts with a blank between them; empty where nothing is known.
    pub(crate) fn to_text(&self) -> String {
        let mut text = String::new();
        let replay = self.replay.map(|number| number.to_string());
        let account = self.has_account.then(String::new);
        let parts = [
            (SETTLED_BY, &self.settled_by),
            (CLUSTER, &self.cluster),
            (TOPIC_ID, &self.topic_id),
            (ACCOUNT, &account),
            (REPLAY, &replay),
        ];
        for (key, value) in parts {
            if let Some(value) = value {
                let blank = if text.is_empty() { "" } else { " " };
                // Writing to a string does not fail.
                let _ = write!(text, "{blank}{key}{value}");
            }
        }
        text
    }
}
