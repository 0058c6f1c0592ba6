//! What is meant to hurt the API is refused or answered, and others do not notice. `cargo xtask bench hostile` shows the
//! whole of it; here it is smaller where size is all that matters.

use std::net::SocketAddr;

use sqlx::PgPool;
use testkit::hostile::{attacks, carry_out};

use crate::graphql_bulk::{add, migrated};
use crate::support::Query;

/// What the issue allows, in a release build; a build for tests takes some more.
const MEMORY: u64 = 150_000_000;
/// Words of an answer that nobody should get, whatever was asked.
const WRONG: [&str; 3] = ["500 ", "INTERNAL_SERVER_ERROR", "no answer"];

#[tokio::test]
async fn hostile_requests_hurt_nobody() {
    let store = migrated(testkit::postgres()).await;
    let pool = PgPool::connect(&store).await.unwrap();
    add(&pool, 0, 4_999, 1_000).await;
    pool.close().await;
    let mut query = Query::start(&store, &[]);
    let http: SocketAddr = query.http.parse().unwrap();
    for attack in attacks(20_000) {
        let survived = carry_out(&attack, http, query.running.daemon.pid());
        assert!(
            query.running.daemon.is_running(),
            "{}:\n{}",
            attack.name,
            query.running.daemon.log()
        );
        let wrong = WRONG.iter().find(|word| survived.answer.contains(**word));
        assert!(wrong.is_none(), "{}: {survived:?}", attack.name);
        assert!(survived.longest.is_some() && survived.others > 0, "{}: {survived:?}", attack.name);
        assert!(survived.peak < MEMORY, "{}: {survived:?}", attack.name);
    }
    query.running.stop();
}
