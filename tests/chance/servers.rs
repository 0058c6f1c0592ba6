//! The servers of a run, with proxies before them. Schedules share them; one that failed gets new ones.

use testkit::{Kafka, NetworkFault, Pgbouncer, Postgres, Proxy};

/// The group's session time-out in this run, which its broker allows.
pub(crate) const SESSION_MILLIS: u64 = 3_000;

/// Sessions that went mute stay in the server, and in a pooler, until it notices that their client is gone: hours, by default.
/// With fewer places than a schedule silences, new sessions would wait for the old ones.
const CONNECTIONS: u32 = 400;

/// One broker and one PostgreSQL.
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

    /// A pooler of sessions before PostgreSQL.
    pub(crate) fn pooler(&self) -> Pgbouncer {
        let places =
            format!("default_pool_size = {CONNECTIONS}\nmax_client_conn = {}", 2 * CONNECTIONS);
        Pgbouncer::with(&self.postgres.url(), "session", &places)
    }

    /// Leads clients to PostgreSQL by a pooler, or by nothing.
    pub(crate) fn lead_to_postgres(&self, pooler: Option<&Pgbouncer>) {
        let url = pooler.map_or_else(|| self.postgres.url(), |pooler| pooler.url("postgres"));
        self.to_postgres.forward_to(host_of(&url));
    }

    /// The network is as it should be for every connection that was not silenced.
    pub(crate) fn mend_network(&self) {
        for proxy in [&self.to_kafka, &self.to_postgres] {
            proxy.set(NetworkFault::None);
        }
    }
}

/// `host:port` of a URL of testkit's.
pub(crate) fn host_of(url: &str) -> &str {
    url.split_once('@').and_then(|(_, rest)| rest.split_once('/')).expect("a URL of testkit's").0
}
