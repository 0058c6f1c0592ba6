//! Execution: a plan from the selections and the arguments, one statement for all keys, rows written into the answer.

mod arguments;
mod collect;
mod cursor;
mod plan;
mod shape;
mod variables;
mod write;

use std::sync::Arc;
use std::time::Instant;

use apollo_compiler::ExecutableDocument;
use apollo_compiler::executable::Operation;
use apollo_compiler::introspection;
use apollo_compiler::response::ExecutionResponse;
use apollo_compiler::validation::Valid;
use model::Publication;
use store::PublicationReader;

use self::collect::Collector;
use self::plan::{Plan, Planner};
use self::write::{Answers, TooLong, Writer};
use crate::budget::{Turn, WorkBudget};
use crate::config::Limits;
use crate::error::{Code, Exceeded, QueryError, write_errors};
use crate::metrics::QueryMetrics;
use crate::schema::ApiSchema;

pub(crate) use self::variables::{Given, Variables};

/// What execution needs and does not change.
pub(crate) struct Executor {
    pub(crate) schema: ApiSchema,
    pub(crate) limits: Limits,
    pub(crate) ecosystem: String,
    pub(crate) reader: Arc<dyn PublicationReader>,
    pub(crate) work: WorkBudget,
    pub(crate) metrics: QueryMetrics,
}

/// An answer that has `data`.
#[derive(Debug)]
pub(crate) struct Executed {
    /// The whole body.
    pub(crate) body: String,
    /// Whether it has errors beside the data.
    pub(crate) partial: bool,
    /// Publications that were asked for.
    pub(crate) asked: u64,
    /// Whether every publication that was asked for is there and settled, so that the answer is likely to stay.
    pub(crate) settled: bool,
}

/// How a document is to be executed.
pub(crate) struct Call<'a> {
    /// The operation of that name, or the only one.
    pub(crate) operation_name: Option<&'a str>,
    pub(crate) variables: Given<'a>,
    /// What the request holds of the work budget already.
    pub(crate) turn: Turn<'a>,
    /// Asked with the number of publications before any work for them.
    pub(crate) admit: &'a (dyn Fn(u64) -> Result<(), QueryError> + Sync),
}

impl Executor {
    /// Executes an operation of the document.
    pub(crate) async fn execute(
        &self,
        document: &Valid<ExecutableDocument>,
        call: Call<'_>,
    ) -> Result<Executed, QueryError> {
        let operation = document.operations.get(call.operation_name).map_err(|error| {
            QueryError::new(Code::OperationResolution, error.message().to_string())
        })?;
        let variables = Variables::coerce(&self.schema.valid, operation, call.variables)?;
        let planner = Planner {
            collector: Collector { document, variables: &variables },
            limits: &self.limits,
            ecosystem: &self.ecosystem,
        };
        let plan = planner.plan(operation)?;
        (call.admit)(plan.asked)?;
        self.metrics.keys.observe(plan.asked as f64);
        let _turn = self.work.enough(call.turn, plan.asked).await;
        let meta = self.introspect(document, operation, &variables, &plan)?;
        let rows = self.find(&plan).await?;
        let pages = self.list(&plan).await?;
        self.write(plan, &rows, &pages, meta)
    }

    /// One statement for all keys; none where there is no key.
    async fn find(&self, plan: &Plan<'_>) -> Result<Vec<Option<Publication>>, QueryError> {
        if plan.keys.is_empty() {
            return Ok(Vec::new());
        }
        let started = Instant::now();
        let found = self.reader.find(&plan.keys).await;
        self.metrics
            .store_seconds
            .with_label_values(&["find"])
            .observe(started.elapsed().as_secs_f64());
        found.map_err(|error| self.store_error(&error))
    }

    async fn list(&self, plan: &Plan<'_>) -> Result<Vec<Vec<Publication>>, QueryError> {
        let mut pages = Vec::with_capacity(plan.pages.len());
        for page in &plan.pages {
            let Some(filter) = &page.filter else {
                pages.push(Vec::new());
                continue;
            };
            let started = Instant::now();
            // One more than asked for says whether there is a next page.
            let listed = self.reader.list(filter, page.after.as_ref(), page.first + 1).await;
            let seconds = started.elapsed().as_secs_f64();
            self.metrics.store_seconds.with_label_values(&["list"]).observe(seconds);
            pages.push(listed.map_err(|error| self.store_error(&error))?);
        }
        Ok(pages)
    }

    fn introspect(
        &self,
        document: &Valid<ExecutableDocument>,
        operation: &Operation,
        variables: &Variables<'_>,
        plan: &Plan<'_>,
    ) -> Result<Option<ExecutionResponse>, QueryError> {
        if !plan.has_meta {
            return Ok(None);
        }
        introspection::check_max_depth(document, operation)
            .and_then(|()| {
                let variables = variables.to_apollo();
                let implementers = self.schema.implementers();
                let schema = &self.schema.valid;
                introspection::partial_execute(
                    schema,
                    implementers,
                    document,
                    operation,
                    &variables,
                )
            })
            .map(Some)
            .map_err(|error| {
                QueryError::new(Code::ValidationFailed, error.message().to_string())
                    .at(error.location(), &document.sources)
            })
    }

    fn write(
        &self,
        mut plan: Plan<'_>,
        rows: &[Option<Publication>],
        pages: &[Vec<Publication>],
        meta: Option<ExecutionResponse>,
    ) -> Result<Executed, QueryError> {
        let max_length = usize::try_from(self.limits.max_answer.as_u64()).unwrap_or(usize::MAX);
        let mut writer =
            Writer { out: String::with_capacity(256), ecosystem: &self.ecosystem, max_length };
        let (meta, meta_errors) = meta.map_or((None, Vec::new()), |meta| (meta.data, meta.errors));
        plan.errors.extend(meta_errors.into_iter().map(|error| QueryError {
            locations: error.locations,
            ..QueryError::new(Code::BadUserInput, error.message)
        }));
        writer.out.push('{');
        if !plan.errors.is_empty() {
            plan.errors.truncate(self.limits.max_errors);
            write_errors(&mut writer.out, &plan.errors, self.limits.max_error_length);
            writer.out.push(',');
        }
        writer.out.push_str("\"data\":");
        let answers = Answers { rows, pages, meta: meta.as_ref() };
        writer.data(&plan, &answers).map_err(|TooLong| {
            let maximum = self.limits.max_answer.as_u64();
            let exceeded = Exceeded { limit: "limits.max_answer", maximum, actual: None };
            let message = format!(
                "the answer would be longer than {maximum} bytes (limits.max_answer); ask for less at once"
            );
            QueryError::limit(exceeded, message)
        })?;
        writer.out.push('}');
        Ok(Executed {
            body: writer.out,
            partial: !plan.errors.is_empty(),
            asked: plan.asked,
            settled: plan.asked == rows.len() as u64 && rows.iter().all(is_settled),
        })
    }

    /// The store's own words go to the log: they may name hosts and files.
    fn store_error(&self, error: &store::Error) -> QueryError {
        self.metrics.store_errors_total.with_label_values(&[error.class()]).inc();
        if error.passes() {
            tracing::warn!(%error, "the store did not answer");
            QueryError::new(Code::StoreUnavailable, "the database is not available; try again")
        } else {
            tracing::error!(%error, "the store failed");
            QueryError::new(
                Code::Internal,
                "the request could not be answered; the server's log says why",
            )
        }
    }
}

/// Whether the row is there and no later list of exits can change it.
fn is_settled(row: &Option<Publication>) -> bool {
    row.as_ref().is_some_and(|row| row.info.tor_settled)
}

#[cfg(test)]
mod differential;
#[cfg(test)]
mod tests;
