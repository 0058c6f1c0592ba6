//! A small in-memory store for the unit tests of this crate. The workspace's tests use the real databases.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use model::{
    Actor, Credential, EventIdentity, PackageName, Past, Publication, PublicationId,
    PublicationInfo, TfaReason, Timestamp, TorReason, Username,
};
use parking_lot::Mutex;
use service::metrics::{IntGauge, Registry};
use service::quiet::Quiet;
use store::{Cursor, EachPackage, Error, Filter, Order, PublicationReader, RowsRead};

use crate::access::Client;
use crate::admission::Admission;
use crate::config::{Limits, QuerySettings, RegistrySettings};
use crate::document;
use crate::error::QueryError;
use crate::execute::Executor;
use crate::metrics::QueryMetrics;
use crate::schema::ApiSchema;

/// Rows in memory. Counts the statements and keeps the last filter.
#[derive(Default)]
pub(crate) struct Memory {
    pub(crate) rows: Vec<Publication>,
    pub(crate) finds: AtomicUsize,
    pub(crate) lists: AtomicUsize,
    pub(crate) filter: Mutex<Option<Filter>>,
    pub(crate) away: std::sync::atomic::AtomicBool,
    /// A look-up panics.
    pub(crate) panics: std::sync::atomic::AtomicBool,
    /// Listings begin and never end.
    pub(crate) listings_hang: std::sync::atomic::AtomicBool,
}

impl Memory {
    fn answer(&self) -> Result<(), Error> {
        if self.away.load(Ordering::Relaxed) {
            return Err(Error::Transient("connection refused".into()));
        }
        Ok(())
    }
}

#[async_trait]
impl PublicationReader for Memory {
    async fn find(&self, ids: &[PublicationId]) -> Result<Vec<Option<Publication>>, Error> {
        self.finds.fetch_add(1, Ordering::Relaxed);
        assert!(!self.panics.load(Ordering::Relaxed), "as the test wants");
        self.answer()?;
        Ok(ids.iter().map(|id| self.rows.iter().find(|row| row.id == *id).cloned()).collect())
    }

    async fn list(
        &self,
        filter: &Filter,
        after: Option<&Cursor>,
        first: u32,
    ) -> Result<Vec<Publication>, Error> {
        self.lists.fetch_add(1, Ordering::Relaxed);
        if self.listings_hang.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        self.answer()?;
        *self.filter.lock() = Some(filter.clone());
        let mut rows = self.rows.clone();
        rows.retain(|row| filter.name.as_ref().is_none_or(|name| row.id.name == *name));
        let key = |row: &Publication| (row.info.created, row.id.clone());
        rows.sort_by_key(key);
        let after = after.map(|after| (after.created, after.id.clone()));
        if filter.order == Order::NewestFirst {
            rows.reverse();
            rows.retain(|row| after.as_ref().is_none_or(|after| key(row) < *after));
        } else {
            rows.retain(|row| after.as_ref().is_none_or(|after| key(row) > *after));
        }
        rows.truncate(first as usize);
        Ok(rows)
    }

    async fn history(
        &self,
        names: &[PackageName],
        limit: u64,
        each: EachPackage<'_>,
    ) -> Result<RowsRead, Error> {
        self.answer()?;
        let mut rows = 0;
        for name in names.iter().collect::<BTreeSet<_>>() {
            let of_it = self.rows.iter().filter(|row| row.id.name == *name);
            let past: Vec<_> = of_it.map(|row| Past::of(&row.id.version, &row.info)).collect();
            if rows + past.len() as u64 > limit {
                return Ok(RowsRead { rows, is_complete: false });
            }
            rows += past.len() as u64;
            if !past.is_empty() {
                each(name, &past);
            }
        }
        Ok(RowsRead { rows, is_complete: true })
    }

    async fn search(
        &self,
        prefix: &str,
        after: Option<&str>,
        first: u32,
    ) -> Result<Vec<PackageName>, Error> {
        self.answer()?;
        let names: BTreeSet<_> = self.rows.iter().map(|row| row.id.name.clone()).collect();
        let fits = |name: &PackageName| {
            name.as_str().starts_with(prefix) && after.is_none_or(|after| name.as_str() > after)
        };
        Ok(names.into_iter().filter(fits).take(first as usize).collect())
    }

    async fn ready(&self) -> Result<(), Error> {
        self.answer()
    }
}

/// The row of the example event (crates/model/README.md).
pub(crate) fn pg() -> Publication {
    Publication {
        id: PublicationId::new("pg", "7.12.0").unwrap(),
        info: PublicationInfo {
            username: Some(Username::new("brianc").unwrap()),
            created: Timestamp::parse("2019-07-25T18:09:11.204567Z").unwrap(),
            tor: Some(false),
            tfa: Some(true),
            tor_reason: TorReason::NotListed,
            tfa_reason: TfaReason::SecondFactor,
            tor_settled: true,
            credential: Credential::SessionToken,
            actor: Actor::User,
            disputed: false,
            integrity: None,
        },
        tor_evidence_until: None,
        revision: 0,
        generation: 0,
        identity: EventIdentity([0; 16]),
    }
}

/// A row with every flag unknown, created `seconds` after 1970.
pub(crate) fn unknown(name: &str, version: &str, seconds: i64) -> Publication {
    Publication {
        id: PublicationId::new(name, version).unwrap(),
        info: PublicationInfo {
            username: None,
            created: Timestamp::from_micros(seconds * 1_000_000),
            tor: None,
            tfa: None,
            tor_reason: TorReason::NoCoverage,
            tfa_reason: TfaReason::NotReported,
            tor_settled: false,
            credential: Credential::Unknown,
            actor: Actor::Unknown,
            disputed: true,
            integrity: None,
        },
        ..pg()
    }
}

/// The example row, a scoped name, two names that differ in case, and a name that needs escaping.
pub(crate) fn rows() -> Vec<Publication> {
    vec![
        pg(),
        unknown("@scope/x", "1.0.0+b", 1),
        unknown("JSONStream", "1.0.0", 2),
        unknown("jsonstream", "1.0.0", 2),
        unknown("q\"uote\\", "1", 3),
    ]
}

/// An executor over these rows.
pub(crate) fn executor(limits: Limits) -> (Executor, Arc<Memory>) {
    let memory = Arc::new(Memory { rows: rows(), ..Memory::default() });
    let executor = Executor {
        schema: ApiSchema::new(&limits, "").unwrap(),
        limits,
        registry: RegistrySettings {
            hosts: vec!["registry.example".into()],
            ..RegistrySettings::default()
        },
        reader: memory.clone(),
        metrics: QueryMetrics::register(&Registry::new()).unwrap(),
        quiet: Quiet::default(),
    };
    (executor, memory)
}

/// Admission with the default settings.
pub(crate) fn admission() -> Admission {
    Admission::new(&QuerySettings::default(), IntGauge::new("bytes", "Bytes").unwrap())
}

/// Prepares and executes a document. Returns the body, or the errors of a refused request.
pub(crate) async fn run(
    executor: &Executor,
    text: &str,
    variables: &str,
) -> Result<String, Vec<QueryError>> {
    run_admitted(executor, &admission(), text, variables).await
}

/// A client with an address of its own.
pub(crate) fn client(number: u32) -> Client {
    Client::of_address(Ipv4Addr::from_bits(number).into())
}

/// As [`run`], beside other requests that hold permits of this admission.
pub(crate) async fn run_admitted(
    executor: &Executor,
    admission: &Admission,
    text: &str,
    variables: &str,
) -> Result<String, Vec<QueryError>> {
    let document = document::prepare(&executor.schema, &executor.limits, text, false, None)?;
    let given = serde_json::from_str(variables).unwrap();
    let plan = executor.plan(&document, None, Some(given)).map_err(|error| vec![error])?;
    let fetched = executor.fetch(&plan, admission.of(client(1)), &mut 0).await;
    let fetched = fetched.map_err(|error| vec![error])?;
    let executed =
        executor.answer(Some((document, None)), &plan, &fetched).map_err(|error| vec![error])?;
    Ok(String::from_utf8(executed.body).unwrap())
}
