//! The positions that the table stores.

use super::*;

/// Neither the account nor a migration quotes a row, so that the operator reads who refuses them.
#[tokio::test]
async fn what_refuses_the_account_or_a_migration_is_said_in_its_own_words() {
    let store = Store::postgres().await;
    let refuse = "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not today'; END $$; \
        CREATE TRIGGER refuse BEFORE INSERT ON ingest_position FOR EACH ROW EXECUTE FUNCTION refuse()";
    store.execute(refuse).await;
    let accounts = crate::open(&store.settings).unwrap().positions;
    let key = PositionKey { group: "g".into(), topic_id: "t".into() };
    let error = accounts.claim(&key, "one", &[0]).await.unwrap_err();
    assert!(error.to_string().contains("not today (SQLSTATE P0001)"), "{error}");
    let forbid = "DROP TABLE publication, ingest_position, replay_job, _sqlx_migrations; DROP FUNCTION refuse; \
        CREATE FUNCTION forbid() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no change in December'; END $$; \
        CREATE EVENT TRIGGER forbid ON ddl_command_start EXECUTE FUNCTION forbid()";
    store.execute(forbid).await;
    let error = store.writer.migrate().await.unwrap_err();
    let is_said = error.to_string().contains("no change in December");
    assert!(is_said && matches!(error, Error::Fatal(_)), "{error}");
}

#[expect(clippy::too_many_lines, reason = "a test tells its steps in order")]
pub(super) async fn the_account_belongs_to_the_present_owner(store: Store) {
    let accounts = crate::open(&store.settings).unwrap().positions;
    let key = PositionKey { group: "g".into(), topic_id: "t".into() };
    let at = |next_offset| TablePosition { next_offset, leader_epoch: Some(3), evidence: None };
    let account = |partition, owner: &str, position: Option<TablePosition>| Account {
        partition,
        owner: owner.into(),
        position,
    };
    let claim = async |key: &PositionKey, owner: &str, partitions: &[i32]| {
        accounts.claim(key, owner, partitions).await.unwrap()
    };
    let database = claim(&key, "nobody", &[9]).await.database;
    let write = |partition, owner: &str, at_least, to| Advance {
        partition,
        owner: owner.into(),
        database: database.clone(),
        at_least,
        to,
    };
    let advance = async |positions: &[Advance]| {
        let advanced = accounts.advance(&key, positions).await.unwrap();
        assert_eq!(advanced.database, database);
        advanced.before
    };
    // Nothing is claimed yet: nothing is written.
    assert_eq!(advance(&[write(0, "one", None, at(5))]).await, [None]);
    let claimed = claim(&key, "one", &[2, 0]).await.accounts;
    assert_eq!(claimed, [account(2, "one", None), account(0, "one", None)]);
    let settled = TablePosition { evidence: Some("lists".into()), ..at(7) };
    let both = [write(2, "one", None, at(5)), write(0, "one", None, settled.clone())];
    assert_eq!(
        advance(&both).await,
        [Some(account(2, "one", None)), Some(account(0, "one", None))]
    );
    // The result is the previous account, and the new position is stored.
    let before = advance(&[write(0, "one", Some(7), at(9))]).await;
    assert_eq!(before, [Some(account(0, "one", Some(settled)))]);
    // The stored offset is less than `at_least`, or the database is another one: nothing is written.
    let stands = [Some(account(0, "one", Some(at(9))))];
    assert_eq!(advance(&[write(0, "one", Some(10), at(12))]).await, stands);
    let other = DatabaseId("another".into());
    let to_other = Advance { database: other, ..write(0, "one", Some(9), at(12)) };
    assert_eq!(advance(&[to_other]).await, stands);
    // An operator's reset moves the position back.
    assert_eq!(advance(&[write(0, "one", Some(8), at(8))]).await, stands);
    advance(&[write(0, "one", Some(8), at(9))]).await;
    // Another owner claims the partition: a late write of the previous owner changes nothing, and the result names the
    // new owner.
    let claimed = claim(&key, "two", &[0]).await.accounts;
    assert_eq!(claimed, [account(0, "two", Some(at(9)))]);
    let late = [write(0, "one", Some(9), at(100)), write(2, "one", Some(5), at(6))];
    assert_eq!(
        advance(&late).await,
        [Some(account(0, "two", Some(at(9)))), Some(account(2, "one", Some(at(5))))]
    );
    let without_epoch = TablePosition { leader_epoch: None, ..at(10) };
    advance(&[write(0, "two", Some(9), without_epoch.clone())]).await;
    // Another topic of the same name, and another group, have their own positions.
    let recreated = PositionKey { topic_id: "recreated".into(), ..key.clone() };
    assert_eq!(claim(&recreated, "two", &[0]).await.accounts, [account(0, "two", None)]);
    let other = PositionKey { group: "h".into(), ..key.clone() };
    assert_eq!(claim(&other, "two", &[0]).await.accounts, [account(0, "two", None)]);
    let listed = accounts.accounts("g").await.unwrap();
    let in_topic = |topic_id: &str, account| (topic_id.to_owned(), account);
    assert_eq!(
        listed,
        [
            in_topic("recreated", account(0, "two", None)),
            in_topic("t", account(0, "two", Some(without_epoch))),
            in_topic("t", account(2, "one", Some(at(6)))),
            in_topic("t", account(9, "nobody", None)),
        ]
    );
    assert_eq!(claim(&key, "two", &[]).await.accounts, []);
}

/// Several owners take the partition from each other while each continues to write. The stored position is always the
/// last write of the current owner.
pub(super) async fn a_late_write_of_a_former_owner_changes_nothing(store: Store) {
    let accounts = crate::open(&store.settings).unwrap().positions;
    let key = PositionKey { group: "g".into(), topic_id: "t".into() };
    let write = |owner: i64| {
        let (accounts, key) = (accounts.clone(), key.clone());
        async move {
            let token = owner.to_string();
            let database = loop {
                if let Some(claimed) = retried(accounts.claim(&key, &token, &[0]).await) {
                    break claimed.database;
                }
            };
            for step in 0..20 {
                let next_offset = owner * 1_000 + step;
                let to = TablePosition { next_offset, leader_epoch: None, evidence: None };
                let (owner_token, database) = (token.clone(), database.clone());
                let position =
                    Advance { partition: 0, owner: owner_token, database, at_least: None, to };
                let before = loop {
                    let positions = std::slice::from_ref(&position);
                    if let Some(advanced) = retried(accounts.advance(&key, positions).await) {
                        break advanced.before;
                    }
                };
                let before = before[0].clone().unwrap();
                // A position under the owner's own token is its own or the one it took over, and never decreases.
                if before.owner == token
                    && let Some(position) = before.position
                    && position.next_offset / 1_000 == owner
                {
                    assert!(position.next_offset < next_offset);
                }
            }
        }
    };
    at_once((1..6).map(write)).await;
    let last = accounts.accounts("g").await.unwrap().remove(0).1;
    let owner: i64 = last.owner.parse().unwrap();
    assert_eq!(last.position.unwrap().next_offset, owner * 1_000 + 19);
}

/// `None` if another transaction conflicted.
fn retried<T>(result: Result<T, Error>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(error) => {
            assert!(error.passes(), "{error}");
            None
        }
    }
}

/// A statement that compared each partition with each other one would run into the time limit.
#[tokio::test]
async fn a_member_may_have_many_partitions() {
    let partitions: Vec<i32> = (0..30_000).collect();
    let store = Store::postgres().await;
    let accounts = crate::open(&store.settings).unwrap().positions;
    let key = PositionKey { group: "g".into(), topic_id: "t".into() };
    let database = accounts.claim(&key, "one", &partitions).await.unwrap().database;
    let to = |partition: i32| Advance {
        partition,
        owner: "one".into(),
        database: database.clone(),
        at_least: None,
        to: TablePosition { next_offset: partition.into(), leader_epoch: None, evidence: None },
    };
    let advances: Vec<_> = partitions.iter().copied().map(to).collect();
    for is_written in [false, true] {
        let before = accounts.advance(&key, &advances).await.unwrap().before;
        assert_eq!(before.len(), partitions.len());
        for (partition, account) in partitions.iter().zip(before) {
            let expected = is_written.then(|| to(*partition).to);
            assert_eq!(account.unwrap().position, expected);
        }
    }
}
