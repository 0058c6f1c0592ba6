//! Faults of the brokers of a cluster.

use std::time::Duration;

use testkit::{Transaction, consume_all, eventually};

use crate::nodes::Pair;
use crate::random::Random;
use crate::record::Maker;
use crate::run::{CHUNK, Run};
use crate::schedule::{Fault, index, one_in, pick};

/// A topic that may lose records: one replica in sync is enough to write, and any replica may lead.
const MAY_LOSE: [(&str, &str); 2] =
    [("min.insync.replicas", "1"), ("unclean.leader.election.enable", "true")];
/// The time after which the brokers abort a transaction that nobody ends.
const ABANDONED: Duration = Duration::from_secs(5);

impl Run<'_> {
    /// Starts the stopped brokers, and waits until they have all records.
    pub(crate) async fn mend_brokers(&mut self) {
        if self.servers.nodes.are_several() {
            let topics = [self.scene.topic.as_str(), self.scene.dead_letters.as_str()];
            self.servers.nodes.mend(&topics).await;
            self.delete_again().await;
        }
    }

    /// Deletes the records again that retention had deleted. A broker writes down once a minute how far records were
    /// deleted, so a killed broker has them again, and so has the topic if that broker leads it.
    async fn delete_again(&self) {
        for partition in 0..self.settings.partitions {
            let of = self.sent.records.iter().filter(|sent| sent.partition == partition);
            let first = of.filter(|sent| sent.there).map(|sent| sent.offset).min();
            if let Some(first) = first.filter(|first| *first > 0) {
                let (brokers, topic) = (&self.scene.brokers, &self.scene.topic);
                testkit::delete_records(brokers, topic, partition, first).await;
            }
        }
    }

    /// Runs a fault of the brokers while records are being sent. A killed one may be away during the check.
    pub(crate) async fn act_on_brokers(&mut self, fault: Fault, random: &mut Random) {
        match fault {
            Fault::OneBrokerKilled => {
                let id = self.one_broker(random).await;
                self.servers.nodes.kill(&[id]);
                if one_in(random, 2) {
                    self.some_time(random).await;
                    self.mend_brokers().await;
                }
            }
            Fault::OneBrokerFrozen => {
                let id = self.one_broker(random).await;
                self.servers.nodes.kafka.node(id).pause();
                self.some_time(random).await;
                self.servers.nodes.kafka.node(id).resume();
            }
            Fault::TwoBrokersAway => {
                let stays = self.one_broker(random).await;
                let away = self.servers.nodes.others(stays);
                self.servers.nodes.kill(&away);
                let millis = pick(random, &[1_500, 12_000, 40_000]);
                self.a_while(random, millis).await;
                self.mend_brokers().await;
            }
            Fault::AllBrokersKilled => {
                let all = self.servers.nodes.kafka.ids();
                self.servers.nodes.kill(&all);
                self.mend_brokers().await;
            }
            Fault::ReplicasMoved => {
                let gone = self.one_broker(random).await;
                let mut brokers = self.servers.nodes.others(gone);
                self.move_topic(&brokers).await;
                self.some_time(random).await;
                brokers.push(gone);
                self.move_topic(&brokers).await;
            }
            _ => {
                let topics = [self.scene.topic.as_str(), self.scene.dead_letters.as_str()];
                self.servers.nodes.roll(&topics).await;
            }
        }
    }

    /// The coordinator, the controller, a leader, or any broker.
    async fn one_broker(&self, random: &mut Random) -> i32 {
        let nodes = &self.servers.nodes;
        match random.below(4) {
            0 => nodes.coordinator().await,
            1 => nodes.controller(),
            2 => nodes.state(&self.scene.topic).await.leader,
            _ => pick(random, &nodes.kafka.ids()),
        }
    }

    async fn move_topic(&self, brokers: &[i32]) {
        let partitions = usize::try_from(self.settings.partitions).unwrap_or(0);
        self.servers.nodes.move_to(&self.scene.topic, partitions, brokers).await;
    }

    /// An unclean election: the topic loses its last records, read or not, and others take their offsets.
    pub(crate) async fn lose_by_election(&mut self, random: &mut Random, maker: &mut Maker) {
        self.settle(Fault::UncleanElection).await;
        self.sent.found(self.evidence.lists.len());
        let third = self.one_broker(random).await;
        let [a, b] = self.servers.nodes.others(third)[..] else { unreachable!("three brokers") };
        let pair = if one_in(random, 2) {
            Pair { leads: a, lacks: b }
        } else {
            Pair { leads: b, lacks: a }
        };
        let topic = self.scene.topic.clone();
        testkit::configure_topic(&self.scene.brokers, &topic, &MAY_LOSE).await;
        self.move_topic(&[pair.leads, pair.lacks]).await;
        self.servers.nodes.leave_one(&topic, &pair).await;
        let first = self.sent.records.len();
        self.put(maker.records(1 + index(random, CHUNK))).await;
        self.read_doomed(first, random, maker).await;
        self.servers.nodes.kafka.kill(&[pair.leads]);
        self.servers.nodes.elect(&topic, &pair).await;
        self.sent.gone(|number, _| number >= first);
        self.delete_again().await;
        self.compare_topic().await.unwrap_or_else(|wrong| panic!("after the election: {wrong}"));
        self.put(maker.records(index(random, 3 * CHUNK))).await;
        self.start_all();
        self.mend_brokers().await;
        if one_in(random, 2) {
            self.settle(Fault::UncleanElection).await;
            self.sent.found(self.evidence.lists.len());
        }
        self.move_topic(&[third, pair.lacks, pair.leads]).await;
        testkit::configure_topic(&self.scene.brokers, &topic, &[]).await;
    }

    /// The records from `first` on are going to be lost. The ingesters read all of them, or as many as they can until
    /// then, and run on or stop. Those that were read are counted as lost.
    async fn read_doomed(&mut self, first: usize, random: &mut Random, maker: &mut Maker) {
        let (all_read, stopped) = (one_in(random, 2), one_in(random, 2));
        let read = self.sent.records.len() - first;
        if all_read {
            self.settle(Fault::UncleanElection).await;
            self.sent.found(self.evidence.lists.len());
        }
        let counted = if stopped { 0.0 } else { self.counted("offset_gap_records_total") };
        if stopped {
            self.stop_all();
            if one_in(random, 2) {
                self.put(maker.records(index(random, CHUNK))).await;
            }
        }
        if all_read {
            self.gap = Some(counted + f64::from(u32::try_from(read).unwrap_or(0)));
        }
    }

    /// Whether the topic has all records that it must have. If not, the brokers are at fault. It may have more: a broker
    /// that is killed forgets a deletion of the last minute (`log.flush.start.offset.checkpoint.interval.ms`), and an
    /// election may bring those records back.
    pub(crate) async fn compare_topic(&self) -> Result<(), String> {
        let found = consume_all(&self.scene.brokers, &self.scene.topic).await;
        let found: std::collections::BTreeMap<_, _> =
            found.iter().map(|record| ((record.partition, record.offset), record)).collect();
        for sent in self.sent.records.iter().filter(|sent| sent.there) {
            let (place, record) = ((sent.partition, sent.offset), &sent.outgoing.record);
            let value = found.get(&place).map(|found| (&found.key, &found.value));
            if value != Some((&record.key, &record.value)) {
                return Err(format!("the topic has lost the record at {place:?}"));
            }
        }
        Ok(())
    }

    /// A producer fails in a transaction. Later records wait until the brokers abort it.
    pub(crate) async fn abandon_transaction(&mut self, random: &mut Random, maker: &mut Maker) {
        let id = &self.scene.group;
        let open = Transaction::begin_within(&self.scene.brokers, id, ABANDONED).await;
        let mut inner = Maker::new(70_000 + self.sent.records.len(), random.below(u64::MAX));
        let inside = inner.records(1 + index(random, 20));
        open.produce(&self.scene.topic, inside.into_iter().map(|outgoing| outgoing.record)).await;
        drop(open);
        let sending = self.meanwhile(random, maker);
        self.join(sending).await;
        // Behind the transaction in each partition, so that no consumer gets them before it ends.
        self.put_behind(maker).await;
        eventually("the brokers to abort the transaction", self.patience(), async || {
            self.compare_topic().await.is_ok()
        })
        .await;
        self.put_behind(maker).await;
    }
}
