//! Execution: a plan from selections and arguments, one statement for all keys, rows written into the answer.

mod arguments;
mod collect;
mod cursor;
mod fetch;
mod fetched;
mod fields;
mod plan;
mod variables;
mod write;

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use apollo_compiler::introspection;
use apollo_compiler::response::{JsonMap, JsonValue};
use apollo_compiler::validation::Valid;
use model::Publication;
use serde_json::value::RawValue;
use service::quiet::Quiet;
use store::PublicationReader;

use self::collect::Collector;
use self::plan::Planner;
use self::variables::Variables;
use self::write::{Found, Stop, Writer};
use crate::config::{Limits, RegistrySettings};
use crate::document::Prepared;
use crate::error::{Code, QueryError};
use crate::metrics::QueryMetrics;
use crate::schema::ApiSchema;
use crate::schema::one_of;

pub(crate) use self::fetched::{Fetched, FoundHistory, Listed};
pub(crate) use self::plan::Plan;

/// The read-only context of the execution.
pub(crate) struct Executor {
    pub(crate) schema: ApiSchema,
    pub(crate) limits: Limits,
    pub(crate) registry: RegistrySettings,
    pub(crate) reader: Arc<dyn PublicationReader>,
    pub(crate) metrics: QueryMetrics,
    /// Limits the log lines about errors of the store.
    pub(crate) quiet: Quiet,
}

/// An answer with `data`.
#[derive(Debug)]
pub(crate) struct Executed {
    /// The whole response body.
    pub(crate) body: Vec<u8>,
    /// Whether the answer has errors in addition to data.
    pub(crate) is_partial: bool,
    /// How many publications were asked for.
    pub(crate) asked: u64,
    /// Whether publications were asked for and every one is present and settled. Such an answer is unlikely to change.
    pub(crate) is_settled: bool,
}

impl Executor {
    /// Plans the named operation, or the only one. A request over a limit is refused here.
    pub(crate) fn plan(
        &self,
        prepared: &Prepared,
        operation_name: Option<&str>,
        variables: Option<&RawValue>,
    ) -> Result<Plan, QueryError> {
        let operation = prepared.document.operations.get(operation_name).map_err(|error| {
            // It quotes the name, which can be as long as a body.
            unresolved(error).cut(self.limits.max_error_length)
        })?;
        let schema = &self.schema.valid;
        let variables = Variables::read(schema, operation, &self.limits, variables)?;
        let planner = Planner {
            collector: Collector {
                document: &prepared.document,
                variables: &variables,
                path: RefCell::default(),
                values: Cell::default(),
                with_history: Cell::default(),
                with_strongest: Cell::default(),
            },
            limits: &self.limits,
            registry: &self.registry,
        };
        planner.plan(operation)
    }

    /// Writes the answer for the plan of the operation. `introspected`: the document and the name of the operation, where the plan
    /// has an introspection.
    pub(crate) fn answer(
        &self,
        introspected: Option<(Arc<Prepared>, Option<&str>)>,
        plan: &Plan,
        fetched: &Fetched,
    ) -> Result<Executed, QueryError> {
        let meta = match (&plan.meta, introspected) {
            (Some(variables), Some((prepared, name))) => {
                Some(self.introspect(&prepared, name, variables)?)
            }
            _ => None,
        };
        self.write(plan, fetched, meta)
    }

    /// Runs the introspection. Returns its part of the answer and its errors.
    fn introspect(
        &self,
        prepared: &Prepared,
        operation_name: Option<&str>,
        variables: &Valid<JsonMap>,
    ) -> Result<(JsonMap, Vec<QueryError>), QueryError> {
        let document = &prepared.document;
        // The operation exists, because the plan was made from it.
        let operation = document.operations.get(operation_name).map_err(unresolved)?;
        let (schema, implementers) = (&self.schema.valid, self.schema.implementers());
        let answer =
            introspection::partial_execute(schema, implementers, document, operation, variables);
        let answer = answer.map_err(|error| {
            QueryError::new(Code::ValidationFailed, error.message().to_string())
                .at(error.location(), &document.sources)
        })?;
        let errors = answer.errors.into_iter().map(|error| QueryError {
            locations: error.locations,
            path: error.path,
            ..QueryError::new(Code::BadUserInput, error.message)
        });
        let errors = errors.collect();
        match answer.data.map(|data| one_of::restored(JsonValue::Object(data))) {
            Some(JsonValue::Object(data)) => Ok((data, errors)),
            _ => Ok((JsonMap::new(), errors)),
        }
    }

    fn write(
        &self,
        plan: &Plan,
        fetched: &Fetched,
        meta: Option<(JsonMap, Vec<QueryError>)>,
    ) -> Result<Executed, QueryError> {
        let (meta, mut errors) =
            meta.map_or((None, Vec::new()), |(data, errors)| (Some(data), errors));
        errors.extend(plan.broken.clone());
        let mut writer = Writer {
            out: Vec::with_capacity(256),
            errors,
            ecosystem: &self.registry.ecosystem,
            max_length: usize::try_from(self.limits.max_answer.as_u64()).unwrap_or(usize::MAX),
            max_errors: self.limits.max_errors,
            indexes: Vec::new(),
            histories: &fetched.histories,
        };
        let found = Found { fetched, meta: meta.as_ref(), registry: &self.registry };
        writer.raw("{\"data\":");
        // A non-null field with the value null makes the whole `data` null.
        let written = writer.nullable(|writer| data(plan, &found, writer));
        written.map_err(|_| self.too_long())?;
        let is_partial = !writer.errors.is_empty();
        if is_partial {
            let errors = std::mem::take(&mut writer.errors);
            let errors: Vec<QueryError> =
                errors.into_iter().map(|error| error.cut(self.limits.max_error_length)).collect();
            writer.raw(",\"errors\":");
            // Writing to a vector cannot fail.
            let _ = serde_json::to_writer(&mut writer.out, &errors);
        }
        writer.raw("}");
        // The errors and the closing brace count in `limits.max_answer` too.
        writer.check().map_err(|_| self.too_long())?;
        let rows = &fetched.rows;
        let is_complete =
            // Another build may have another schema.
            plan.meta.is_none()
                && plan.asked > 0
                && plan.asked == rows.len() as u64
                && plan.with_history.is_empty();
        Ok(Executed {
            body: writer.out,
            is_partial,
            asked: plan.asked,
            is_settled: is_complete && rows.iter().all(is_settled),
        })
    }

    /// The error for an answer longer than `limits.max_answer`.
    pub(crate) fn too_long(&self) -> QueryError {
        let maximum = self.limits.max_answer.as_u64();
        let message = format!(
            "the answer would be longer than {maximum} bytes (limits.max_answer); ask for less at once"
        );
        QueryError::limit("limits.max_answer", maximum, None, message)
    }
}

fn unresolved(error: apollo_compiler::request::RequestError) -> QueryError {
    QueryError::new(Code::OperationResolution, error.message().to_string())
}

fn data(plan: &Plan, found: &Found<'_>, writer: &mut Writer<'_>) -> Result<(), Stop> {
    if plan.broken.is_some() {
        return Err(Stop::Null);
    }
    writer.raw("{");
    for (index, root) in plan.roots.iter().enumerate() {
        writer.raw(if index > 0 { ",\"" } else { "\"" });
        writer.raw(&root.key);
        writer.raw("\":");
        if root.is_nullable {
            writer.nullable(|writer| (root.write)(writer, found))?;
        } else {
            (root.write)(writer, found)?;
        }
    }
    writer.raw("}");
    writer.check()
}

/// Whether the row exists and no later exit list can change it.
fn is_settled(row: &Option<Publication>) -> bool {
    row.as_ref().is_some_and(|row| row.info.tor_settled)
}

#[cfg(test)]
mod differential;
#[cfg(test)]
mod tests;
