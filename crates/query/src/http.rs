//! GraphQL over HTTP, in the profile that its wide-spread clients and npm's `graphql-http` audits know: for a client
//! that takes only `application/json` every well-formed GraphQL answer is 200, for `application/graphql-response+json`
//! a request that was not executed is 400.
//!
//! A request goes through these files in their order: `routes` (what is done for every route, and where it goes),
//! `head` (who asks, and how), `request` (what it asks for), `graphql` (the document, the plan, the rows),
//! `response`.

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

/// What the handlers share.
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
