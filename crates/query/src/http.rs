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

use crate::access::Access;
use crate::admission::Admission;
use crate::config::QuerySettings;
use crate::document::DocumentCache;
use crate::execute::Executor;

pub(crate) use self::persisted::PersistedQueries;
pub(crate) use self::response::Freshness;
pub(crate) use self::routes::router;

/// The state that the handlers share.
pub(crate) struct App {
    pub(crate) settings: QuerySettings,
    pub(crate) access: Access,
    pub(crate) admission: Admission,
    pub(crate) documents: DocumentCache,
    pub(crate) persisted: PersistedQueries,
    pub(crate) executor: Executor,
    pub(crate) freshness: Freshness,
}

#[cfg(test)]
mod tests;
