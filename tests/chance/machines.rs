//! Faults of the ingesters' processes, of the broker and of the network.

use std::time::Duration;

use testkit::{NetworkFault, Proxy};

use crate::random::Random;
use crate::run::Run;
use crate::schedule::{Fault, index, one_in, pick};

impl Run<'_> {
    /// Waits for a time after which some members have lost their session and others have not.
    pub(crate) async fn some_time(&self, random: &mut Random) {
        let millis = pick(random, &[300, 1_500, 2 * self.servers.session_millis]);
        self.a_while(random, millis).await;
    }

    pub(crate) async fn act_on_ingester(&mut self, fault: Fault, random: &mut Random) {
        let which = self.any(random);
        match fault {
            Fault::Kill => {
                let mut killed = self.ingesters.remove(which);
                killed.daemon.kill();
                self.logs.push_str(&killed.daemon.log());
                self.start_ingester();
            }
            Fault::Terminate => {
                self.stop_ingester(which);
                self.start_ingester();
            }
            Fault::Freeze => {
                self.ingesters[which].daemon.pause();
                self.some_time(random).await;
                self.ingesters[which].daemon.resume();
            }
            _ => {
                self.settings.ingesters = 1 + index(random, 4);
                self.start_all();
                while self.ingesters.len() > self.settings.ingesters {
                    let which = self.any(random);
                    self.stop_ingester(which);
                }
            }
        }
    }

    pub(crate) async fn act_on_broker(&mut self, fault: Fault, random: &mut Random) {
        let broker = self.servers.nodes.kafka.node(1);
        match fault {
            Fault::BrokerKilled => {
                broker.kill();
                broker.start_again();
            }
            Fault::BrokerRestarted => broker.restart(),
            _ => {
                broker.pause();
                self.some_time(random).await;
                self.servers.nodes.kafka.node(1).resume();
            }
        }
    }

    pub(crate) async fn act_on_network(&mut self, fault: Fault, random: &mut Random) {
        let sides = [(true, false), (false, true), (true, true)];
        let (kafka, postgres) = if self.settings.sqlite { sides[0] } else { pick(random, &sides) };
        let mut proxies: Vec<&Proxy> = Vec::new();
        if kafka {
            proxies.extend(&self.servers.to_kafka);
        }
        // One of several brokers can be cut off alone.
        if proxies.len() > 1 && one_in(random, 2) {
            proxies = vec![pick(random, &proxies)];
        }
        if postgres {
            proxies.push(&self.servers.to_postgres);
        }
        let slow = Duration::from_millis(20 + random.below(200));
        for proxy in &proxies {
            match fault {
                Fault::NetworkCut if one_in(random, 2) => proxy.cut(),
                Fault::NetworkCut => proxy.set(NetworkFault::Cut),
                Fault::NetworkSlow => proxy.set(NetworkFault::Slow(slow)),
                Fault::NetworkMute => proxy.set(NetworkFault::HalfOpen),
                Fault::NetworkForgets => proxy.silence(),
                _ => proxy.set(NetworkFault::AnswersLost),
            }
        }
        self.some_time(random).await;
        for proxy in proxies {
            // Connections with lost answers are out of step. They end, as after a network outage.
            if fault == Fault::AnswersLost {
                proxy.cut();
            }
        }
        self.servers.mend_network();
    }
}
