//! GraphQL over HTTP, in the profile of the common clients and of npm's `graphql-http` audits. With `application/json`
//! every well-formed GraphQL request gets status 200. With `application/graphql-response+json` a request that was not
//! executed gets status 400.
//!
//! A request passes these files in order: `routes` (common work for every route, dispatch), `head` (client,
//! authentication, media type), `request` (parameters), `graphql` (document, plan, rows), `response`.

mod context;
mod graphiql;
mod graphql;
mod head;
mod page;
mod persisted;
mod request;
mod response;
mod routes;

use std::sync::Arc;

use crate::access::Access;
use crate::admission::Admission;
use crate::cache::Cache;
use crate::config::QuerySettings;
use crate::document::Prepared;
use crate::execute::Executor;

pub(crate) use self::persisted::PersistedQueries;
pub(crate) use self::routes::router;

/// The state that the handlers share.
pub(crate) struct App {
    pub(crate) settings: QuerySettings,
    pub(crate) access: Access,
    pub(crate) admission: Admission,
    /// Validated documents by their text.
    pub(crate) documents: Cache<Arc<str>, Arc<Prepared>>,
    pub(crate) persisted: PersistedQueries,
    pub(crate) executor: Executor,
}

#[cfg(test)]
mod tests;
