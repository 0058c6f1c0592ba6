//! The daemon's configuration of a seed.

use sha2::{Digest as _, Sha256};

use crate::random::Random;
use crate::{one_in, pick};

/// Secrets that must not be printed.
pub(crate) const PASSWORD: &str = "open-sesame-7";
pub(crate) const TOKEN: &str = "f00dfacef00dfacef00dfacef00dface";
/// The allowed origin, when origins are configured.
pub(crate) const ORIGIN: &str = "https://good.example";

#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) sqlite: bool,
    /// Whether rows are added during requests.
    pub(crate) growing: bool,
    pub(crate) tokens: bool,
    pub(crate) origins: bool,
    pub(crate) max_refs: usize,
    pub(crate) max_pages: usize,
    pub(crate) max_history: usize,
    pub(crate) max_body: usize,
    pub(crate) max_document: usize,
    pub(crate) max_tokens: usize,
    pub(crate) max_depth: usize,
    pub(crate) max_definitions: usize,
    pub(crate) max_selections: usize,
    pub(crate) max_answer: usize,
    /// Whether persisted queries are turned off.
    pub(crate) no_persisted: bool,
}

/// The promise of `limits.max_memory`.
pub(crate) const MAX_MEMORY: u64 = 128 << 20;

impl Settings {
    pub(crate) fn of(random: &mut Random) -> Self {
        Self {
            sqlite: one_in(random, 3),
            growing: !one_in(random, 3),
            tokens: one_in(random, 3),
            origins: one_in(random, 3),
            max_refs: pick(random, &[200, 1_000, 5_000]),
            max_pages: pick(random, &[2, 10]),
            max_history: pick(random, &[100, 500_000]),
            max_body: pick(random, &[256 << 10, 1 << 20]),
            max_document: pick(random, &[48 << 10, 64 << 10]),
            max_tokens: pick(random, &[3_000, 4_000]),
            max_depth: pick(random, &[24, 32]),
            max_definitions: pick(random, &[48, 64]),
            max_selections: pick(random, &[1_000, 2_000]),
            max_answer: pick(random, &[1 << 20, 2 << 20]),
            no_persisted: one_in(random, 6),
        }
    }

    pub(crate) fn environment(&self) -> Vec<(String, String)> {
        let limits = [
            ("MAX_REFS", self.max_refs.to_string()),
            ("MAX_PAGES", self.max_pages.to_string()),
            ("MAX_HISTORY", self.max_history.to_string()),
            ("MAX_BODY", format!("{}B", self.max_body)),
            ("MAX_DOCUMENT", format!("{}B", self.max_document)),
            ("MAX_TOKENS", self.max_tokens.to_string()),
            ("MAX_DEPTH", self.max_depth.to_string()),
            ("MAX_DEFINITIONS", self.max_definitions.to_string()),
            ("MAX_SELECTIONS", self.max_selections.to_string()),
            ("MAX_ANSWER", format!("{}B", self.max_answer)),
        ];
        let mut all: Vec<(String, String)> =
            limits.map(|(name, value)| (format!("QUERY_LIMITS__{name}"), value)).into();
        let mut set = |name: &str, value: String| all.push((format!("QUERY_{name}"), value));
        set("REGISTRY__HOSTS", "[\"registry.example\"]".to_owned());
        set("STORE__CONNECT_TIMEOUT", "2s".to_owned());
        set("STORE__STATEMENT_TIMEOUT", "3s".to_owned());
        set("HTTP__REQUEST_TIMEOUT", "8s".to_owned());
        set("HTTP__ACCESS_LOG", "true".to_owned());
        if self.tokens {
            let hash: String =
                Sha256::digest(TOKEN).iter().map(|byte| format!("{byte:02x}")).collect();
            set("ACCESS__TOKENS", format!("[\"ci {hash}\"]"));
        }
        if self.origins {
            set("ACCESS__CORS_ORIGINS", format!("[\"{ORIGIN}\"]"));
        }
        if self.no_persisted {
            set("CACHE__PERSISTED_QUERIES", "0B".to_owned());
        }
        all
    }
}
