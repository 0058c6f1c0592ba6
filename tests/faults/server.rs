//! A PostgreSQL server that a standby replaces, or that has no connection left. Both fault runs share this.

use sqlx::{Connection as _, PgConnection};
use testkit::Postgres;

/// Ends the sessions of ingesters. Needs a role with the right to do so.
pub(crate) const END_OURS: &str = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
    WHERE application_name = 'publication'";
const COUNT_OURS: &str =
    "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'publication'";

/// A standby of the primary that has everything. If `lacks_commits`, it gets no later commit.
pub(crate) async fn standby_of(primary: &Postgres, lacks_commits: bool) -> Postgres {
    let standby = primary.standby();
    if lacks_commits {
        standby.hold_back(primary).await;
    } else {
        standby.catch_up_with(primary).await;
    }
    standby
}

/// Takes all free connections of a server, ends the ingesters' sessions, and takes the places that they leave. Returns
/// whether no ingester has a session.
pub(crate) async fn take_connections(store: &str, taken: &mut Vec<PgConnection>) -> bool {
    // The place of a session that ended is taken by the ingester or by this run, whoever comes first.
    for _ in 0..2 {
        while let Ok(connection) = PgConnection::connect(store).await {
            taken.push(connection);
        }
        let first = taken.first_mut().expect("the server takes connections");
        let ours = sqlx::query_scalar::<_, i64>(COUNT_OURS).fetch_one(&mut *first).await;
        match ours {
            Ok(0) => return true,
            Ok(_) => {
                sqlx::raw_sql(END_OURS).execute(first).await.expect("a superuser may");
            }
            Err(_) => return false,
        }
    }
    false
}
