//! The servers of a run, behind proxies. Schedules share them; after a failure they are replaced.

use testkit::{Cluster, Kafka, NetworkFault, Pgbouncer, Postgres, Proxy, host_of};

use crate::nodes::Nodes;

/// The listener of a broker that is behind a proxy.
const PROXIED: &str = "PROXIED";

/// The servers of all schedules. They are started on first use.
#[derive(Default)]
pub(crate) struct Servers {
    single: Option<Installation>,
    cluster: Option<Installation>,
}

impl Servers {
    pub(crate) fn start() -> Self {
        Self::default()
    }

    /// One broker, or three.
    pub(crate) fn installation(&mut self, cluster: bool) -> &mut Installation {
        let place = if cluster { &mut self.cluster } else { &mut self.single };
        place.get_or_insert_with(|| Installation::start(cluster))
    }
}

/// One broker or three, and a PostgreSQL, each with a proxy.
pub(crate) struct Installation {
    pub(crate) nodes: Nodes,
    pub(crate) postgres: Postgres,
    /// A proxy for each broker.
    pub(crate) to_kafka: Vec<Proxy>,
    pub(crate) to_postgres: Proxy,
    /// The group's session timeout, which the brokers allow.
    pub(crate) session_millis: u64,
    /// The connections that the database allows. Silenced sessions stay open in the server and the pooler until these
    /// notice it, by default after hours. With fewer slots than a schedule silences, new sessions would wait for the
    /// old ones.
    connections: u32,
}

impl Installation {
    /// Three brokers answer more slowly than one, so their session timeout is longer. A fault takes all connections of
    /// their database, so there are fewer.
    fn start(cluster: bool) -> Self {
        let (count, session_millis, connections) =
            if cluster { (3, 6_000, 200) } else { (1, 3_000, 400) };
        let to_kafka: Vec<Proxy> = (0..count).map(|_| Proxy::start()).collect();
        let kafka = Kafka::builder()
            .listener(PROXIED, "PLAINTEXT", to_kafka.iter().map(Proxy::port))
            .property("group.min.session.timeout.ms", 1_000)
            .property("group.consumer.min.session.timeout.ms", 1_000)
            .property("group.consumer.session.timeout.ms", session_millis)
            .property("group.consumer.min.heartbeat.interval.ms", 500)
            .property("group.consumer.heartbeat.interval.ms", 500);
        let mut kafka = Cluster::start(&kafka, count);
        for (id, proxy) in (1..).zip(&to_kafka) {
            proxy.forward_to(&kafka.node(id).listener(PROXIED));
        }
        let servers = Self {
            nodes: Nodes::new(kafka),
            postgres: Postgres::builder().setting("max_connections", connections).start(),
            to_kafka,
            to_postgres: Proxy::start(),
            session_millis,
            connections,
        };
        servers.lead_to_postgres(None);
        servers
    }

    /// The bootstrap servers for ingesters.
    pub(crate) fn bootstrap(&self) -> String {
        self.to_kafka.iter().map(Proxy::address).collect::<Vec<_>>().join(",")
    }

    /// A pooler in session mode, in front of PostgreSQL.
    pub(crate) fn pooler(&self) -> Pgbouncer {
        let connections = self.connections;
        let places =
            format!("default_pool_size = {connections}\nmax_client_conn = {}", 2 * connections);
        Pgbouncer::with(&self.postgres.url(), "session", &places)
    }

    /// Routes the proxy to PostgreSQL, directly or by way of a pooler.
    pub(crate) fn lead_to_postgres(&self, pooler: Option<&Pgbouncer>) {
        let url = pooler.map_or_else(|| self.postgres.url(), |pooler| pooler.url("postgres"));
        self.to_postgres.forward_to(host_of(&url));
    }

    /// All proxies.
    pub(crate) fn proxies(&self) -> impl Iterator<Item = &Proxy> {
        self.to_kafka.iter().chain([&self.to_postgres])
    }

    /// Ends network faults for all connections that were not silenced.
    pub(crate) fn mend_network(&self) {
        self.proxies().for_each(|proxy| proxy.set(NetworkFault::None));
    }
}
