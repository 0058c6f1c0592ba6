//! Faults of the topic: records are lost, come late, or come to new partitions.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use testkit::Transaction;

use crate::random::Random;
use crate::record::{Maker, Outgoing};
use crate::run::Run;
use crate::schedule::{Fault, index, one_in};

impl Run<'_> {
    pub(crate) async fn act_on_topic(
        &mut self,
        fault: Fault,
        random: &mut Random,
        maker: &mut Maker,
    ) {
        match fault {
            Fault::OpenTransaction => self.leave_transaction_open(random, maker).await,
            Fault::AbandonedTransaction => self.abandon_transaction(random, maker).await,
            Fault::UncleanElection => self.lose_by_election(random, maker).await,
            Fault::Retention => self.pass_by_retention(random, maker).await,
            Fault::TopicRecreated => self.recreate_topic(random, maker).await,
            Fault::Partitions => self.add_partitions(random, maker).await,
            _ => self.cut_log(random, maker).await,
        }
    }

    /// Leaves a transaction open. Later records wait for its end.
    async fn leave_transaction_open(&mut self, random: &mut Random, maker: &mut Maker) {
        let transaction = Transaction::begin(&self.scene.brokers, "left-open").await;
        let mut inner = Maker::new(90_000 + self.sent.records.len(), random.below(u64::MAX));
        let inside = inner.records(1 + index(random, 20));
        let outgoing = inside.iter().map(|outgoing| outgoing.record.clone());
        let places = transaction.produce(&self.scene.topic, outgoing).await;
        let sending = self.meanwhile(random, maker);
        self.a_while(random, 3_000).await;
        let commit = one_in(random, 2);
        transaction.end(commit).await;
        if commit {
            self.took(inside.into_iter().zip(places));
        }
        self.join(sending).await;
        self.put_behind(maker).await;
    }

    /// Deletes records before they are read.
    async fn pass_by_retention(&mut self, random: &mut Random, maker: &mut Maker) {
        self.settle(Fault::Retention).await;
        self.stop_all();
        let first = self.sent.records.len();
        self.put(maker.records(30 + index(random, 60))).await;
        let mut before = BTreeMap::new();
        for sent in &self.sent.records[first..] {
            let keeps = before.entry(sent.partition).or_insert(sent.offset);
            if one_in(random, 2) {
                *keeps = sent.offset.max(*keeps);
            }
        }
        for (partition, before) in &before {
            testkit::delete_records(&self.scene.brokers, &self.scene.topic, *partition, *before)
                .await;
        }
        let mut lost = 0_u32;
        self.sent.gone(|number, sent| {
            let gone = before.get(&sent.partition).is_some_and(|before| sent.offset < *before);
            lost += u32::from(gone && number >= first);
            gone
        });
        self.gap = Some(f64::from(lost));
        self.sent_now -= usize::try_from(lost).unwrap_or(0);
        self.start_all();
    }

    /// Deletes the topic and creates another one of the same name.
    async fn recreate_topic(&mut self, random: &mut Random, maker: &mut Maker) {
        self.settle(Fault::TopicRecreated).await;
        // Everything in it was read.
        self.sent.found(self.evidence.lists.len());
        if one_in(random, 2) {
            self.stop_all();
        }
        testkit::delete_topic(&self.scene.brokers, &self.scene.topic).await;
        self.scene.make_topic(self.settings.partitions, &[]).await;
        self.sent.gone(|_, _| true);
        self.put(maker.records(index(random, 200))).await;
        self.start_all();
    }

    /// Adds partitions and sends records to them before the ingesters know of them.
    async fn add_partitions(&mut self, random: &mut Random, maker: &mut Maker) {
        let sending = self.meanwhile(random, maker);
        let before = self.settings.partitions;
        self.settings.partitions += 1 + i32::from(one_in(random, 2));
        let count = usize::try_from(self.settings.partitions).unwrap_or(0);
        testkit::add_partitions(&self.scene.brokers, &self.scene.topic, count).await;
        self.join(sending).await;
        let mut records = maker.records(20);
        place(&mut records, before);
        self.put(records).await;
    }

    /// A power loss: a partition loses its last records, others take their offsets, and the position is after the cut.
    async fn cut_log(&mut self, random: &mut Random, maker: &mut Maker) {
        self.settle(Fault::LogCut).await;
        self.sent.found(self.evidence.lists.len());
        let partition = i32::try_from(index(random, 64)).unwrap_or(0) % self.settings.partitions;
        let log = self.servers.nodes.kafka.node(1).log_folder(&self.scene.topic, partition);
        let kept = self.scene.directory.path().join("kept");
        self.servers.nodes.kafka.node(1).stop();
        replace(&kept, &log);
        self.servers.nodes.kafka.node(1).start_again();
        let first = self.sent.records.len();
        let mut records = maker.records(1 + index(random, 60));
        place(&mut records, partition);
        self.put(records).await;
        if one_in(random, 2) {
            self.settle(Fault::LogCut).await;
            self.sent.found(self.evidence.lists.len());
        }
        if one_in(random, 2) {
            self.stop_all();
        }
        self.servers.nodes.kafka.node(1).stop();
        replace(&log, &kept);
        self.servers.nodes.kafka.node(1).start_again();
        self.sent.gone(|number, sent| number >= first && sent.partition == partition);
        let mut records = maker.records(index(random, 120));
        place(&mut records, partition);
        self.put(records).await;
        self.start_all();
    }
}

/// Assigns the records to this partition, independent of their keys.
fn place(records: &mut [Outgoing], partition: i32) {
    for outgoing in records {
        outgoing.record.partition = Some(partition);
    }
}

/// Replaces the content of a folder by that of another.
fn replace(folder: &Path, by: &Path) {
    if folder.exists() {
        fs::remove_dir_all(folder).expect("the folder is ours");
    }
    fs::create_dir(folder).expect("a folder can be made");
    for file in fs::read_dir(by).expect("the folder is there").flatten() {
        fs::copy(file.path(), folder.join(file.file_name())).expect("a file can be copied");
    }
}
