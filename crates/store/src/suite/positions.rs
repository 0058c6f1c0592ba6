//! The table's own account of how far it is.

use super::*;

pub(super) async fn the_account_belongs_to_the_present_owner(store: Store) {
    let accounts = crate::open_positions(&store.settings).unwrap();
    let key = PositionKey { group: "g".into(), topic_id: "t".into() };
    let at = |next_offset| TablePosition { next_offset, leader_epoch: Some(3), evidence: None };
    let account = |partition, owner: &str, position: Option<TablePosition>| Account {
        partition,
        owner: owner.into(),
        position,
    };
    // Nobody has claimed anything: nothing is written.
    let before = accounts.advance(&key, "one", &[(0, at(5))]).await.unwrap();
    assert_eq!(before, [None]);
    let claimed = accounts.claim(&key, "one", &[2, 0]).await.unwrap();
    assert_eq!(claimed, [account(2, "one", None), account(0, "one", None)]);
    let settled = TablePosition { evidence: Some("lists".into()), ..at(7) };
    let before = accounts.advance(&key, "one", &[(2, at(5)), (0, settled.clone())]).await.unwrap();
    assert_eq!(before, [Some(account(2, "one", None)), Some(account(0, "one", None))]);
    // What stood there comes back, and what is written stands.
    let before = accounts.advance(&key, "one", &[(0, at(9))]).await.unwrap();
    assert_eq!(before, [Some(account(0, "one", Some(settled)))]);
    // Another claims it: a late write of the one before changes nothing, and says whose it is.
    let claimed = accounts.claim(&key, "two", &[0]).await.unwrap();
    assert_eq!(claimed, [account(0, "two", Some(at(9)))]);
    let before = accounts.advance(&key, "one", &[(0, at(100)), (2, at(6))]).await.unwrap();
    assert_eq!(
        before,
        [Some(account(0, "two", Some(at(9)))), Some(account(2, "one", Some(at(5))))]
    );
    let without_epoch = TablePosition { leader_epoch: None, ..at(8) };
    accounts.advance(&key, "two", &[(0, without_epoch.clone())]).await.unwrap();
    // Another topic of the same name, and another group, are others.
    let again = PositionKey { topic_id: "made again".into(), ..key.clone() };
    assert_eq!(accounts.claim(&again, "two", &[0]).await.unwrap(), [account(0, "two", None)]);
    let other = PositionKey { group: "h".into(), ..key.clone() };
    assert_eq!(accounts.claim(&other, "two", &[0]).await.unwrap(), [account(0, "two", None)]);
    let listed = accounts.accounts("g").await.unwrap();
    let of = |topic_id: &str, account| GroupAccount { topic_id: topic_id.into(), account };
    assert_eq!(
        listed,
        [
            of("made again", account(0, "two", None)),
            of("t", account(0, "two", Some(without_epoch))),
            of("t", account(2, "one", Some(at(6)))),
        ]
    );
    assert_eq!(accounts.claim(&key, "two", &[]).await.unwrap(), []);
    assert_eq!(accounts.advance(&key, "two", &[]).await.unwrap(), []);
}

/// Owners that take the partition from each other while each goes on writing: what stands is always the last write of the
/// owner of that moment.
pub(super) async fn a_late_write_of_a_former_owner_changes_nothing(store: Store) {
    let accounts = crate::open_positions(&store.settings).unwrap();
    let key = PositionKey { group: "g".into(), topic_id: "t".into() };
    let write = |owner: i64| {
        let (accounts, key) = (accounts.clone(), key.clone());
        async move {
            let token = owner.to_string();
            while retried(accounts.claim(&key, &token, &[0]).await).is_none() {}
            for step in 0..20 {
                let next_offset = owner * 1_000 + step;
                let position = TablePosition { next_offset, leader_epoch: None, evidence: None };
                let positions = [(0, position)];
                let before = loop {
                    if let Some(before) = retried(accounts.advance(&key, &token, &positions).await)
                    {
                        break before;
                    }
                };
                let before = before[0].clone().unwrap();
                // What an owner finds under its own token is its own or what it took over, and never grows backwards.
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
    let last = accounts.accounts("g").await.unwrap().remove(0).account;
    let owner: i64 = last.owner.parse().unwrap();
    assert_eq!(last.position.unwrap().next_offset, owner * 1_000 + 19);
}

/// None where another transaction was in the way.
fn retried<T>(result: Result<T, Error>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(error) => {
            assert!(error.passes(), "{error}");
            None
        }
    }
}
