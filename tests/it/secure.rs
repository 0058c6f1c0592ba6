//! TLS and SASL to Kafka and TLS to PostgreSQL, against servers with that configuration; no secret in a log.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use testkit::{Kafka, Postgres, eventually};

use crate::replay::Answer;
use crate::support::{PATIENCE, Row, Scene, example_record, generated};

const PASSWORD: &str = "correct-horse-battery";

/// A certificate authority for the test, and a server certificate signed by it.
pub(crate) struct Certificates {
    pub(crate) authority: PathBuf,
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Certificates {
    pub(crate) fn make(directory: &Path) -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // Without a name the certificate would look self-signed.
        params.distinguished_name.push(DnType::CommonName, "authority of a test");
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let server = CertificateParams::new(["127.0.0.1".to_owned(), "localhost".to_owned()]);
        let certificate = server.unwrap().signed_by(&key, &authority).unwrap().pem();
        let path = directory.join("authority.pem");
        fs::write(&path, authority.pem()).unwrap();
        Self { authority: path, certificate, key: key.serialize_pem() }
    }
}

/// A broker with a plain listener for the test, and one that requires TLS and a password.
fn secure_kafka(certificates: &Certificates, directory: &Path) -> Kafka {
    let keystore = directory.join("broker.pem");
    fs::write(&keystore, format!("{}{}", certificates.key, certificates.certificate)).unwrap();
    let login = "org.apache.kafka.common.security";
    Kafka::builder()
        .listener("SECURE", "SASL_SSL", None)
        .scram_user("scrammer", PASSWORD)
        .property("sasl.enabled.mechanisms", "PLAIN,SCRAM-SHA-256")
        .property("ssl.keystore.type", "PEM")
        .property("ssl.keystore.location", keystore.display())
        .property(
            "listener.name.secure.plain.sasl.jaas.config",
            format!("{login}.plain.PlainLoginModule required user_plainer=\"{PASSWORD}\";"),
        )
        .property(
            "listener.name.secure.scram-sha-256.sasl.jaas.config",
            format!("{login}.scram.ScramLoginModule required;"),
        )
        .start()
}

#[tokio::test]
async fn the_ingester_speaks_tls_and_proves_its_password() {
    let directory = tempfile::tempdir().unwrap();
    let certificates = Certificates::make(directory.path());
    let kafka = secure_kafka(&certificates, directory.path());
    let postgres = Postgres::builder().tls(&certificates.certificate, &certificates.key).start();
    let authority = certificates.authority.to_str().unwrap();
    let mut scene = Scene::without_topic("secure", String::new());
    scene.brokers = kafka.brokers();
    scene.store =
        format!("{}?sslmode=verify-full&sslrootcert={authority}", postgres.database().await.url);
    scene.make_topic(1, &[]).await;
    let secure = kafka.listener("SECURE");
    let environment = |mechanism, name, password| {
        [
            ("INGESTER_KAFKA__BROKERS", secure.as_str()),
            ("INGESTER_KAFKA__CLIENT__SECURITY_PROTOCOL", "SASL_SSL"),
            ("INGESTER_KAFKA__CLIENT__SSL_CA_LOCATION", authority),
            ("INGESTER_KAFKA__CLIENT__SASL_MECHANISMS", mechanism),
            ("INGESTER_KAFKA__CLIENT__SASL_USERNAME", name),
            ("INGESTER_KAFKA__CLIENT__SASL_PASSWORD", password),
            // As verbose as an operator would log while debugging.
            ("INGESTER_LOG__FILTER", "debug"),
        ]
    };

    // A wrong password is reported, and the ingester waits, because the password may soon be set on the broker.
    let ingester = scene.start_ingester(&environment("PLAIN", "plainer", "wrong-donkey"));
    eventually("the broker's refusal", PATIENCE, async || {
        let (status, answer) = ingester.readyz()?;
        let reason = answer["reason"].as_str()?;
        let refused = reason.contains("no broker is connected") && reason.contains("uthenti");
        (status == 503 && refused).then_some(())
    })
    .await;
    let log = ingester.stop();
    assert!(!log.contains("wrong-donkey"), "{log}");

    // Rows and dead letters go through both servers, with each SASL mechanism.
    for (turn, (mechanism, name)) in
        [("PLAIN", "plainer"), ("SCRAM-SHA-256", "scrammer")].into_iter().enumerate()
    {
        scene.produce([generated(turn, 0)]).await;
        scene.produce([testkit::Record { value: Some("{".into()), ..Default::default() }]).await;
        let mut ingester = scene.ingester(&environment(mechanism, name, PASSWORD));
        scene.caught_up(&mut ingester).await;
        let encrypted = "SELECT count(*) FILTER (WHERE NOT ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
            WHERE application_name = 'publication'";
        assert_eq!(scene.number(encrypted).await, 0, "connections without TLS");
        assert_eq!(ingester.metrics().sum("dead_letters_total"), 1.0);
        let log = ingester.stop();
        assert!(!log.contains(PASSWORD), "{log}");
    }
    let rows: Vec<Row> = scene.rows().await;
    assert_eq!(rows.len(), 2);
}

/// The cause stands in librdkafka's words about the broker; its error says only that nothing came.
#[tokio::test]
async fn every_command_says_why_the_broker_does_not_answer() {
    let login = "org.apache.kafka.common.security.plain.PlainLoginModule";
    let kafka = Kafka::builder()
        .listener("ASKS", "SASL_PLAINTEXT", None)
        .property("sasl.enabled.mechanisms", "PLAIN")
        .property(
            "listener.name.asks.plain.sasl.jaas.config",
            format!("{login} required user_reader=\"{PASSWORD}\";"),
        )
        .start();
    let store = testkit::postgres().database().await.url;
    let scene = Scene { brokers: kafka.listener("ASKS"), ..Scene::without_topic("why", store) };
    scene.must("migrate", &[]);
    let wrong = [
        ("INGESTER_KAFKA__CLIENT__SECURITY_PROTOCOL", "SASL_PLAINTEXT"),
        ("INGESTER_KAFKA__CLIENT__SASL_MECHANISMS", "PLAIN"),
        ("INGESTER_KAFKA__CLIENT__SASL_USERNAME", "reader"),
        ("INGESTER_KAFKA__CLIENT__SASL_PASSWORD", "wrong-donkey"),
    ];
    let all = [
        ("check", &[][..]),
        ("replay", &["--from", "earliest", "--yes"]),
        ("reconcile", &["--from", "earliest"]),
        ("dead-letters", &["list"]),
    ];
    // Without a password the broker ends the connection and says nothing.
    let closed = ["closed by peer", "Broken pipe", "reset by peer"];
    for (settings, commands, words) in
        [(&wrong[..], &all[..], &["Invalid username or password"][..]), (&[], &all[..1], &closed)]
    {
        let is_told = |text: &str| words.iter().any(|words| text.contains(words));
        let began = Instant::now();
        let start = |(command, arguments)| (command, scene.start(command, arguments, settings));
        let started: Vec<_> = commands.iter().copied().map(start).collect();
        for (command, running) in &started {
            eventually(&format!("{command} to say why"), PATIENCE, async || {
                is_told(&running.log())
            })
            .await;
        }
        // Not only when the question's time is over.
        assert!(began.elapsed() < Duration::from_secs(9), "{:?}", began.elapsed());
        for (command, running) in started {
            let answer = Answer::of(running);
            assert_eq!(answer.code, Some(1), "{command}: {}", answer.log);
            let ends = ["publication-ingester: ", "PROBLEM kafka: "];
            let is_end = |line: &&str| ends.iter().any(|end| line.starts_with(end));
            let end = answer.log.lines().find(is_end).unwrap_or_default();
            assert!(is_told(end) && !end.contains("TransportFailure"), "{command}: {}", answer.log);
        }
        let ingester = scene.start_ingester(settings);
        eventually("the reason", PATIENCE, async || {
            let (_, answer) = ingester.readyz()?;
            let reason = answer["reason"].as_str()?;
            (reason.starts_with("kafka_away: ") && is_told(reason)).then_some(())
        })
        .await;
        ingester.stop();
    }
}

#[tokio::test]
async fn a_server_that_nobody_vouches_for_is_not_talked_to() {
    let directory = tempfile::tempdir().unwrap();
    let certificates = Certificates::make(directory.path());
    let others = tempfile::tempdir().unwrap();
    let stranger = Certificates::make(others.path());
    let postgres = Postgres::builder().tls(&certificates.certificate, &certificates.key).start();
    let url = postgres.database().await.url;
    let store = format!("{url}?sslmode=verify-full&sslrootcert={}", stranger.authority.display());
    let mut scene = Scene::without_topic("stranger", store);
    scene.make_topic(1, &[]).await;
    scene.produce([example_record()]).await;
    let mut ingester = scene.start_ingester(&[]);
    let (_, answer) = ingester.shows("paused").await;
    assert!(answer["reason"].as_str().unwrap().contains("certificate"), "{answer}");
    ingester.stop();
    scene.store = url;
    assert_eq!(scene.count().await, 0);
}
