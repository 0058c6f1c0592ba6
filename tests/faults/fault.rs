//! The faults: their implementation and their number of rounds.

use std::time::{Duration, Instant};

use testkit::{NetworkFault, StopMode, eventually};

use crate::load::Made;
use crate::raising::raising;
use crate::report::Outcome;
use crate::run::{Run, SESSION, Servers};
use crate::server::END_OURS;
use crate::support::STOP;
use crate::{cluster, instances, poison, standby, topic, unclean};

/// A fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    Kill,
    Terminate,
    Freeze,
    Broker,
    PostgresRestart,
    PostgresAway,
    Connections,
    Scale,
    Poison,
    Retention,
    Recreated,
    Partitions,
    Offsets,
    Memory,
    UncleanElection,
    UncleanLoaded,
    Promoted,
    BothAtOnce,
    OneBroker,
    TwoBrokers,
    AllBrokers,
    Rolling,
    Moved,
    AddressMoved,
    PutBack,
    ConnectionsUsedUp,
    Instances,
    LettersLost,
    Transaction,
    Upgraded,
}

impl Fault {
    /// The faults with a single broker.
    pub(crate) const ONE: [Self; 14] = [
        Self::Kill,
        Self::Terminate,
        Self::Freeze,
        Self::Broker,
        Self::PostgresRestart,
        Self::PostgresAway,
        Self::Connections,
        Self::Scale,
        Self::Poison,
        Self::Retention,
        Self::Recreated,
        Self::Partitions,
        Self::Offsets,
        Self::Memory,
    ];

    /// The faults with three brokers, and with a standby.
    pub(crate) const CLUSTER: [Self; 18] = [
        Self::UncleanElection,
        Self::UncleanLoaded,
        Self::Promoted,
        Self::BothAtOnce,
        Self::OneBroker,
        Self::TwoBrokers,
        Self::AllBrokers,
        Self::Rolling,
        Self::Partitions,
        Self::Moved,
        Self::AddressMoved,
        Self::PutBack,
        Self::ConnectionsUsedUp,
        Self::PostgresAway,
        Self::Instances,
        Self::LettersLost,
        Self::Transaction,
        Self::Upgraded,
    ];

    /// The faults of [`Fault::CLUSTER`] that are part of the tests.
    pub(crate) const SHORT_CLUSTER: [Self; 3] =
        [Self::UncleanElection, Self::Promoted, Self::OneBroker];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill -9 of the ingester",
            Self::Terminate => "SIGTERM in the middle",
            Self::Freeze => "SIGSTOP beyond the session time-out, then SIGCONT",
            Self::Broker => "broker killed and restarted",
            Self::PostgresRestart => {
                "PostgreSQL restarted, backends terminated, deadlocks, serialization failures"
            }
            Self::PostgresAway => "PostgreSQL away, disk full, read-only",
            Self::Connections => "connections cut, slow, half-open, answers lost",
            Self::Scale => "one to four instances and back",
            Self::Poison => "16 kinds of poison, then nothing but poison",
            Self::Retention => "retention passes the position",
            Self::Recreated => "topic recreated",
            Self::Partitions => "partitions added",
            Self::Offsets => "group offsets deleted",
            Self::Memory => "slow database, full topic: memory",
            Self::UncleanElection => {
                "unclean election: new log longer, shorter; ingester running, stopped"
            }
            Self::UncleanLoaded => "unclean election under load, three instances",
            Self::Promoted => "primary killed, standby promoted with and without the last commits",
            Self::BothAtOnce => "coordinator and primary killed at once",
            Self::OneBroker => "coordinator, controller, leader killed in turn",
            Self::TwoBrokers => "two of three brokers away for a minute",
            Self::AllBrokers => "all brokers killed at once",
            Self::Rolling => "rolling restart of the brokers",
            Self::Moved => "replicas moved",
            Self::AddressMoved => "address of the database moved, old connections hang",
            Self::PutBack => "database put back to an earlier copy",
            Self::ConnectionsUsedUp => "connections of the database used up",
            Self::Instances => {
                "three instances: one stopped, frozen, killed; a fourth comes and goes"
            }
            Self::LettersLost => "unclean election of the dead-letter topic",
            Self::Transaction => "transaction left open until the broker aborts it",
            Self::Upgraded => "upgrade from an earlier build, one instance after the other",
        }
    }

    /// The rounds in the full run.
    pub(crate) const fn rounds(self) -> u32 {
        match self {
            Self::Kill => 200,
            Self::Terminate | Self::PostgresRestart | Self::Connections | Self::Scale => 50,
            Self::Freeze | Self::Broker => 20,
            Self::OneBroker => 12,
            Self::UncleanElection | Self::UncleanLoaded | Self::Promoted | Self::Instances => 8,
            Self::Moved | Self::AddressMoved | Self::BothAtOnce => 6,
            Self::PostgresAway
            | Self::Retention
            | Self::Recreated
            | Self::Partitions
            | Self::Offsets
            | Self::AllBrokers
            | Self::Rolling => 5,
            Self::TwoBrokers
            | Self::LettersLost
            | Self::Transaction
            | Self::PutBack
            | Self::ConnectionsUsedUp => 4,
            Self::Poison | Self::Memory | Self::Upgraded => 1,
        }
    }

    /// The rounds in the tests.
    pub(crate) const fn short_rounds(self) -> u32 {
        match self {
            Self::PostgresRestart => 5,
            Self::Connections => 4,
            Self::Kill | Self::PostgresAway => 3,
            Self::Terminate | Self::Scale => 2,
            _ => 1,
        }
    }
}

/// Runs all rounds of a fault and compares the results with the expected ones.
pub(crate) async fn run(servers: &mut Servers, fault: Fault, rounds: u32) -> Outcome {
    let mut run = Run::set(servers).await;
    make_topics(&run, fault).await;
    let outcome = Outcome {
        fault,
        rounds,
        rows: 0,
        lost: 0,
        doubled: 0,
        wrong: 0,
        dead_letters: 0,
        missing: 0,
        foreign: 0,
        repeated: 0,
        recoveries: Vec::new(),
        note: String::new(),
    };
    run.starts_earlier = fault == Fault::Upgraded;
    run.start_ingester(&[]);
    match fault {
        Fault::Poison => poisoned(&mut run).await,
        Fault::Memory => slow_database(&mut run).await,
        Fault::Retention => topic::retention(&mut run, rounds).await,
        Fault::Recreated => topic::recreated(&mut run, rounds).await,
        Fault::Partitions => topic::partitions(&mut run, rounds).await,
        Fault::Offsets => topic::offsets(&mut run, rounds).await,
        Fault::UncleanElection => unclean::source(&mut run, rounds).await,
        Fault::LettersLost => unclean::letters(&mut run, rounds).await,
        _ => {
            run.under_load().await;
            let others = match fault {
                Fault::Freeze => 1,
                Fault::UncleanLoaded
                | Fault::Promoted
                | Fault::BothAtOnce
                | Fault::AddressMoved
                | Fault::PutBack
                | Fault::Instances
                | Fault::Upgraded => 2,
                _ => 0,
            };
            (0..others).for_each(|_| run.start_ingester(&[]));
            run.starts_earlier = false;
            for round in 0..rounds {
                run.a_while(1_500).await;
                one(&mut run, fault, round).await;
                run.recovered().await;
            }
        }
    }
    run.end(outcome).await
}

async fn make_topics(run: &Run<'_>, fault: Fault) {
    match fault {
        Fault::Retention | Fault::Recreated | Fault::Partitions | Fault::Offsets => {
            run.scene.make_topic(1, &[]).await;
        }
        Fault::UncleanElection => unclean::make_topic(run, &run.scene.topic, 1).await,
        Fault::UncleanLoaded => unclean::make_topic(run, &run.scene.topic, 8).await,
        _ => run.scene.make_topic(8, &[]).await,
    }
    if fault == Fault::LettersLost {
        unclean::make_topic(run, &run.scene.dead_letters, 1).await;
    }
}

async fn one(run: &mut Run<'_>, fault: Fault, round: u32) {
    match fault {
        Fault::Kill => {
            run.ingesters[0].daemon.kill();
            run.ingesters.clear();
            run.start_ingester(&[]);
        }
        Fault::Terminate => {
            let began = Instant::now();
            run.ingesters.remove(0).stop();
            assert!(began.elapsed() < STOP);
            run.start_ingester(&[]);
        }
        Fault::Freeze => instances::frozen(run).await,
        Fault::Broker => {
            run.servers.nodes.kafka.kill(&[1]);
            run.servers.nodes.kafka.start_again(&[1]);
        }
        Fault::PostgresRestart => database_trouble(run, round).await,
        Fault::PostgresAway => database_away(run, round).await,
        Fault::Connections => network_fault(run).await,
        Fault::Scale => instances::scale(run).await,
        Fault::Promoted => standby::promoted(run, round).await,
        Fault::UncleanLoaded => unclean::under_load(run, round).await,
        Fault::BothAtOnce => standby::promoted_without_coordinator(run, round).await,
        Fault::AddressMoved => standby::address_moved(run, round).await,
        Fault::PutBack => standby::put_back(run).await,
        Fault::ConnectionsUsedUp => standby::connections_used_up(run).await,
        Fault::OneBroker => cluster::one_killed(run, round).await,
        Fault::TwoBrokers => cluster::two_away(run, round).await,
        Fault::AllBrokers => cluster::all_killed(run).await,
        Fault::Rolling => cluster::rolling(run).await,
        Fault::Moved => cluster::moved(run, round).await,
        Fault::Transaction => cluster::transaction(run).await,
        Fault::Upgraded => instances::upgraded(run).await,
        Fault::Instances => instances::one_of_three(run, round).await,
        _ => unreachable!("has rounds of its own"),
    }
}

async fn database_trouble(run: &mut Run<'_>, round: u32) {
    match round % 5 {
        0 | 1 => {
            let mode = if round.is_multiple_of(5) { StopMode::Fast } else { StopMode::Immediate };
            run.servers.postgres.stop(mode);
            run.servers.postgres.start_again();
        }
        2 => {
            assert!(run.number(END_OURS).await.is_some(), "the database answers");
        }
        3 => raised(run, "40001", 3).await,
        _ => deadlock(run).await,
    }
}

/// Makes the next write statements fail with a SQLSTATE, by a trigger.
async fn raised(run: &mut Run<'_>, code: &str, times: u32) {
    let sql = raising(code, times.into(), "publication");
    run.execute(&sql).await.expect("a trigger can be made");
    eventually("the provoked failures", SESSION * 10, async || {
        run.number("SELECT last_value FROM raised").await > Some(i64::from(times))
    })
    .await;
    run.execute("DROP TRIGGER raising ON publication").await.expect("a trigger can be dropped");
}

/// Causes a deadlock: a session holds the second of two rows and requests the first, while the ingester holds the first
/// and waits for the second. PostgreSQL then cancels one of them. There is none if the ingester writes the two rows in
/// two batches, so this tries again.
async fn deadlock(run: &mut Run<'_>) {
    let conflicts = |run: &Run<'_>| -> f64 {
        let of = |running: &crate::support::Running| {
            running.metrics().get("store_retries_total{class=\"conflict\"}").unwrap_or_default()
        };
        run.ingesters.iter().map(of).sum()
    };
    let numbers = [(); 2].map(|()| run.target.oracle().extra_number());
    let name = |n: usize| format!("package-{}", numbers[n]);
    let made = |revision| numbers.map(|number| Made::Event { number, revision });
    let records =
        |revision| numbers.iter().map(|n| crate::support::generated(*n, revision)).collect();
    let sent = run.target.put(records(0), &made(0)).await;
    assert_eq!(sent.len(), 2);
    let there =
        format!("SELECT count(*) FROM publication WHERE name IN ('{}', '{}')", name(0), name(1));
    eventually("both rows", SESSION * 10, async || run.number(&there).await == Some(2)).await;
    let lock = format!(
        "BEGIN; SELECT 1 FROM publication WHERE name = '{}' FOR UPDATE;
         DO $$ BEGIN FOR i IN 1..500 LOOP
           EXIT WHEN EXISTS (SELECT 1 FROM pg_stat_activity WHERE application_name = 'publication'
             AND wait_event_type = 'Lock' AND datname = current_database());
           PERFORM pg_sleep(0.01), pg_stat_clear_snapshot(); END LOOP; END $$;
         SELECT 1 FROM publication WHERE name = '{}' FOR UPDATE; COMMIT",
        name(1),
        name(0)
    );
    let before = conflicts(run);
    for revision in 1..=20 {
        let (later, corrections) = (records(revision), made(revision));
        // PostgreSQL cancels either statement. Only the ingester retries its own.
        let (ours, _) = tokio::join!(run.execute(&lock), run.target.put(later, &corrections));
        let is_cancelled = ours.is_err_and(|error| {
            error.as_database_error().and_then(|own| own.code()).is_some_and(|code| code == "40P01")
        });
        let corrected = format!("{there} AND revision = {revision}");
        eventually("the corrections", SESSION * 10, async || {
            run.number(&corrected).await == Some(2)
        })
        .await;
        if is_cancelled || conflicts(run) > before {
            return;
        }
    }
    panic!("no deadlock in twenty attempts");
}

async fn database_away(run: &mut Run<'_>, round: u32) {
    let full = run.servers.full;
    match round % 3 {
        0 => {
            run.servers.postgres.stop(StopMode::Immediate);
            let time = Duration::from_secs(if full { 300 } else { 5 });
            stays_paused(run, time).await;
            run.servers.postgres.start_again();
        }
        1 => {
            // The load continues, with poison. A good record that became a dead letter is found at the end.
            raised(run, "53100", 1).await;
            let made = "CREATE OR REPLACE TRIGGER raising BEFORE INSERT OR UPDATE ON publication
                FOR EACH STATEMENT EXECUTE FUNCTION raising(); SELECT setval('raised', 1)";
            let always =
                "CREATE OR REPLACE FUNCTION raising() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                RAISE EXCEPTION 'disk full' USING ERRCODE = '53100'; END $$";
            run.execute(always).await.expect("a function can be replaced");
            run.execute(made).await.expect("a trigger can be made");
            let time = Duration::from_secs(if full { 60 } else { 3 });
            stays_paused(run, time).await;
            run.execute("DROP TRIGGER raising ON publication").await.expect("it is there");
        }
        _ => {
            let only = "ALTER SYSTEM SET default_transaction_read_only = on";
            run.execute(only).await.expect("a superuser may");
            run.execute("SELECT pg_reload_conf()").await.expect("a superuser may");
            let time = Duration::from_secs(if full { 60 } else { 3 });
            stays_paused(run, time).await;
            let writable = "SET default_transaction_read_only = off";
            let reset = "ALTER SYSTEM RESET default_transaction_read_only";
            run.execute(writable).await.expect("any session may");
            run.execute(reset).await.expect("a superuser may");
            run.execute("SELECT pg_reload_conf()").await.expect("a superuser may");
        }
    }
}

/// Checks for `time` that the ingester is paused, live and a member of its group.
pub(crate) async fn stays_paused(run: &mut Run<'_>, time: Duration) {
    run.ingesters[0].shows("paused").await;
    let assigned = run.ingesters[0].metrics().sum("rebalances_total");
    run.for_a(time, async |run| {
        let running = &mut run.ingesters[0];
        let ready = running.readyz();
        let paused = ready.as_ref().is_some_and(|(_, answer)| answer["state"] == "paused");
        let live = testkit::http_get(&running.admin, "/livez").is_ok_and(|(code, _)| code == 200);
        let more = running.metrics().sum("rebalances_total") - assigned;
        assert!(paused && live && more <= 0.0, "{ready:?}, live: {live}, {more} rebalances more");
        true
    })
    .await;
}

async fn network_fault(run: &mut Run<'_>) {
    let kinds = [
        NetworkFault::Cut,
        NetworkFault::Slow(Duration::from_millis(200)),
        NetworkFault::HalfOpen,
        NetworkFault::AnswersLost,
    ];
    let place = usize::try_from(run.servers.random.below(4)).unwrap_or(0);
    let side = run.servers.random.below(3);
    let (kafka, postgres) = (side != 0, side != 1);
    for (here, proxy) in [(kafka, &run.servers.to_kafka), (postgres, &run.servers.to_postgres)] {
        if here {
            proxy.set(kinds[place]);
        }
    }
    run.a_while(3_000).await;
    for proxy in [&run.servers.to_kafka, &run.servers.to_postgres] {
        // Connections with lost answers are out of step. They end, as after a network outage.
        if kinds[place] == NetworkFault::AnswersLost {
            proxy.cut();
        }
        proxy.set(NetworkFault::None);
    }
}

/// All kinds of poison between good records, then only poison for a minute.
async fn poisoned(run: &mut Run<'_>) {
    let of_each = if run.servers.full { 1_000 } else { 25 };
    for _ in 0..of_each {
        run.target.send(10).await;
        run.target.send_poison(poison::KINDS).await;
    }
    let until = Instant::now() + Duration::from_secs(if run.servers.full { 60 } else { 2 });
    while Instant::now() < until {
        run.target.send_poison(poison::KINDS).await;
    }
    run.recovered().await;
    run.recoveries.clear();
}

/// A full topic and a slow database: the memory for records read ahead must stay bounded.
async fn slow_database(run: &mut Run<'_>) {
    const BUFFERED: u64 = 16 << 20;
    const BESIDES: u64 = 64 << 20;
    run.under_load().await;
    run.servers.to_postgres.set(NetworkFault::Slow(Duration::from_millis(500)));
    let time = Duration::from_secs(if run.servers.full { 900 } else { 10 });
    let chunks = if run.servers.full { 400 } else { 20 };
    for _ in 0..chunks {
        run.target.send(1_000).await;
    }
    let mut peak = 0;
    run.for_a(time, async |run| {
        peak = run.ingesters[0].daemon.peak_memory().unwrap_or(peak);
        peak < BUFFERED + BESIDES
    })
    .await;
    run.servers.to_postgres.set(NetworkFault::None);
    run.note = format!("peak {} MiB of {} allowed", peak >> 20, (BUFFERED + BESIDES) >> 20);
    run.recovered().await;
}
