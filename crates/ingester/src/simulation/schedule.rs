//! A schedule: a few hundred steps chosen by the seed, then a phase without faults in which everything is read.

use std::time::Duration;

use store::WaitCause;
use tokio::time::{Instant, sleep};

use super::member::{CommitFate, Member};
use super::rng::Rng;
use super::topic::Expected;
use super::world::{Backup, PARTITIONS, Shared, TableMode, World, WriteFault};

/// Fewer steps find few errors.
const LEAST_STEPS: u64 = 200;
/// The time limits of an orderly stop: `END` for the last one, when nothing fails any more.
const GRACE: Duration = Duration::from_secs(5);
const END: Duration = Duration::from_secs(3_600);

macro_rules! kinds {
    ($($kind:ident,)*) => {
        /// The events other than producing and reading records.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(super) enum Kind { $($kind,)* }

        impl Kind {
            pub(super) const ALL: &'static [Self] = &[$(Self::$kind,)*];
        }
    };
}

kinds! {
    Rebalance, RevokedDuringWrite, LostWithoutRevocation, CommitLost, CommitLate, TopicRecreated, RecordsDeleted,
    CoordinatorSilent, DatabaseAway, DatabaseRefuses, ConnectionLost, Conflict, TimeLimit, PoolBusy, RowRefused,
    SlowWrite, EndlessWrite, AnswerLost, CrashBeforeWrite, CrashAfterWrite, WriteOutlivesCrash, DeadLettersAway,
    AcknowledgementLost, ReadingPaused, StopInOrder, LogCut, TablePutBack,
}

/// The result of a schedule.
#[derive(Debug)]
pub(super) struct Outcome {
    /// How often each kind happened.
    pub(super) kinds: Vec<u64>,
    pub(super) steps: u64,
    pub(super) violation: Option<String>,
}

struct Schedule {
    rng: Rng,
    world: Shared,
    member: Option<Member>,
    backup: Option<Backup>,
    /// The end of the present outage.
    mended_at: Option<Instant>,
}

/// Runs the schedule of a seed.
pub(super) fn run(seed: u64) -> Outcome {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.unwrap().block_on(async {
        let world = Shared::new(World::new(seed).into());
        let mut schedule =
            Schedule { rng: Rng::new(seed), world, member: None, backup: None, mended_at: None };
        let steps = LEAST_STEPS + schedule.rng.below(50);
        for _ in 0..steps {
            schedule.step().await;
            if schedule.world.lock().violation.is_some() {
                break;
            }
        }
        schedule.end().await;
        let mut world = schedule.world.lock();
        Outcome {
            kinds: std::mem::take(&mut world.kinds),
            steps,
            violation: world.violation.take(),
        }
    })
}

impl Schedule {
    fn happened(&self, kind: Kind) {
        self.world.lock().happened(kind);
    }

    async fn step(&mut self) {
        if self.mended_at.is_some_and(|at| Instant::now() >= at) {
            self.mend();
        }
        match self.rng.below(100) {
            0..22 => {
                for _ in 0..=self.rng.below(3) {
                    self.world.lock().produce();
                }
            }
            22..58 => self.poll(),
            58..68 => self.commit(),
            68..75 => self.arrive(),
            75..79 => self.others_read(),
            _ => self.fault().await,
        }
        let is_refusing = self.world.lock().mode == TableMode::Refuses;
        if self.member.is_none() && !is_refusing && self.rng.one_in(4) {
            self.join();
        }
        let longer = self.rng.one_in(12);
        let millis = self.rng.below(if longer { 1_500 } else { 30 });
        sleep(Duration::from_millis(millis)).await;
    }

    fn poll(&mut self) {
        let most = 1 + self.rng.below(5);
        let Some(member) = &mut self.member else { return };
        if !member.poll(most) {
            if member.process.running.is_finished() {
                self.world.lock().violated("the loop ended by itself");
            }
            self.happened(Kind::ReadingPaused);
        }
    }

    fn commit(&mut self) {
        let (fate, kind) = match self.rng.below(6) {
            0 => (CommitFate::Lost, Some(Kind::CommitLost)),
            1 | 2 => (CommitFate::Later, Some(Kind::CommitLate)),
            _ => (CommitFate::Arrives, None),
        };
        let Some(member) = &mut self.member else { return };
        member.commit(fate);
        kind.into_iter().for_each(|kind| self.happened(kind));
    }

    fn arrive(&mut self) {
        if let Some(member) = &mut self.member {
            member.commits_arrive();
            if self.rng.one_in(2) {
                member.store(true);
            }
            member.choose_start_offsets();
        }
    }

    fn join(&mut self) {
        self.member = Some(Member::join(&self.world));
        self.assign_some();
    }

    fn assign_some(&mut self) {
        let Some(member) = &mut self.member else { return };
        let some: Vec<i32> = (0..PARTITIONS)
            .filter(|&partition| !member.owns(partition) && !self.rng.one_in(3))
            .collect();
        if !some.is_empty() {
            member.assign(&some);
        }
    }

    fn owned(&mut self) -> Vec<i32> {
        let Some(member) = &self.member else { return Vec::new() };
        let rng = &mut self.rng;
        (0..PARTITIONS).filter(|&it| member.owns(it) && rng.one_in(2)).collect()
    }

    async fn fault(&mut self) {
        match self.rng.below(24) {
            0..3 => self.revoke().await,
            3..5 => self.assign_some(),
            5 => self.lose(),
            6 => self.recreate_topic(),
            7 => self.delete_records(),
            8 => self.outage(Kind::CoordinatorSilent),
            9 => self.outage(Kind::DatabaseAway),
            10 => self.outage(Kind::DatabaseRefuses),
            11 => self.outage(Kind::DeadLettersAway),
            12 => self.write_fault(WriteFault::Fails(WaitCause::Away), Kind::ConnectionLost),
            13 => self.write_fault(WriteFault::Fails(WaitCause::Conflict), Kind::Conflict),
            14 => self.write_fault(WriteFault::Fails(WaitCause::TimeLimit), Kind::TimeLimit),
            15 => self.write_fault(WriteFault::Fails(WaitCause::Busy), Kind::PoolBusy),
            16 => self.write_fault(WriteFault::Slow, Kind::SlowWrite),
            17 => self.write_fault(WriteFault::AnswerLost, Kind::AnswerLost),
            18 if self.rng.one_in(4) => self.write_fault(WriteFault::Endless, Kind::EndlessWrite),
            19 => self.world.lock().lost_acknowledgements += 1,
            20 if self.rng.one_in(2) => self.stop().await,
            21 => self.crash(),
            22 => self.cut(),
            23 => self.put_back(),
            _ => {}
        }
    }

    async fn revoke(&mut self) {
        let some = self.owned();
        let Some(member) = &mut self.member else { return };
        if some.is_empty() {
            return;
        }
        let is_during_write = member.process.life.writes() > 0;
        member.revoke(&some).await;
        self.happened(Kind::Rebalance);
        if is_during_write {
            self.happened(Kind::RevokedDuringWrite);
        }
    }

    fn lose(&mut self) {
        let some = self.owned();
        let Some(member) = &mut self.member else { return };
        if !some.is_empty() {
            member.lose(&some);
            self.happened(Kind::LostWithoutRevocation);
        }
    }

    fn recreate_topic(&mut self) {
        self.world.lock().recreate_topic();
        self.happened(Kind::TopicRecreated);
    }

    fn delete_records(&mut self) {
        let partition = i32::try_from(self.rng.below(PARTITIONS.unsigned_abs().into())).unwrap();
        let mut world = self.world.lock();
        let (low, high) = (world.log(partition).low, world.log(partition).high());
        let to = low + i64::try_from(self.rng.below((high - low + 1).unsigned_abs())).unwrap();
        world.delete_before(partition, to);
        drop(world);
        if to > low {
            self.happened(Kind::RecordsDeleted);
        }
    }

    /// Starts an outage of a part, for up to four seconds.
    fn outage(&mut self, kind: Kind) {
        let seconds = Duration::from_millis(100 + self.rng.below(4_000));
        let has_served =
            self.member.as_ref().is_some_and(|member| member.process.life.has_served());
        self.mended_at = Some(Instant::now() + seconds);
        let mut world = self.world.lock();
        match kind {
            Kind::CoordinatorSilent => world.is_coordinator_silent = true,
            Kind::DatabaseAway => world.mode = TableMode::Away,
            // A refusal before the first success is a configuration error, which ends the ingester.
            Kind::DatabaseRefuses if has_served => world.mode = TableMode::Refuses,
            Kind::DatabaseRefuses => return,
            _ => world.dead_letters_away = true,
        }
        drop(world);
        self.happened(kind);
    }

    fn mend(&mut self) {
        self.mended_at = None;
        let mut world = self.world.lock();
        world.mode = TableMode::Serves;
        world.is_coordinator_silent = false;
        world.dead_letters_away = false;
    }

    /// Sets a fault for the next write. It has happened when a write takes it.
    fn write_fault(&self, fault: WriteFault, kind: Kind) {
        self.world.lock().faults.push((fault, kind));
    }

    async fn stop(&mut self) {
        let Some(member) = self.member.take() else { return };
        // A process that does not end in time is killed.
        let ended = member.stop(GRACE).await;
        if ended.is_ok() {
            self.happened(Kind::StopInOrder);
        }
    }

    fn crash(&mut self) {
        let Some(member) = self.member.take() else { return };
        let life = member.process.life.clone();
        let writes_go_on = self.rng.one_in(3);
        let (before, after) = (
            life.before.load(std::sync::atomic::Ordering::Relaxed),
            life.after.load(std::sync::atomic::Ordering::Relaxed),
        );
        member.kill(writes_go_on);
        let kinds = [
            (Kind::CrashBeforeWrite, before > 0 && !writes_go_on),
            (Kind::WriteOutlivesCrash, before > 0 && writes_go_on),
            (Kind::CrashAfterWrite, after > 0),
        ];
        kinds.into_iter().filter(|it| it.1).for_each(|(kind, _)| self.happened(kind));
    }

    fn cut(&mut self) {
        let partition = i32::try_from(self.rng.below(PARTITIONS.unsigned_abs().into())).unwrap();
        let mut world = self.world.lock();
        let (low, high) = (world.log(partition).low, world.log(partition).high());
        // Two truncations without a read in between cannot be distinguished from one.
        let low = low.max(world.log(partition).last_cut());
        let to = low + i64::try_from(self.rng.below((high - low + 1).unsigned_abs())).unwrap();
        world.cut(partition, to);
        drop(world);
        self.happened(Kind::LogCut);
    }

    fn put_back(&mut self) {
        let mut world = self.world.lock();
        match self.backup.take() {
            None => self.backup = Some(world.back_up()),
            Some(backup) => {
                world.put_back(backup);
                drop(world);
                self.happened(Kind::TablePutBack);
            }
        }
    }

    /// Another member, without faults, reads a partition that this member does not own.
    fn others_read(&mut self) {
        let partition = i32::try_from(self.rng.below(PARTITIONS.unsigned_abs().into())).unwrap();
        let most = 1 + i64::try_from(self.rng.below(6)).unwrap();
        let mut world = self.world.lock();
        let is_ours = self.member.as_ref().is_some_and(|member| member.owns(partition));
        let is_away = world.is_coordinator_silent || world.mode != TableMode::Serves;
        if is_ours || is_away || world.log(partition).epoch() > 0 {
            return;
        }
        let (low, high) = (world.log(partition).low, world.log(partition).high());
        let committed = world.committed(partition).filter(|it| it.topic_id == world.topic_id);
        let key = (world.topic_id, partition);
        let account = world.claim(key, "others").map(|position| position.next_offset);
        let first = match (account, committed.map(|it| it.next)) {
            (None, _) => low,
            (Some(account), committed) => account.min(committed.unwrap_or(account)).max(low),
        };
        let next = high.min(first + most);
        for offset in first..next {
            let record = world.read(partition, offset);
            match world.made[world.log(partition).at(offset)].expected.clone() {
                Expected::Row(row) => {
                    world.record(&[row]);
                }
                Expected::RefusedRow(_) | Expected::Rejected => world.dead_letter(&record, true),
                Expected::Skipped => {}
            }
        }
        if next > first {
            let epoch = world.log(partition).epoch_at(next - 1);
            world.put_account(key, next, epoch);
            let request = world.request(partition, next, epoch);
            world.commit(&request);
        }
    }

    /// The phase without faults: everything is read to the end.
    async fn end(&mut self) {
        self.mend();
        self.world.lock().faults.clear();
        self.world.lock().lost_acknowledgements = 0;
        let is_stuck = |member: &Member| {
            member.process.life.has_endless_write.load(std::sync::atomic::Ordering::Relaxed)
        };
        if self.member.as_ref().is_some_and(is_stuck) {
            self.crash();
        }
        let mut member = match self.member.take() {
            Some(member) => member,
            None => Member::join(&self.world),
        };
        let others: Vec<i32> = (0..PARTITIONS).filter(|&it| !member.owns(it)).collect();
        member.assign(&others);
        let deadline = Instant::now() + END;
        while !member.is_at_end() && Instant::now() < deadline {
            member.choose_start_offsets();
            member.poll(20);
            member.commit(CommitFate::Arrives);
            member.store(true);
            sleep(Duration::from_millis(50)).await;
        }
        let ended = if member.is_at_end() { Ok(()) } else { Err("reading does not end".into()) };
        let stopped = member.stop(END).await;
        let mut world = self.world.lock();
        world.kinds[Kind::RowRefused as usize] = world.refused_rows();
        ended.and(stopped).unwrap_or_else(|what| world.violated(what));
        world.check_end();
    }
}
