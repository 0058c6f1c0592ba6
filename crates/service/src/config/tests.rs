use std::collections::BTreeMap;
use std::time::Duration;

use bytesize::ByteSize;
use serde::Deserialize;

use super::*;

#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
struct Sample {
    kafka: Kafka,
    store: Store,
    limits: Limits,
}

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
struct Kafka {
    group: String,
    client: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
struct Store {
    url: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    url_file: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
struct Limits {
    #[serde(with = "crate::config::duration")]
    window: Duration,
    max_bytes: ByteSize,
    rows: u32,
    directories: Vec<String>,
}

impl Default for Kafka {
    fn default() -> Self {
        Self { group: "publication-ingester".into(), client: BTreeMap::new() }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            window: Duration::from_secs(86_400),
            max_bytes: ByteSize::mib(1),
            rows: 1_000,
            directories: Vec::new(),
        }
    }
}

impl Settings for Sample {
    const PASS_THROUGH: &'static [&'static str] = &["kafka.client"];

    fn check(&self) -> Result<(), ConfigError> {
        if self.limits.rows == 0 {
            return Err(ConfigError::invalid("limits.rows", "must not be 0"));
        }
        Ok(())
    }
}

fn with_file(text: &str, environment: &[(&str, &str)]) -> Result<Sample, ConfigError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sample.toml");
    std::fs::write(&path, text).unwrap();
    let environment = environment.iter().map(|(name, value)| ((*name).into(), (*value).into()));
    load("SAMPLE_", Some(&path), Path::new("unused.toml"), environment)
}

fn from_environment(environment: &[(&str, &str)]) -> Result<Sample, ConfigError> {
    with_file("", environment)
}

fn message(result: Result<Sample, ConfigError>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn without_anything_the_defaults_stand() {
    let settings: Sample =
        load("SAMPLE_", None, Path::new("/no/such/file.toml"), std::iter::empty()).unwrap();
    assert_eq!(settings, Sample::default());
    assert_eq!(from_environment(&[("OTHER_X", "1"), ("SAMPL", "x")]), Ok(Sample::default()));
}

#[test]
fn the_environment_wins_over_the_file_and_the_file_over_the_defaults() {
    let file = "[kafka]\ngroup = 'a'\n[limits]\nrows = 5\nwindow = '90m'\n";
    let settings = with_file(file, &[("SAMPLE_KAFKA__GROUP", "b")]).unwrap();
    assert_eq!(settings.kafka.group, "b");
    assert_eq!(settings.limits.rows, 5);
    assert_eq!(settings.limits.window, Duration::from_secs(5_400));
    assert_eq!(settings.limits.max_bytes, ByteSize::mib(1));
}

#[test]
fn a_string_key_takes_a_toml_string_and_any_other_text_as_it_stands() {
    for (text, value) in [
        ("42", "42"),
        ("true", "true"),
        ("'quoted'", "quoted"),
        ("\"ops\"", "ops"),
        ("\"half", "\"half"),
        ("'a' 'b'", "'a' 'b'"),
        ("[1]", "[1]"),
        ("2019-07-25", "2019-07-25"),
        ("", ""),
    ] {
        let settings = from_environment(&[
            ("SAMPLE_KAFKA__GROUP", text),
            ("SAMPLE_KAFKA__CLIENT__SASL_PASSWORD", text),
        ])
        .unwrap();
        assert_eq!(settings.kafka.group, value);
        assert_eq!(settings.kafka.client["sasl.password"], value);
    }
}

#[test]
fn a_key_without_a_default_takes_strings_that_look_like_toml() {
    for text in ["42", "/run/secret", "'quoted", "1.5"] {
        let settings = from_environment(&[("SAMPLE_STORE__URL_FILE", text)]).unwrap();
        assert_eq!(settings.store.url_file.as_deref(), Some(text));
    }
}

#[test]
fn other_values_are_toml() {
    let settings = from_environment(&[
        ("SAMPLE_LIMITS__ROWS", "1_500"),
        ("SAMPLE_LIMITS__MAX_BYTES", "2 MiB"),
        ("SAMPLE_LIMITS__WINDOW", "2h 30m"),
        ("SAMPLE_LIMITS__DIRECTORIES", "['a', 'b']"),
    ])
    .unwrap();
    assert_eq!(settings.limits.rows, 1_500);
    assert_eq!(settings.limits.max_bytes, ByteSize::mib(2));
    assert_eq!(settings.limits.window, Duration::from_secs(9_000));
    assert_eq!(settings.limits.directories, ["a", "b"]);
}

#[test]
fn a_variable_replaces_no_table() {
    for (variable, value, instead) in [
        ("SAMPLE_LIMITS", "{ rows = 'hunter2' }", "SAMPLE_LIMITS__DIRECTORIES"),
        ("SAMPLE_KAFKA__CLIENT", "{}", "SAMPLE_KAFKA__CLIENT__KEY"),
    ] {
        let error = message(from_environment(&[(variable, value)]));
        assert!(error.starts_with("wrong value ") && error.ends_with(instead), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
}

#[test]
fn one_line_feed_at_the_end_of_a_variable_is_left_out() {
    let group = |text| from_environment(&[("SAMPLE_KAFKA__GROUP", text)]).unwrap().kafka.group;
    assert_eq!(group("a\n"), "a");
    assert_eq!(group("a\n\n"), "a\n");
    let client = from_environment(&[("SAMPLE_KAFKA__CLIENT__SASL_PASSWORD", "a\n")]).unwrap();
    assert_eq!(client.kafka.client["sasl.password"], "a");
}

#[test]
fn a_pass_through_table_is_flattened_and_holds_strings() {
    let file = "[kafka.client]\n'a.b' = 'x'\nsocket.keepalive.enable = true\n[kafka.client.security]\nprotocol = 'ssl'\n";
    let settings = with_file(
        file,
        &[
            ("SAMPLE_KAFKA__CLIENT__SECURITY_PROTOCOL", "sasl_ssl"),
            ("SAMPLE_KAFKA__CLIENT__N", "5"),
        ],
    )
    .unwrap();
    let expected = [
        ("a.b", "x"),
        ("n", "5"),
        ("security.protocol", "sasl_ssl"),
        ("socket.keepalive.enable", "true"),
    ];
    let expected: BTreeMap<String, String> =
        expected.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
    assert_eq!(settings.kafka.client, expected);
    let error = message(with_file("[kafka.client]\na.b = [1]\n", &[]));
    assert!(error.contains("`kafka.client.a.b`") && error.contains("expected a string"), "{error}");
    let error = message(with_file("[kafka.client]\n'a.b' = 'hunter2'\na.b = 'x'\n", &[]));
    assert!(error.contains("`kafka.client.a.b`") && error.contains("twice"), "{error}");
    assert!(!error.contains("hunter2"), "{error}");
}

#[test]
fn an_unknown_key_is_named_with_its_whole_path() {
    for (text, key) in [
        ("other = 1", "`other`"),
        ("[kafka]\nbrokres = 'x'", "`kafka.brokres`"),
        ("[kafka.groups]\nx = 1", "`kafka.groups`"),
        ("[limits]\n\"rows \" = 1", "`limits.rows `"),
    ] {
        let error = message(with_file(text, &[]));
        assert!(error.starts_with("unknown key ") && error.contains(key), "{error}");
        assert!(error.contains("sample.toml"), "{error}");
    }
    for (variable, key) in [
        ("SAMPLE_KAFKA__BROKRES", "`kafka.brokres`"),
        ("SAMPLE_KAFKA_GROUP", "`kafka_group`"),
        ("SAMPLE_KAFKA__GROUP__X", "`kafka.group.x`"),
        ("SAMPLE_LIMITS__ROWS__X", "`limits.rows.x`"),
        ("SAMPLE_SERVICE_HOST", "`service_host`"),
        ("SAMPLE_kafka__group", "`kafka.group`"),
        ("SAMPLE_", "``"),
    ] {
        let error = message(from_environment(&[(variable, "1")]));
        assert!(error.starts_with("unknown key ") && error.contains(key), "{error}");
        assert!(error.contains(variable), "{error}");
    }
}

#[test]
fn a_variable_that_would_not_be_read_is_named() {
    for variable in ["sample_kafka__group", "Sample_Kafka__Group", "MY_SAMPLE_KAFKA__GROUP"] {
        let error = message(from_environment(&[(variable, "secret")]));
        assert_eq!(
            error,
            format!(
                "the environment variable {variable} is not read: its name must be SAMPLE_KAFKA__GROUP"
            )
        );
    }
    // Variables of another program, or of a Kubernetes service of this name.
    for foreign in ["RESAMPLE_KAFKA__GROUP", "MY_SAMPLE_OTHER__GROUP", "MY_SAMPLE_SERVICE_HOST"] {
        assert_eq!(from_environment(&[(foreign, "1")]), Ok(Sample::default()), "{foreign}");
    }
}

#[test]
fn a_value_that_is_no_text_is_named_and_never_quoted() {
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt;
    let loaded = |name: &str| {
        let value = OsString::from_vec(b"hunter2\xff".to_vec());
        let environment = [(OsString::from(name), value)];
        load::<Sample>("SAMPLE_", None, Path::new("unused.toml"), environment.into_iter())
    };
    let variable = "SAMPLE_KAFKA__CLIENT__SASL_PASSWORD";
    assert_eq!(
        message(loaded(variable)),
        format!("the environment variable {variable} is not UTF-8")
    );
    assert_eq!(loaded("OTHER_PASSWORD"), Ok(Sample::default()), "of another program");
}

#[test]
fn what_a_key_takes_is_said_in_words() {
    for (text, words) in [
        ("[limits]\nrows = '5'", "a whole number"),
        ("[limits]\nwindow = '9'", "\"90s\""),
        ("[limits]\nmax_bytes = 'much'", "\"48MiB\""),
        ("[limits]\ndirectories = 'a'", "a list"),
    ] {
        let error = message(with_file(text, &[]));
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn an_ill_typed_value_is_named_and_never_quoted() {
    for (text, key) in [
        ("[limits]\nrows = 'hunter2'", "`limits.rows`"),
        ("[limits]\nrows = -1", "`limits.rows`"),
        ("[limits]\nwindow = 'hunter2'", "`limits.window`"),
        ("[limits]\nwindow = 5", "`limits.window`"),
        ("[limits]\nwindow = '584542046090years'", "`limits.window`"),
        ("[limits]\nmax_bytes = 'hunter2'", "`limits.max_bytes`"),
        ("[limits]\ndirectories = ['a', 1]", "`limits.directories[1]`"),
        ("kafka = 'hunter2'", "`kafka`"),
        ("[store]\nurl = 7", "`store.url`"),
    ] {
        let error = message(with_file(text, &[]));
        assert!(error.starts_with("wrong value ") && error.contains(key), "{error}");
        assert!(error.contains("expected") && !error.contains("hunter2"), "{error}");
    }
    for (variable, value, key) in [
        ("SAMPLE_LIMITS__ROWS", "hunter2, expected", "`limits.rows`"),
        ("SAMPLE_LIMITS__ROWS", "1\nother = 2", "`limits.rows`"),
        ("SAMPLE_LIMITS__WINDOW", "hunter2", "`limits.window`"),
    ] {
        let error = message(from_environment(&[(variable, value)]));
        assert!(error.starts_with("wrong value ") && error.contains(key), "{error}");
        assert!(error.contains(variable) && !error.contains("hunter2"), "{error}");
    }
}

#[test]
fn a_check_names_its_key() {
    assert_eq!(
        message(from_environment(&[("SAMPLE_LIMITS__ROWS", "0")])),
        "wrong value for `limits.rows`: must not be 0"
    );
}

#[test]
fn a_file_that_was_asked_for_must_be_there_and_be_toml() {
    let missing = load::<Sample>(
        "SAMPLE_",
        Some(Path::new("/no/such/file.toml")),
        Path::new("unused.toml"),
        std::iter::empty(),
    );
    assert!(message(missing).starts_with("cannot read the configuration file /no/such/file.toml"));
    let error = message(with_file("[store]\nurl = 'hunter2\n", &[]));
    assert!(error.contains("line 2") && !error.contains("hunter2"), "{error}");
}

#[test]
fn a_file_of_all_defaults_has_no_differences() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sample.toml");
    let whole = "kafka = { group = 'publication-ingester', client = {} }\nstore.url = ''\n\
        [limits]\nwindow = '24h'\nmax_bytes = '1MiB'\nrows = 1000\ndirectories = []\n";
    std::fs::write(&path, whole).unwrap();
    assert_eq!(differences::<Sample>(&path), Ok(vec![]));
    std::fs::write(&path, "[limits]\nrows = 1\nwindow = '24h'\nmax_bytes = '1MiB'\n").unwrap();
    assert_eq!(
        differences::<Sample>(&path).unwrap(),
        [
            "`kafka.client` is not in the file",
            "`kafka.group` is not in the file",
            "`limits.directories` is not in the file",
            "`store.url` is not in the file",
            "`limits.rows` is not the default in the file",
        ]
    );
}
