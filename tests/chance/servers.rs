//! The servers of a run, behind proxies. Schedules share them; after a failure they are replaced.

use testkit::{Kafka, NetworkFault, Pgbouncer, Postgres, Proxy};

/// The group's session timeout in this run, which its broker allows.
pub(crate) const SESSION_MILLIS: u64 = 3_000;

/// Silenced sessions stay open in the server and the pooler until these notice it, by default after hours. With fewer
/// slots than a schedule silences, new sessions would wait for the old ones.
const CONNECTIONS: u32 = 400;

/// A broker and a PostgreSQL, each with a proxy.
pub(crate) struct Servers {
    pub(crate) kafka: Kafka,
    pub(crate) postgres: Postgres,
    pub(crate) to_kafka: Proxy,
    pub(crate) to_postgres: Proxy,
}

impl Servers {
    pub(crate) fn start() -> Self {
        let (to_kafka, to_postgres) = (Proxy::start(), Proxy::start());
        let kafka = Kafka::builder()
            .listener("PROXIED", "PLAINTEXT", Some(to_kafka.port()))
            .property("group.min.session.timeout.ms", 1_000)
            .property("group.consumer.min.session.timeout.ms", 1_000)
            .property("group.consumer.session.timeout.ms", SESSION_MILLIS)
            .property("group.consumer.min.heartbeat.interval.ms", 500)
            .property("group.consumer.heartbeat.interval.ms", 500)
            .start();
        to_kafka.forward_to(&kafka.listener("PROXIED"));
        let postgres = Postgres::builder().setting("max_connections", CONNECTIONS).start();
        let servers = Self { kafka, postgres, to_kafka, to_postgres };
        servers.lead_to_postgres(None);
        servers
    }

    /// A pooler in session mode, in front of PostgreSQL.
    pub(crate) fn pooler(&self) -> Pgbouncer {
        let places =
            format!("default_pool_size = {CONNECTIONS}\nmax_client_conn = {}", 2 * CONNECTIONS);
        Pgbouncer::with(&self.postgres.url(), "session", &places)
    }

    /// Routes the proxy to PostgreSQL, directly or by way of a pooler.
    pub(crate) fn lead_to_postgres(&self, pooler: Option<&Pgbouncer>) {
        let url = pooler.map_or_else(|| self.postgres.url(), |pooler| pooler.url("postgres"));
        self.to_postgres.forward_to(host_of(&url));
    }

    /// Ends network faults for all connections that were not silenced.
    pub(crate) fn mend_network(&self) {
        for proxy in [&self.to_kafka, &self.to_postgres] {
            proxy.set(NetworkFault::None);
        }
    }
}

/// `host:port` in a URL of testkit.
pub(crate) fn host_of(url: &str) -> &str {
    url.split_once('@').and_then(|(_, rest)| rest.split_once('/')).expect("a URL of testkit's").0
}
