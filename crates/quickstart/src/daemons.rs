//! Both daemons, started from their libraries with settings for the embedded parts.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use ingester::{Ingester, IngesterMetrics};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use query::{QuerySettings, Server, StartError};
use service::lifecycle::GraceExceeded;
use store::{PublicationReader, StoreSettings};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// The characters of a path that must be encoded in a URL.
const ENCODED: &AsciiSet = &CONTROLS.add(b'%').add(b'?').add(b'#');
/// The admin listeners take free ports, so that the quickstart has no conflicts.
const FREE_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
/// The mock broker answers an empty fetch only after this time, even when records arrive meanwhile.
const FETCH_WAIT_MS: &str = "20";

/// The host of the tarballs in the sample lockfile. It does not exist (RFC 2606).
pub(crate) const REGISTRY_HOST: &str = "registry.example";

/// The notice about the data on the pages, in GraphiQL and in the schema.
const NOTICE: &str = "Made-up data: accounts, addresses and second factors, the packages story-* and the versions of pg \
    are invented; other packages, versions and times are of real npm publications. pg 7.12.0 is the project's example.";

/// The paths of the files.
pub(crate) struct Files {
    /// The SQLite database.
    pub(crate) database: PathBuf,
    /// The exit lists.
    pub(crate) exit_lists: PathBuf,
    /// The sample lockfile.
    pub(crate) lockfile: PathBuf,
}

impl Files {
    /// The paths within a folder.
    pub(crate) fn within(folder: &Path) -> Self {
        Self {
            database: folder.join("publications.db"),
            exit_lists: folder.join("exit-snapshots"),
            lockfile: folder.join("package-lock.json"),
        }
    }

    fn store(&self) -> anyhow::Result<StoreSettings> {
        let path = std::path::absolute(&self.database)?;
        let path = path.to_str().context("the folder's path is not valid Unicode")?;
        let url = format!("sqlite://{}", utf8_percent_encode(path, ENCODED));
        Ok(StoreSettings { url, ..StoreSettings::default() })
    }
}

/// The query server, bound but not serving yet.
pub(crate) struct Query {
    server: Server,
    /// The reader that the server uses.
    pub(crate) reader: Arc<dyn PublicationReader>,
}

impl Query {
    /// Binds the server to the address.
    ///
    /// # Errors
    /// The address is taken; the message has a hint.
    pub(crate) async fn bind(files: &Files, http: SocketAddr) -> anyhow::Result<Self> {
        let mut settings = QuerySettings { store: files.store()?, ..QuerySettings::default() };
        settings.http.listen = http;
        settings.http.notice = NOTICE.to_owned();
        settings.registry.hosts = vec![REGISTRY_HOST.to_owned()];
        settings.admin.listen = FREE_PORT;
        let reader = store::open_reader(&settings.store)?;
        let server = match Server::bind_with_reader(settings, reader.clone()).await {
            Err(error @ StartError::Bind(_)) => {
                let hint =
                    "name another address with --http, such as --http 127.0.0.1:0 for a free port";
                return Err(anyhow::anyhow!("{error}; {hint}"));
            }
            result => result?,
        };
        Ok(Self { server, reader })
    }
}

/// The addresses of the daemons.
#[derive(Clone, Copy)]
pub(crate) struct Addresses {
    /// GraphQL and GraphiQL.
    pub(crate) http: SocketAddr,
    /// Probes and metrics of the query server.
    pub(crate) query_admin: SocketAddr,
    /// Probes and metrics of the ingester.
    pub(crate) ingester_admin: SocketAddr,
}

/// Both daemons while they run.
pub(crate) struct Daemons {
    ingesting: JoinHandle<anyhow::Result<()>>,
    serving: JoinHandle<Result<(), GraceExceeded>>,
}

impl Daemons {
    /// Starts both daemons. They stop when `stop` is cancelled.
    ///
    /// # Errors
    /// A listener or the store cannot be opened.
    pub(crate) async fn start(
        query: Query,
        settings: ingester::Settings,
        stop: &CancellationToken,
    ) -> anyhow::Result<(Self, Addresses, Arc<IngesterMetrics>)> {
        // Create the tables first, because the query server warns about a missing database.
        ingester::migrate(&settings).await?;
        let ingester = Ingester::bind(settings).await?;
        let metrics = ingester.metrics();
        let addresses = Addresses {
            http: query.server.http_addr(),
            query_admin: query.server.admin_addr(),
            ingester_admin: ingester.admin_addr(),
        };
        let daemons = Self {
            ingesting: tokio::spawn(ingester.run(stop.clone())),
            serving: tokio::spawn(query.server.serve(stop.clone())),
        };
        Ok((daemons, addresses, metrics))
    }

    /// Waits until a daemon ends by itself, which is an error.
    pub(crate) async fn failed(&mut self) -> anyhow::Error {
        let (daemon, result) = tokio::select! {
            result = &mut self.ingesting => ("ingester", flat(result)),
            result = &mut self.serving => ("query server", flat(result)),
        };
        match result {
            Ok(()) => anyhow::anyhow!("the {daemon} has ended"),
            Err(error) => error.context(format!("the {daemon} has ended")),
        }
    }

    /// Waits until both have stopped, after `stop` was cancelled.
    ///
    /// # Errors
    /// The first error of a daemon.
    pub(crate) async fn ended(self) -> anyhow::Result<()> {
        let (ingesting, serving) = tokio::join!(self.ingesting, self.serving);
        flat(ingesting).and(flat(serving))
    }
}

fn flat<E: Into<anyhow::Error>>(
    result: Result<Result<(), E>, tokio::task::JoinError>,
) -> anyhow::Result<()> {
    result?.map_err(Into::into)
}

/// The ingester's settings: the defaults, with the addresses of the embedded parts.
///
/// # Errors
/// The folder's path cannot be written as a URL.
pub(crate) fn ingester_settings(
    files: &Files,
    broker: String,
) -> anyhow::Result<ingester::Settings> {
    let mut settings = ingester::Settings { store: files.store()?, ..Default::default() };
    settings.kafka.brokers = broker;
    settings.kafka.client.insert("fetch.wait.max.ms".into(), FETCH_WAIT_MS.into());
    settings.tor.snapshots = files.exit_lists.clone();
    settings.admin.listen = FREE_PORT;
    Ok(settings)
}
