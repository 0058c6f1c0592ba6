//! Fetches the newest exit list from a URL at intervals, and stores it in `tor.exit_lists` under its time. The next
//! refresh of the directory reads and validates it.

use std::fs::{self, File};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use enrich::{List, Source, format};
use model::Timestamp;
use tokio_util::sync::CancellationToken;
use ureq::Agent;
use ureq::http::StatusCode;
use ureq::http::header::{ETAG, HeaderName, IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED};

use crate::evidence::{self, EvidenceObserver};
use crate::settings::Settings;

/// The largest size of a list; the scanner's lists are below half a MiB.
const MAX_BYTES: u64 = 16 << 20;

/// The reason why no list was stored. The next poll tries again.
#[derive(Debug, thiserror::Error)]
enum PollError {
    #[error("fetching failed: {0}")]
    Fetch(#[from] ureq::Error),
    #[error("fetching failed: the server violates HTTP, or redirects to an invalid URL")]
    Protocol,
    #[error("it {0}")]
    Refused(#[from] enrich::Refusal),
    #[error(
        "it differs from the list of the same time that is there, and does not have more addresses"
    )]
    Lesser,
    #[error("storing it in {} failed: {error}", folder.display())]
    File { folder: PathBuf, error: io::Error },
}

/// The URL to fetch, and the validators of the last response.
pub(crate) struct ListPoller {
    agent: Agent,
    url: String,
    folder: PathBuf,
    every: Duration,
    /// The validators for a conditional request (RFC 9110, section 13), from the server's response.
    validators: Vec<(HeaderName, String)>,
    observer: Arc<dyn EvidenceObserver>,
}

/// A list, its text, and the validators that came with it.
struct Fetched {
    list: List,
    bytes: Vec<u8>,
    validators: Vec<(HeaderName, String)>,
}

impl ListPoller {
    /// `None` when `tor.poll_url` is empty.
    pub(crate) fn new(settings: &Settings, observer: Arc<dyn EvidenceObserver>) -> Option<Self> {
        let tor = &settings.tor;
        let config = Agent::config_builder()
            .timeout_global(Some(tor.poll_timeout))
            // A redirect must not leave TLS.
            .https_only(tor.poll_url.starts_with("https:"))
            .build();
        (!tor.poll_url.is_empty()).then(|| Self {
            agent: config.into(),
            url: tor.poll_url.clone(),
            folder: tor.exit_lists.clone(),
            every: tor.poll_every,
            validators: Vec::new(),
            observer,
        })
    }

    /// Polls at once, then every `tor.poll_every` plus up to a tenth, so that many ingesters do not poll together.
    pub(crate) async fn run(mut self, stop: CancellationToken) -> anyhow::Result<()> {
        loop {
            let polled;
            (self, polled) = tokio::task::spawn_blocking(move || {
                let polled = self.poll(evidence::now());
                (self, polled)
            })
            .await?;
            match polled {
                Ok(Some(path)) => tracing::info!(path = %path.display(), "exit list fetched"),
                Ok(None) => {}
                Err(error) => {
                    if matches!(error, PollError::Refused(_) | PollError::Lesser) {
                        self.observer.refused(Source::ExitList);
                    }
                    tracing::warn!(%error, "no exit list from tor.poll_url");
                }
            }
            let jitter = RandomState::new().hash_one(()) % 1_000;
            let wait = self.every + self.every.mul_f64(jitter as f64 / 10_000.0);
            if stop.run_until_cancelled(tokio::time::sleep(wait)).await.is_none() {
                return Ok(());
            }
        }
    }

    /// Fetches and stores one list; `None` when there is no new list.
    fn poll(&mut self, now: Timestamp) -> Result<Option<PathBuf>, PollError> {
        let Some(Fetched { list, bytes, validators }) = self.fetch(now)? else { return Ok(None) };
        let stored = store_list(&self.folder, &list, &bytes)?;
        self.validators = validators;
        Ok(stored)
    }

    /// Whether a poll would succeed: the server gives a valid list, and the folder takes a file. Stores nothing.
    ///
    /// # Errors
    /// The reason, as the daemon would log it.
    pub(crate) fn check(&self, now: Timestamp) -> anyhow::Result<()> {
        tempfile::tempfile_in(&self.folder)
            .map_err(|error| PollError::File { folder: self.folder.clone(), error })?;
        self.fetch(now)?;
        Ok(())
    }

    /// Fetches one list; `None` when it is the last one again.
    fn fetch(&self, now: Timestamp) -> Result<Option<Fetched>, PollError> {
        let mut request = self.agent.get(&self.url);
        for (name, value) in &self.validators {
            request = request.header(name, value);
        }
        let mut response = request.call().map_err(|error| match error {
            // Its text has the address, of which a part may be a secret.
            ureq::Error::BadUri(_) | ureq::Error::Protocol(_) => PollError::Protocol,
            error => error.into(),
        })?;
        if response.status() == StatusCode::NOT_MODIFIED {
            return Ok(None);
        }
        let validator = |answer, question| {
            let value = response.headers().get(answer)?.to_str().ok()?;
            Some((question, value.to_owned()))
        };
        let validators =
            [validator(ETAG, IF_NONE_MATCH), validator(LAST_MODIFIED, IF_MODIFIED_SINCE)];
        let bytes = response.body_mut().with_config().limit(MAX_BYTES).read_to_vec()?;
        let list = format::exit_list(&bytes, now)?;
        Ok(Some(Fetched { list, bytes, validators: validators.into_iter().flatten().collect() }))
    }
}

/// Writes the list to a temporary file and renames it, so that it is never read half, not even after a loss of power.
/// `None` when it exists already, with these bytes.
fn store_list(folder: &Path, list: &List, bytes: &[u8]) -> Result<Option<PathBuf>, PollError> {
    // YYYY-MM-DDTHH:MM:SS… in CollecTor's form of file names.
    let name = list.time().to_rfc3339_millis()[..19].replace(['T', ':'], "-");
    let path = folder.join(&name);
    if let Ok(there) = fs::read(&path) {
        if there == bytes {
            return Ok(None);
        }
        // The source may have answered with a part of it. What is there may be a part too, of an earlier answer.
        let known = format::exit_list(&there, list.time()).map(|there| there.sightings().len());
        if known.is_ok_and(|known| known >= list.sightings().len()) {
            return Err(PollError::Lesser);
        }
    }
    let temporary = folder.join(format!(".{name}.tmp"));
    let write = || {
        let mut file = File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, &path)
    };
    write().map_err(|error| {
        // On a full disk each poll would leave another one.
        let _ = fs::remove_file(&temporary);
        PollError::File { folder: folder.to_owned(), error }
    })?;
    Ok(Some(path))
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::net::TcpListener;

    use super::*;

    const LIST: &str = "@type tordnsel 1.0\nDownloaded 2016-09-20 13:02:00\n\
        ExitNode 0011BD2485AD45D984EC4159C88FC066E5E3300E\nPublished 2016-09-20 07:22:06\n\
        LastStatus 2016-09-20 08:02:53\nExitAddress 162.247.72.201 2016-09-20 08:09:39\n";

    /// Answers each request with the next answer; returns the heads of the requests.
    fn serve(answers: Vec<String>) -> (String, std::thread::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/exit-addresses", listener.local_addr().unwrap());
        let serving = std::thread::spawn(move || {
            let heads = answers.into_iter().map(|answer| {
                let (mut stream, _) = listener.accept().unwrap();
                let lines = BufReader::new(stream.try_clone().unwrap()).lines().map(Result::unwrap);
                let head: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
                stream.write_all(answer.as_bytes()).unwrap();
                head.join("\n").to_lowercase()
            });
            heads.collect()
        });
        (url, serving)
    }

    fn answer(status: &str, headers: &str, body: &str) -> String {
        let length = body.len();
        format!(
            "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n{headers}\r\n{body}"
        )
    }

    #[test]
    fn a_list_that_was_filed_in_part_is_filed_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("2016-09-20-13-02-00");
        let two = format!(
            "{LIST}ExitNode 0011BD2485AD45D984EC4159C88FC066E5E3300F\nPublished 2016-09-20 07:22:06\n\
             LastStatus 2016-09-20 08:02:53\nExitAddress 162.247.72.202 2016-09-20 08:09:39\n"
        );
        let other = LIST.replace("162.247.72.201", "162.247.72.203");
        let give = |text: &str| {
            let list = format::exit_list(text.as_bytes(), evidence::now()).unwrap();
            store_list(folder.path(), &list, text.as_bytes())
        };
        for there in ["", LIST] {
            fs::write(&path, there).unwrap();
            assert_eq!(give(&two).unwrap(), Some(path.clone()));
            assert_eq!(fs::read_to_string(&path).unwrap(), two);
            assert_eq!(give(&two).unwrap(), None);
        }
        for lesser in [LIST, &other] {
            assert!(matches!(give(lesser), Err(PollError::Lesser)), "{lesser}");
            assert_eq!(fs::read_to_string(&path).unwrap(), two);
        }
    }

    #[test]
    fn a_list_that_cannot_be_stored_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("2016-09-20-13-02-00")).unwrap();
        let list = format::exit_list(LIST.as_bytes(), evidence::now()).unwrap();
        let error = store_list(folder.path(), &list, LIST.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(folder.path().to_str().unwrap()), "{error}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "the directory alone");
    }

    #[test]
    fn a_check_fetches_and_stores_nothing() {
        let (url, serving) =
            serve(vec![answer("200 OK", "", LIST), answer("200 OK", "", "<html>503</html>")]);
        let folder = tempfile::tempdir().unwrap();
        let mut settings = Settings::default();
        settings.tor.poll_url = url;
        settings.tor.exit_lists = folder.path().into();
        let poller = ListPoller::new(&settings, Arc::new(())).unwrap();
        poller.check(evidence::now()).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        assert!(poller.check(evidence::now()).is_err(), "an error page");
        serving.join().unwrap();
        settings.tor.exit_lists = folder.path().join("missing");
        let poller = ListPoller::new(&settings, Arc::new(())).unwrap();
        let error = poller.check(evidence::now()).unwrap_err().to_string();
        assert!(error.contains("missing"), "{error}");
    }

    #[test]
    fn a_list_is_filed_by_its_time_and_asked_for_only_when_it_changed() {
        let (url, serving) = serve(vec![
            answer(
                "200 OK",
                "ETag: \"a\"\r\nLast-Modified: Tue, 20 Sep 2016 13:02:00 GMT\r\n",
                LIST,
            ),
            answer("304 Not Modified", "", ""),
            answer("200 OK", "", "<html>503</html>"),
            answer("503 Service Unavailable", "", ""),
        ]);
        let folder = tempfile::tempdir().unwrap();
        let mut settings = Settings::default();
        settings.tor.poll_url = url;
        settings.tor.exit_lists = folder.path().into();
        let mut poller = ListPoller::new(&settings, Arc::new(())).unwrap();
        let filed = folder.path().join("2016-09-20-13-02-00");
        assert_eq!(poller.poll(evidence::now()).unwrap(), Some(filed.clone()));
        assert_eq!(fs::read_to_string(&filed).unwrap(), LIST);
        assert_eq!(poller.poll(evidence::now()).unwrap(), None);
        assert!(matches!(poller.poll(evidence::now()), Err(PollError::Refused(_))));
        assert!(matches!(poller.poll(evidence::now()), Err(PollError::Fetch(_))));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left there");
        let heads = serving.join().unwrap();
        assert!(!heads[0].contains("if-none-match"));
        assert!(
            heads[1].contains("if-none-match: \"a\"")
                && heads[1].contains("if-modified-since: tue, 20 sep 2016")
        );
        assert!(heads[2].contains("if-none-match: \"a\""), "a refused list changes nothing");
    }
}
