//! The metadata of a commit: the text that Kafka stores with an offset.

use std::fmt::Write as _;

/// The values in a commit's metadata.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct CommitMetadata {
    /// The fingerprint of the evidence by which the partition is settled.
    pub(crate) settled_by: Option<String>,
    /// The cluster that the topic is in.
    pub(crate) cluster: Option<String>,
    /// The id of the topic. It shows that an offset belongs to a deleted topic of the same name.
    pub(crate) topic_id: Option<String>,
    /// Whether the table had an account of the partition. If it has none later, the table was emptied.
    pub(crate) has_account: bool,
    /// The number of the last finished replay. A table that lacks it has lost rows.
    pub(crate) replay: Option<i64>,
}

const SETTLED_BY: &str = "evidence=";
const CLUSTER: &str = "cluster=";
const TOPIC_ID: &str = "topic-id=";
const ACCOUNT: &str = "account=kept";
const REPLAY: &str = "replay=";

impl CommitMetadata {
    /// Reads the text of [`Self::to_text`]. A value that an earlier version or another program did not write is `None`.
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

    /// Whether the ingester wrote it, this version or an earlier one. Other programs write no such values.
    pub(crate) fn is_own(&self) -> bool {
        *self != Self::default()
    }

    /// The text: `key=value` parts separated by spaces; empty where no value is known.
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
