//! Several brokers of one cluster.

use crate::kafka::{Kafka, KafkaBuilder};

/// A Kafka cluster on 127.0.0.1, of nodes that each are broker and controller. Dropping it ends them and removes their data.
///
/// With more than one node topics have three replicas and need two in sync, unless they are made otherwise; the
/// coordinator of every group is the leader of partition 0 of `__consumer_offsets`.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Kafka>,
}

impl Cluster {
    /// Starts so many nodes as `builder` has them, and waits until each knows all others. Their numbers begin with 1.
    pub fn start(builder: &KafkaBuilder, nodes: usize) -> Self {
        Self { nodes: builder.start_nodes(nodes) }
    }

    /// The bootstrap servers, separated by commas; they stay the same over restarts.
    pub fn brokers(&self) -> String {
        self.nodes.iter().map(Kafka::brokers).collect::<Vec<_>>().join(",")
    }

    /// The numbers of the nodes.
    pub fn ids(&self) -> Vec<i32> {
        (1..).take(self.nodes.len()).collect()
    }

    /// A node by its number.
    pub fn node(&mut self, id: i32) -> &mut Kafka {
        let place = usize::try_from(id - 1).expect("numbers begin with 1");
        &mut self.nodes[place]
    }

    /// Ends these nodes as crashes do.
    pub fn kill(&mut self, ids: &[i32]) {
        ids.iter().for_each(|id| self.node(*id).kill());
    }

    /// Starts these stopped nodes on their old ports with their old data, and waits until they answer, for which more than
    /// half of all nodes must run.
    pub fn start_again(&mut self, ids: &[i32]) {
        ids.iter().for_each(|id| self.node(*id).launch_again());
        ids.iter().for_each(|id| self.node(*id).answers());
    }
}
