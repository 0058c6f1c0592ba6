//! The faults: how each is done, and how often.

use std::time::{Duration, Instant};

use testkit::{NetworkFault, StopMode, eventually};

use crate::load::Made;
use crate::raising::raising;
use crate::report::Outcome;
use crate::stage::{SESSION, Stage, World};
use crate::support::STOP;
use crate::{cluster, instances, poison, standby, topic, unclean};

/// What can happen.
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
    MadeAgain,
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
    /// Those of one broker.
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
        Self::MadeAgain,
        Self::Partitions,
        Self::Offsets,
        Self::Memory,
    ];

    /// Those of three brokers, and of a standby.
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

    /// Of [`Fault::CLUSTER`], those that are part of the tests.
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
            Self::MadeAgain => "topic made again",
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

    /// Of the full run.
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
            | Self::MadeAgain
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

    /// Of the version that is part of the tests.
    pub(crate) const fn short_rounds(self) -> u32 {
        match self {
            Self::PostgresRestart | Self::Connections => 4,
            Self::Kill | Self::PostgresAway => 3,
            Self::Terminate | Self::Scale => 2,
            _ => 1,
        }
    }
}

/// Runs all rounds of a fault and compares what is there with what must be.
pub(crate) async fn run(world: &mut World, fault: Fault, rounds: u32) -> Outcome {
    let mut stage = Stage::set(world).await;
    make_topics(&stage, fault).await;
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
    stage.starts_earlier = fault == Fault::Upgraded;
    stage.start_ingester(&[]);
    match fault {
        Fault::Poison => poisoned(&mut stage).await,
        Fault::Memory => slow_database(&mut stage).await,
        Fault::Retention => topic::retention(&mut stage, rounds).await,
        Fault::MadeAgain => topic::made_again(&mut stage, rounds).await,
        Fault::Partitions => topic::partitions(&mut stage, rounds).await,
        Fault::Offsets => topic::offsets(&mut stage, rounds).await,
        Fault::UncleanElection => unclean::source(&mut stage, rounds).await,
        Fault::LettersLost => unclean::letters(&mut stage, rounds).await,
        _ => {
            stage.under_load().await;
            let beside = match fault {
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
            (0..beside).for_each(|_| stage.start_ingester(&[]));
            stage.starts_earlier = false;
            for round in 0..rounds {
                stage.a_while(1_500).await;
                one(&mut stage, fault, round).await;
                stage.recovered().await;
            }
        }
    }
    stage.end(outcome).await
}

async fn make_topics(stage: &Stage<'_>, fault: Fault) {
    match fault {
        Fault::Retention | Fault::MadeAgain | Fault::Partitions | Fault::Offsets => {
            stage.scene.make_topic(1, &[]).await;
        }
        Fault::UncleanElection => unclean::make_topic(stage, &stage.scene.topic, 1).await,
        Fault::UncleanLoaded => unclean::make_topic(stage, &stage.scene.topic, 8).await,
        _ => stage.scene.make_topic(8, &[]).await,
    }
    if fault == Fault::LettersLost {
        unclean::make_topic(stage, &stage.scene.dead_letters, 1).await;
    }
}

async fn one(stage: &mut Stage<'_>, fault: Fault, round: u32) {
    match fault {
        Fault::Kill => {
            stage.ingesters[0].daemon.kill();
            stage.ingesters.clear();
            stage.start_ingester(&[]);
        }
        Fault::Terminate => {
            let began = Instant::now();
            stage.ingesters.remove(0).stop();
            assert!(began.elapsed() < STOP);
            stage.start_ingester(&[]);
        }
        Fault::Freeze => instances::frozen(stage).await,
        Fault::Broker => {
            stage.world.kafka.kill(&[1]);
            stage.world.kafka.start_again(&[1]);
        }
        Fault::PostgresRestart => database_trouble(stage, round).await,
        Fault::PostgresAway => database_away(stage, round).await,
        Fault::Connections => network_fault(stage).await,
        Fault::Scale => instances::scale(stage).await,
        Fault::Promoted => standby::promoted(stage, round).await,
        Fault::UncleanLoaded => unclean::under_load(stage, round).await,
        Fault::BothAtOnce => standby::promoted_without_coordinator(stage, round).await,
        Fault::AddressMoved => standby::address_moved(stage, round).await,
        Fault::PutBack => standby::put_back(stage).await,
        Fault::ConnectionsUsedUp => standby::connections_used_up(stage).await,
        Fault::OneBroker => cluster::one_killed(stage, round).await,
        Fault::TwoBrokers => cluster::two_away(stage, round).await,
        Fault::AllBrokers => cluster::all_killed(stage).await,
        Fault::Rolling => cluster::rolling(stage).await,
        Fault::Moved => cluster::moved(stage, round).await,
        Fault::Transaction => cluster::transaction(stage).await,
        Fault::Upgraded => instances::upgraded(stage).await,
        Fault::Instances => instances::one_of_three(stage, round).await,
        _ => unreachable!("has rounds of its own"),
    }
}

async fn database_trouble(stage: &mut Stage<'_>, round: u32) {
    const OURS: &str = "FROM pg_stat_activity WHERE application_name = 'publication'";
    match round % 5 {
        0 | 1 => {
            let mode = if round.is_multiple_of(5) { StopMode::Fast } else { StopMode::Immediate };
            stage.world.postgres.stop(mode);
            stage.world.postgres.start_again();
        }
        2 => {
            let all = format!("SELECT count(pg_terminate_backend(pid)) {OURS}");
            assert!(stage.number(&all).await.is_some(), "the database answers");
        }
        3 => raised(stage, "40001", 3).await,
        _ => deadlock(stage).await,
    }
}

/// A trigger raises a SQLSTATE for the next statements that write.
async fn raised(stage: &mut Stage<'_>, code: &str, times: u32) {
    let sql = raising(code, times.into(), "publication");
    stage.execute(&sql).await.expect("a trigger can be made");
    eventually("the provoked failures", SESSION * 10, async || {
        stage.number("SELECT last_value FROM raised").await > Some(i64::from(times))
    })
    .await;
    stage.execute("DROP TRIGGER raising ON publication").await.expect("a trigger can be dropped");
}

/// A session that holds the second of two rows asks for the first when the ingester, which has the first, waits for the
/// second; PostgreSQL then ends one of the two.
async fn deadlock(stage: &mut Stage<'_>) {
    let numbers = [(); 2].map(|()| stage.target.oracle().number_beside());
    let name = |n: usize| format!("package-{}", numbers[n]);
    let made = |revision| numbers.map(|number| Made::Event { number, revision });
    let records =
        |revision| numbers.iter().map(|n| crate::support::generated(*n, revision)).collect();
    let sent = stage.target.put(records(0), &made(0)).await;
    assert_eq!(sent.len(), 2);
    let there =
        format!("SELECT count(*) FROM publication WHERE name IN ('{}', '{}')", name(0), name(1));
    eventually("both rows", SESSION * 10, async || stage.number(&there).await == Some(2)).await;
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
    let (later, corrections) = (records(1), made(1));
    // Whichever of the two PostgreSQL ends: ours is tried again by nobody, the ingester's by itself.
    let _ = tokio::join!(stage.execute(&lock), stage.target.put(later, &corrections));
}

async fn database_away(stage: &mut Stage<'_>, round: u32) {
    let letters = |stage: &Stage<'_>| stage.ingesters[0].metrics().sum("dead_letters_total");
    let full = stage.world.full;
    match round % 3 {
        0 => {
            stage.world.postgres.stop(StopMode::Immediate);
            let time = Duration::from_secs(if full { 300 } else { 5 });
            stays_paused(stage, time).await;
            stage.world.postgres.start_again();
        }
        1 => {
            // The load goes on, and poison with it; what counts is that no good record is taken for poison.
            raised(stage, "53100", 1).await;
            let made = "CREATE OR REPLACE TRIGGER raising BEFORE INSERT OR UPDATE ON publication
                FOR EACH STATEMENT EXECUTE FUNCTION raising(); SELECT setval('raised', 1)";
            let always =
                "CREATE OR REPLACE FUNCTION raising() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                RAISE EXCEPTION 'disk full' USING ERRCODE = '53100'; END $$";
            stage.execute(always).await.expect("a function can be replaced");
            stage.execute(made).await.expect("a trigger can be made");
            let time = Duration::from_secs(if full { 60 } else { 3 });
            stays_paused(stage, time).await;
            stage.execute("DROP TRIGGER raising ON publication").await.expect("it is there");
        }
        _ => {
            let only = "ALTER SYSTEM SET default_transaction_read_only = on";
            stage.execute(only).await.expect("a superuser may");
            stage.execute("SELECT pg_reload_conf()").await.expect("a superuser may");
            let time = Duration::from_secs(if full { 60 } else { 3 });
            stays_paused(stage, time).await;
            let again = "SET default_transaction_read_only = off";
            let reset = "ALTER SYSTEM RESET default_transaction_read_only";
            stage.execute(again).await.expect("any session may");
            stage.execute(reset).await.expect("a superuser may");
            stage.execute("SELECT pg_reload_conf()").await.expect("a superuser may");
        }
    }
    assert!(letters(stage).is_finite());
}

/// Paused, alive and a member of its group, all the time.
pub(crate) async fn stays_paused(stage: &mut Stage<'_>, time: Duration) {
    stage.ingesters[0].shows("paused").await;
    let assigned = stage.ingesters[0].metrics().sum("rebalances_total");
    stage
        .for_a(time, async |stage| {
            let running = &mut stage.ingesters[0];
            let paused = running.readyz().is_some_and(|(_, answer)| answer["state"] == "paused");
            let live =
                testkit::http_get(&running.admin, "/livez").is_ok_and(|(code, _)| code == 200);
            paused && live && running.metrics().sum("rebalances_total") <= assigned
        })
        .await;
}

async fn network_fault(stage: &mut Stage<'_>) {
    let kinds = [
        NetworkFault::Cut,
        NetworkFault::Slow(Duration::from_millis(200)),
        NetworkFault::HalfOpen,
        NetworkFault::AnswersLost,
    ];
    let place = usize::try_from(stage.world.random.below(4)).unwrap_or(0);
    let side = stage.world.random.below(3);
    let (kafka, postgres) = (side != 0, side != 1);
    for (here, proxy) in [(kafka, &stage.world.to_kafka), (postgres, &stage.world.to_postgres)] {
        if here {
            proxy.set(kinds[place]);
        }
    }
    stage.a_while(3_000).await;
    for proxy in [&stage.world.to_kafka, &stage.world.to_postgres] {
        // Connections whose answers were lost are out of step and end, as those of a network that comes back.
        if kinds[place] == NetworkFault::AnswersLost {
            proxy.cut();
        }
        proxy.set(NetworkFault::None);
    }
}

/// All kinds of poison among good records, then for a minute nothing else.
async fn poisoned(stage: &mut Stage<'_>) {
    let of_each = if stage.world.full { 1_000 } else { 25 };
    for _ in 0..of_each {
        stage.target.send(10).await;
        stage.target.send_poison(poison::KINDS).await;
    }
    let until = Instant::now() + Duration::from_secs(if stage.world.full { 60 } else { 2 });
    while Instant::now() < until {
        stage.target.send_poison(poison::KINDS).await;
    }
    stage.recovered().await;
    stage.recoveries.clear();
}

/// A topic that is full before a database that takes its time: what is read ahead is bounded.
async fn slow_database(stage: &mut Stage<'_>) {
    const BUFFERED: u64 = 48 << 20;
    const BESIDES: u64 = 64 << 20;
    stage.under_load().await;
    stage.world.to_postgres.set(NetworkFault::Slow(Duration::from_millis(500)));
    let time = Duration::from_secs(if stage.world.full { 900 } else { 10 });
    let chunks = if stage.world.full { 400 } else { 20 };
    for _ in 0..chunks {
        stage.target.send(1_000).await;
    }
    let mut peak = 0;
    stage
        .for_a(time, async |stage| {
            peak = stage.ingesters[0].daemon.peak_memory().unwrap_or(peak);
            peak < BUFFERED + BESIDES
        })
        .await;
    stage.world.to_postgres.set(NetworkFault::None);
    stage.note = format!("peak {} MiB of {} allowed", peak >> 20, (BUFFERED + BESIDES) >> 20);
    stage.recovered().await;
}
