//! Several brokers of one cluster.

use crate::kafka::{Kafka, KafkaBuilder};

/// A Kafka cluster on 127.0.0.1. Each node is broker and controller. Dropping it ends the nodes and removes their data.
///
/// With several nodes, topics have three replicas and need two in sync by default. The coordinator of every group is
/// the leader of partition 0 of `__consumer_offsets`.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Kafka>,
}

impl Cluster {
    /// Starts `nodes` nodes with the builder's settings, and waits until each knows all others. Ids begin with 1.
    pub fn start(builder: &KafkaBuilder, nodes: usize) -> Self {
        Self { nodes: builder.start_nodes(nodes) }
    }

    /// The bootstrap servers, separated by commas. They do not change on a restart.
    pub fn brokers(&self) -> String {
        self.nodes.iter().map(Kafka::brokers).collect::<Vec<_>>().join(",")
    }

    /// The ids of the nodes.
    pub fn ids(&self) -> Vec<i32> {
        (1..).take(self.nodes.len()).collect()
    }

    /// A node by its id.
    pub fn node(&mut self, id: i32) -> &mut Kafka {
        let place = usize::try_from(id - 1).expect("numbers begin with 1");
        &mut self.nodes[place]
    }

    /// Kills these nodes (SIGKILL).
    pub fn kill(&mut self, ids: &[i32]) {
        ids.iter().for_each(|id| self.node(*id).kill());
    }

    /// Starts these stopped nodes with their old ports and data, and waits until they answer. This needs a majority of
    /// all nodes running.
    pub fn start_again(&mut self, ids: &[i32]) {
        ids.iter().for_each(|id| self.node(*id).launch_again());
        ids.iter().for_each(|id| self.node(*id).answers());
    }
}
