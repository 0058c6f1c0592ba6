//! Runs the statements of a plan: one for all keys, one for the histories of all names, one for each page and each
//! search.

use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

use model::{History, PackageName, Past, Publication, PublicationId, histories};

use super::Executor;
use super::fetched::{Fetched, FoundHistory, Listed};
use super::plan::{Plan, WithHistory};
use crate::admission::Permits;
use crate::error::{Code, QueryError};

impl Executor {
    /// Runs the statements of a plan. Adds the rows that it reads for histories to `read`, also when it fails.
    pub(crate) async fn fetch(
        &self,
        plan: &Plan,
        permits: Permits<'_>,
        read: &mut u64,
    ) -> Result<Fetched, QueryError> {
        self.metrics.keys.observe(plan.asked as f64);
        let mut fetched = Fetched {
            rows: self.find(&plan.keys).await?,
            pages: self.list(plan, permits).await?,
            ..Fetched::default()
        };
        for search in &plan.searches {
            let mut names = Vec::new();
            if let Some(prefix) = &search.prefix {
                let found = self.reader.search(prefix, search.after.as_deref(), search.first);
                names = self.scan(permits, "search", found).await?;
            }
            fetched.searches.push(names);
        }
        if !plan.with_history.is_empty() {
            self.histories(plan, permits, &mut fetched, read).await?;
        }
        Ok(fetched)
    }

    /// Without keys there is no statement.
    async fn find(&self, keys: &[PublicationId]) -> Result<Vec<Option<Publication>>, QueryError> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        self.timed("find", self.reader.find(keys)).await
    }

    async fn list(&self, plan: &Plan, permits: Permits<'_>) -> Result<Vec<Listed>, QueryError> {
        let mut pages = Vec::with_capacity(plan.pages.len());
        for page in &plan.pages {
            let mut rows = Vec::new();
            if let Some(filter) = &page.filter {
                // One row more than asked for shows whether there is a next page.
                let listed = self.reader.list(filter, page.after.as_ref(), page.first + 1);
                rows = self.scan(permits, "list", listed).await?;
            }
            let has_next = rows.len() > page.first as usize;
            rows.truncate(page.first as usize);
            pages.push(Listed { rows, has_next, has_previous: page.after.is_some() });
        }
        Ok(pages)
    }

    /// Reads the histories of the rows. A name counts once, however many of its versions were asked for.
    async fn histories(
        &self,
        plan: &Plan,
        permits: Permits<'_>,
        fetched: &mut Fetched,
        read: &mut u64,
    ) -> Result<(), QueryError> {
        let mut asked: BTreeMap<&PackageName, Vec<&Publication>> = BTreeMap::new();
        for part in &plan.with_history {
            let rows: Vec<&Publication> = match part {
                WithHistory::Keys(keys) => {
                    fetched.rows.get(keys.clone()).unwrap_or_default().iter().flatten().collect()
                }
                WithHistory::Page(page) => {
                    fetched.pages.get(*page).map_or(Vec::new(), |page| page.rows.iter().collect())
                }
            };
            for row in rows {
                asked.entry(&row.id.name).or_default().push(row);
            }
        }
        let names: Vec<PackageName> = asked.keys().map(|name| (*name).clone()).collect();
        if names.is_empty() {
            return Ok(());
        }
        let mut found = HashMap::new();
        let mut each = |name: &PackageName, rows: &[Past<'_>]| {
            let own = asked.get(name).map_or(&[][..], Vec::as_slice);
            // A statement whose session ends is run again, and gives names a second time.
            if own.first().is_some_and(|row| !found.contains_key(&row.id)) {
                *read += rows.len() as u64;
            }
            let past: Vec<Past<'_>> =
                own.iter().map(|row| Past::of(&row.id.version, &row.info)).collect();
            let ids = own.iter().map(|row| row.id.clone());
            let histories = histories(&past, rows).into_iter();
            let histories = histories.map(|history| FoundHistory { history, strongest: None });
            found.extend(ids.zip(histories));
        };
        let limit = self.limits.max_history;
        let _permit = permits.history().await;
        let reading = self.reader.history(&names, limit, &mut each);
        let extent = self.scan(permits, "history", reading).await?;
        if !extent.is_complete {
            // The package that passed the limit was read too.
            *read = (*read).max(limit);
            return Err(too_much_history(limit, names.len()));
        }
        if plan.with_strongest {
            self.strongest(&mut found).await?;
        }
        fetched.histories = found;
        Ok(())
    }

    /// Reads the rows of the strongest publications in one statement.
    async fn strongest(
        &self,
        found: &mut HashMap<PublicationId, FoundHistory>,
    ) -> Result<(), QueryError> {
        let mut keys: Vec<_> =
            found.iter().filter_map(|(id, found)| strongest_of(id, &found.history)).collect();
        keys.sort_unstable();
        keys.dedup();
        let rows = self.find(&keys).await?.into_iter().flatten();
        let rows: HashMap<_, _> = rows.map(|row| (row.id, row.info)).collect();
        for (id, found) in found {
            let key = strongest_of(id, &found.history);
            found.strongest = key.and_then(|key| rows.get(&key).cloned());
        }
        Ok(())
    }

    /// Runs a statement that may read many rows.
    async fn scan<T>(
        &self,
        permits: Permits<'_>,
        statement: &str,
        asking: impl Future<Output = Result<T, store::Error>>,
    ) -> Result<T, QueryError> {
        let _permit = permits.scan().await;
        self.timed(statement, asking).await
    }

    async fn timed<T>(
        &self,
        statement: &str,
        asking: impl Future<Output = Result<T, store::Error>>,
    ) -> Result<T, QueryError> {
        let started = Instant::now();
        let answer = asking.await;
        let seconds = self.metrics.store_seconds.with_label_values(&[statement]);
        seconds.observe(started.elapsed().as_secs_f64());
        answer.map_err(|error| self.store_error(&error))
    }

    /// Logs the error of the store and returns one without its text, which may name hosts and files.
    fn store_error(&self, error: &store::Error) -> QueryError {
        self.metrics.store_errors_total.with_label_values(&[error.class()]).inc();
        let passes = error.passes();
        if let Some(left_out) = self.quiet.next() {
            if passes {
                tracing::warn!(%error, left_out, "the store did not answer");
            } else {
                tracing::error!(%error, left_out, "the store failed");
            }
        }
        if passes {
            let message = "the database is not available; try again";
            QueryError::new(Code::StoreUnavailable, message).retry_after(1)
        } else {
            // A right, a table or a column is missing, or the file is damaged. Another instance may still answer.
            let message = "the database cannot be used; the server's log says why";
            QueryError::new(Code::StoreUnavailable, message)
        }
    }
}

fn strongest_of(id: &PublicationId, history: &History) -> Option<PublicationId> {
    let version = history.strongest.clone()?;
    Some(PublicationId { name: id.name.clone(), version })
}

fn too_much_history(maximum: u64, packages: usize) -> QueryError {
    let limit = "limits.max_history";
    let message = match packages {
        1 => format!(
            "the package has more than {maximum} publications, too many for a history ({limit})"
        ),
        _ => format!(
            "the histories asked for have more than {maximum} rows ({limit}); ask for fewer packages at once"
        ),
    };
    QueryError::limit(limit, maximum, None, message)
}
