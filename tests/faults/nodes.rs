//! The brokers of a run, and faults of them that both fault runs share.

use std::time::Duration;

use testkit::{Cluster, PartitionState, eventually, partition_states};

/// The topic of the groups' offsets. The leader of its partition coordinates all groups.
pub(crate) const OFFSETS: &str = "__consumer_offsets";
/// The deadline for elections and for replicas to catch up, on a busy machine.
pub(crate) const ELECTION: Duration = Duration::from_secs(120);

/// One broker, or the brokers of a cluster.
pub(crate) struct Nodes {
    pub(crate) kafka: Cluster,
    /// The brokers that a fault has stopped and that were not started again.
    pub(crate) down: Vec<i32>,
}

/// Two brokers before an unclean election. `lacks` does not have the latest records.
pub(crate) struct Pair {
    pub(crate) leads: i32,
    pub(crate) lacks: i32,
}

impl Nodes {
    pub(crate) const fn new(kafka: Cluster) -> Self {
        Self { kafka, down: Vec::new() }
    }

    /// Whether there are several brokers.
    pub(crate) fn are_several(&self) -> bool {
        self.kafka.ids().len() > 1
    }

    /// Kills brokers. They stay stopped until [`Nodes::mend`].
    pub(crate) fn kill(&mut self, ids: &[i32]) {
        self.kafka.kill(ids);
        self.down.extend(ids);
    }

    /// Starts the stopped brokers, and waits until all replicas of these topics and of the offsets are in sync.
    pub(crate) async fn mend(&mut self, topics: &[&str]) {
        let down = std::mem::take(&mut self.down);
        self.kafka.start_again(&down);
        for topic in [topics, &[OFFSETS]].concat() {
            self.become_right(topic, "the replicas", |state| {
                state.leader > 0 && state.in_sync == state.replicas
            })
            .await;
        }
    }

    /// Waits until this is true of all partitions of a topic.
    async fn become_right(&self, topic: &str, what: &str, right: impl Fn(&PartitionState) -> bool) {
        let brokers = self.kafka.brokers();
        eventually(&format!("{what} of {topic}"), ELECTION, async || {
            let states = partition_states(&brokers, topic).await;
            !states.is_empty() && states.iter().all(&right)
        })
        .await;
    }

    /// The leader and replicas of partition 0 of a topic.
    pub(crate) async fn state(&self, topic: &str) -> PartitionState {
        let brokers = self.kafka.brokers();
        eventually(&format!("who leads {topic}"), ELECTION, async || {
            let states = partition_states(&brokers, topic).await;
            states.into_iter().next().filter(|state| state.leader > 0)
        })
        .await
    }

    /// The coordinator of the groups.
    pub(crate) async fn coordinator(&self) -> i32 {
        self.state(OFFSETS).await.leader
    }

    /// The active controller.
    pub(crate) fn controller(&self) -> i32 {
        testkit::active_controller(&self.kafka.brokers())
    }

    /// All brokers but one.
    pub(crate) fn others(&self, than: i32) -> Vec<i32> {
        self.kafka.ids().into_iter().filter(|id| *id != than).collect()
    }

    /// Restarts all brokers, one after the other.
    pub(crate) async fn roll(&mut self, topics: &[&str]) {
        for id in self.kafka.ids() {
            self.kafka.node(id).stop();
            self.down.push(id);
            self.mend(topics).await;
        }
    }

    /// Moves the first partitions of a topic to these brokers, and waits until all its replicas are there.
    pub(crate) async fn move_to(&self, topic: &str, partitions: usize, brokers: &[i32]) {
        testkit::reassign(&self.kafka.brokers(), topic, partitions, brokers);
        let mut sorted = brokers.to_vec();
        sorted.sort_unstable();
        let all = self.kafka.brokers();
        eventually("the replicas to have moved", ELECTION, async || {
            let states = partition_states(&all, topic).await;
            let moved = states.iter().take(partitions).all(|state| {
                state.replicas == sorted
                    && state.in_sync == sorted
                    && brokers.contains(&state.leader)
            });
            !states.is_empty() && moved
        })
        .await;
    }

    /// Kills the broker of a pair that is going to lack records, and waits until the other one is alone in sync. The
    /// topic has its replicas on these two.
    pub(crate) async fn leave_one(&mut self, topic: &str, pair: &Pair) {
        self.kafka.kill(&[pair.lacks]);
        self.become_right(topic, "one replica in sync", |state| state.in_sync == [pair.leads])
            .await;
    }

    /// Starts the broker that lacks records, and waits until it leads. The old leader is stopped.
    pub(crate) async fn elect(&mut self, topic: &str, pair: &Pair) {
        self.kafka.start_again(&[pair.lacks]);
        self.become_right(topic, "the election", |state| state.leader == pair.lacks).await;
        self.down.push(pair.leads);
    }
}
