//! Loading from directories: what is read, refused, replaced, and what happens when files change or vanish.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use enrich::{Change, Finding, Library, Refusal, Source, SourcePaths, TorRules, address, format};
use model::Timestamp;
use tempfile::TempDir;

const REAL_EXIT_LIST: &[u8] = include_bytes!("data/exit-lists/2016-09-20-13-02-00");
const REAL_DATABASE: &[u8] = include_bytes!("data/anonymous-ip/GeoIP2-Anonymous-IP-Test.mmdb");

fn time(text: &str) -> Timestamp {
    Timestamp::parse(text).unwrap()
}

fn now() -> Timestamp {
    time("2030-01-01T00:00:00Z")
}

struct Home {
    directory: TempDir,
    /// Rises with every write, so that no two versions of a file have one modification time.
    clock: u64,
}

impl Home {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        for name in ["exit-lists", "snapshots", "databases"] {
            fs::create_dir(directory.path().join(name)).unwrap();
        }
        Self { directory, clock: 1_600_000_000 }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&mut self, name: &str, bytes: &[u8]) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mut file = File::create(path).unwrap();
        file.write_all(bytes).unwrap();
        self.clock += 1;
        file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(self.clock)).unwrap();
    }

    fn library(&self) -> Library {
        let paths = SourcePaths {
            exit_lists: Some(self.path("exit-lists")),
            snapshots: Some(self.path("snapshots")),
            anonymous_ip: Some(self.path("databases")),
        };
        Library::new(paths, TorRules::default())
    }

    /// What a fresh library says, which is what every other one has to say after a refresh.
    fn loaded(&self) -> (Library, Change) {
        let mut library = self.library();
        let change = library.refresh(now()).unwrap();
        (library, change)
    }
}

fn reasons(change: &Change, home: &Home) -> Vec<(String, Refusal)> {
    let name =
        |path: &Path| path.strip_prefix(home.directory.path()).unwrap().display().to_string();
    change.refused.iter().map(|refused| (name(&refused.path), refused.reason)).collect()
}

/// Addresses 9.9.`block`.0 and on.
fn addresses(block: u8, count: u8) -> Vec<u8> {
    (0..count).map(|number| format!("9.9.{block}.{number}\n")).collect::<String>().into_bytes()
}

fn find(library: &Library, text: &str, at: &str) -> Finding {
    library.history().find(address::canonical(text).unwrap(), time(at))
}

const SEEN: Finding = Finding::Exit(Source::Snapshot);

#[test]
fn files_are_found_in_nested_folders_and_named_by_their_time() {
    let mut home = Home::new();
    home.write("snapshots/2022-02-28-00-30-06", &addresses(0, 60));
    home.write("snapshots/2022/03/01/2022-03-01-00-30-06.txt", &addresses(1, 60));
    // By its modification time, 2020-09-13T12:26:43Z.
    home.write("snapshots/latest", &addresses(2, 60));
    home.write("exit-lists/2016/09/20/whatever", REAL_EXIT_LIST);
    home.write("databases/2026-02/a.mmdb", REAL_DATABASE);
    home.write("databases/2026-02/LICENSE.txt", b"not a database, and not looked at");
    for aside in [
        "snapshots/.2022-03-02-00-30-06",
        "snapshots/x.tmp",
        "snapshots/x.part",
        "snapshots/.git/HEAD",
    ] {
        home.write(aside, b"<html>");
    }
    let (library, change) = home.loaded();
    assert_eq!(change.refused, []);
    assert!(change.changed);
    // The oldest scan in the exit list.
    assert_eq!(change.oldest_new_evidence, Some(time("2016-09-19T14:03:12Z")));
    assert_eq!(
        library.history().evidence_until(),
        Some(Timestamp::from_micros(1_770_245_369_000_000))
    );
    assert_eq!(Source::ALL.map(|source| library.files(source)), [1, 3, 1]);
    assert_eq!(Source::ALL.map(|source| library.history().valid(source)), [1, 3, 1]);
    assert_eq!(find(&library, "9.9.0.1", "2022-02-28T00:30:06Z"), SEEN);
    assert_eq!(find(&library, "9.9.1.1", "2022-03-01T00:30:06Z"), SEEN);
    assert_eq!(find(&library, "9.9.2.1", "2020-09-13T12:26:43Z"), SEEN);
    assert_eq!(find(&library, "9.9.2.1", "2020-09-13T12:26:42.999999Z"), Finding::ListedAfter);
}

#[test]
fn what_is_no_list_is_named_once_and_does_no_harm() {
    let mut home = Home::new();
    home.write("snapshots/2022-02-28-00-30-06", &addresses(0, 60));
    home.write("snapshots/2022-02-28-01-30-06", b"");
    home.write("snapshots/2022-02-28-02-30-06", b"<html>503</html>");
    home.write("snapshots/2022-02-28-03-30-06", b"You can only fetch the data every 30 minutes\n");
    home.write("snapshots/2022-02-28-04-30-06", &addresses(0, 49));
    home.write("snapshots/2022-02-28-05-30-06", &addresses(0, 60)[..200]);
    home.write("exit-lists/2016-09-20-13-02-00", &REAL_EXIT_LIST[..100_000]);
    home.write("databases/a.mmdb", &REAL_DATABASE[..4_000]);
    let (mut library, change) = home.loaded();
    assert_eq!(
        reasons(&change, &home),
        [
            ("exit-lists/2016-09-20-13-02-00".into(), Refusal::Truncated),
            ("snapshots/2022-02-28-01-30-06".into(), Refusal::Empty),
            ("snapshots/2022-02-28-02-30-06".into(), Refusal::Html),
            ("snapshots/2022-02-28-03-30-06".into(), Refusal::BadLine),
            ("snapshots/2022-02-28-04-30-06".into(), Refusal::TooFew),
            ("snapshots/2022-02-28-05-30-06".into(), Refusal::Truncated),
            ("databases/a.mmdb".into(), Refusal::BadDatabase),
        ]
    );
    assert_eq!(library.refused(), change.refused);
    assert_eq!(library.history().evidence_until(), Some(time("2022-02-28T00:30:06Z")));
    let again = library.refresh(now()).unwrap();
    assert_eq!(again, Change::default());
    assert_eq!(library.refused(), change.refused);
}

#[test]
fn a_refresh_ends_where_a_fresh_load_does() {
    let mut home = Home::new();
    home.write("snapshots/2022-02-28-02-00-00", &addresses(0, 60));
    let (mut library, _) = home.loaded();
    let before = library.history().clone();
    // An older list, more than twice as long, comes late.
    home.write("snapshots/2022-02-28-01-00-00", &addresses(1, 130));
    home.write("snapshots/2022-02-28-03-00-00", &addresses(2, 90));
    let change = library.refresh(now()).unwrap();
    assert_eq!(
        reasons(&change, &home),
        [("snapshots/2022-02-28-02-00-00".into(), Refusal::Shrunk)]
    );
    assert_eq!(change.oldest_new_evidence, Some(time("2022-02-28T01:00:00Z")));
    let (fresh, _) = home.loaded();
    assert_eq!(fresh.refused(), library.refused());
    for library in [&library, &fresh] {
        assert_eq!(find(library, "9.9.0.1", "2022-02-28T03:00:00Z"), Finding::NotListed);
        assert_eq!(find(library, "9.9.2.1", "2022-02-28T03:00:00Z"), SEEN);
    }
    // A clone taken before is not touched.
    let exit = address::canonical("9.9.0.1").unwrap();
    assert_eq!(before.find(exit, time("2022-02-28T03:00:00Z")), SEEN);
    fs::remove_file(home.path("snapshots/2022-02-28-01-00-00")).unwrap();
    let change = library.refresh(now()).unwrap();
    assert_eq!(
        (change.changed, change.oldest_new_evidence),
        (true, Some(time("2022-02-28T02:00:00Z")))
    );
    assert_eq!(find(&library, "9.9.0.1", "2022-02-28T03:00:00Z"), SEEN);
    assert_eq!(find(&library, "9.9.1.1", "2022-02-28T03:00:00Z"), Finding::NotListed);
    assert_eq!(library.refused(), []);
}

#[test]
fn a_corrupt_replacement_never_displaces_a_good_list() {
    let mut home = Home::new();
    let name = "snapshots/2022-02-28-02-00-00";
    home.write(name, &addresses(0, 200));
    let (mut library, _) = home.loaded();
    let bad: [(&[u8], Refusal); 5] = [
        (b"", Refusal::Empty),
        (b"<html>", Refusal::Html),
        (&addresses(0, 20), Refusal::TooFew),
        (b"9.9.0.1\n9.9.0.2\n9.9", Refusal::Truncated),
        (b"\xff", Refusal::NotText),
    ];
    for (bytes, reason) in bad {
        home.write(name, bytes);
        let change = library.refresh(now()).unwrap();
        assert_eq!((change.changed, reasons(&change, &home)), (false, vec![(name.into(), reason)]));
        assert_eq!(find(&library, "9.9.0.199", "2022-02-28T02:00:00Z"), SEEN);
    }
    home.write(name, &addresses(1, 200));
    let change = library.refresh(now()).unwrap();
    assert_eq!((change.changed, change.refused), (true, vec![]));
    assert_eq!(library.refused(), []);
    assert_eq!(find(&library, "9.9.0.199", "2022-02-28T02:00:00Z"), Finding::NotListed);
    assert_eq!(find(&library, "9.9.1.199", "2022-02-28T02:00:00Z"), SEEN);
    // Gone is gone, also what stood in for it.
    home.write(name, b"");
    library.refresh(now()).unwrap();
    fs::remove_file(home.path(name)).unwrap();
    let change = library.refresh(now()).unwrap();
    assert!(change.changed);
    assert_eq!(library.history().evidence_until(), None);
}

#[test]
fn a_corrupt_replacement_never_displaces_a_good_database() {
    let mut home = Home::new();
    home.write("databases/a.mmdb", REAL_DATABASE);
    let (mut library, _) = home.loaded();
    let database = Finding::Exit(Source::AnonymousIp);
    home.write("databases/a.mmdb", &REAL_DATABASE[..4_800]);
    let change = library.refresh(now()).unwrap();
    assert_eq!(
        (change.changed, reasons(&change, &home)),
        (false, vec![("databases/a.mmdb".into(), Refusal::BadDatabase)])
    );
    assert_eq!(find(&library, "81.2.69.160", "2026-02-05T00:00:00Z"), database);
    // The same database, built a day later.
    let mut rebuilt = REAL_DATABASE.to_vec();
    let key = b"build_epoch";
    let value = rebuilt.windows(key.len()).rposition(|window| window == key).unwrap() + key.len();
    let epoch = rebuilt
        .windows(4)
        .skip(value)
        .position(|window| window == 1_770_245_369_u32.to_be_bytes())
        .unwrap()
        + value;
    rebuilt[epoch..epoch + 4].copy_from_slice(&(1_770_245_369_u32 + 86_400).to_be_bytes());
    home.write("databases/a.mmdb", &rebuilt);
    let change = library.refresh(now()).unwrap();
    assert_eq!(
        change.oldest_new_evidence,
        Some(Timestamp::from_micros((1_770_245_369 + 86_400) * 1_000_000))
    );
    assert_eq!(library.history().valid(Source::AnonymousIp), 1);
    assert_eq!(find(&library, "81.2.69.160", "2026-02-05T00:00:00Z"), Finding::NoCoverage);
    // In a folder each build counts at its time, and an address between two builds is by the earlier.
    home.write("databases/b.mmdb", REAL_DATABASE);
    library.refresh(now()).unwrap();
    assert_eq!(library.history().valid(Source::AnonymousIp), 2);
    assert_eq!(find(&library, "81.2.69.160", "2026-02-05T00:00:00Z"), database);
    assert_eq!(find(&library, "81.2.69.160", "2026-02-07T12:00:00Z"), database);
    // Ahead of the clock there is no evidence in it, and the good one stays.
    let early = Timestamp::from_micros(1_770_245_369_000_000);
    let mut library = home.library();
    library.refresh(early).unwrap();
    assert_eq!(library.history().valid(Source::AnonymousIp), 1);
    assert_eq!(library.refused()[0].reason, Refusal::AheadOfClock);
}

#[test]
fn one_database_may_be_named_itself() {
    let mut home = Home::new();
    home.write("databases/anything", REAL_DATABASE);
    let paths = SourcePaths::only(Source::AnonymousIp, home.path("databases/anything"));
    let mut library = Library::new(paths, TorRules::default());
    library.refresh(now()).unwrap();
    assert_eq!(library.history().valid(Source::AnonymousIp), 1);
}

#[test]
fn a_place_that_is_missing_is_an_error_with_its_key_and_changes_nothing() {
    let mut home = Home::new();
    home.write("snapshots/2022-02-28-02-00-00", &addresses(0, 60));
    let (mut library, _) = home.loaded();
    fs::remove_dir(home.path("databases")).unwrap();
    fs::remove_file(home.path("snapshots/2022-02-28-02-00-00")).unwrap();
    let error = library.refresh(now()).unwrap_err();
    assert_eq!(error.key, "tor.anonymous_ip");
    assert_eq!(error.path, home.path("databases"));
    assert!(error.to_string().starts_with("tor.anonymous_ip: cannot read "));
    assert_eq!(library.history().valid(Source::Snapshot), 1);
    // What can be read is refreshed, and the place that cannot keeps what it had.
    let databases = library.history().valid(Source::AnonymousIp);
    home.write("snapshots/2022-02-28-03-00-00", &addresses(0, 60));
    home.write("snapshots/2022-02-28-04-00-00", &addresses(0, 60));
    let (_, unreadable) = library.refresh_readable(now());
    assert_eq!(unreadable.unwrap().key, "tor.anonymous_ip");
    assert_eq!(library.history().valid(Source::Snapshot), 2, "one was removed");
    assert_eq!(library.history().valid(Source::AnonymousIp), databases);
    let mut nothing = Library::new(SourcePaths::default(), TorRules::default());
    assert_eq!(nothing.refresh(now()).unwrap(), Change::default());
}

#[test]
fn links_are_followed_and_end() {
    let mut home = Home::new();
    home.write("elsewhere/2022-02-28-02-00-00", &addresses(0, 60));
    std::os::unix::fs::symlink(home.path("elsewhere"), home.path("snapshots/linked")).unwrap();
    std::os::unix::fs::symlink(home.path("snapshots"), home.path("elsewhere/back")).unwrap();
    std::os::unix::fs::symlink(home.path("nowhere"), home.path("snapshots/broken")).unwrap();
    let (library, change) = home.loaded();
    assert_eq!(change.refused, []);
    assert_eq!(library.files(Source::Snapshot), 1);
}

/// A link that leads to itself stands for every path that the operating system does not let the process read: the tests may
/// run as a user who may read everything.
#[test]
fn a_path_that_cannot_be_read_hides_nothing_else_and_keeps_what_it_held() {
    let mut home = Home::new();
    home.write("snapshots/2022-02-28-02-00-00", &addresses(0, 60));
    home.write("snapshots/below/2022-02-28-03-00-00", &addresses(1, 60));
    let (mut library, _) = home.loaded();
    let below = home.path("snapshots/below");
    fs::rename(&below, home.path("aside")).unwrap();
    std::os::unix::fs::symlink(&below, &below).unwrap();
    home.write("snapshots/2022-02-28-04-00-00", &addresses(2, 60));
    let change = library.refresh(now()).unwrap();
    let unreadable = [("snapshots/below".into(), Refusal::Unreadable)];
    assert_eq!(reasons(&change, &home), unreadable);
    assert_eq!(library.history().valid(Source::Snapshot), 3);
    assert_eq!(find(&library, "9.9.1.1", "2022-02-28T03:00:00Z"), SEEN);
    assert_eq!(library.refresh(now()).unwrap(), Change::default(), "it is named once");
    assert_eq!(reasons(&home.loaded().1, &home), unreadable);

    fs::remove_file(&below).unwrap();
    fs::rename(home.path("aside"), &below).unwrap();
    assert_eq!(library.refresh(now()).unwrap(), Change::default());
    assert_eq!((library.refused(), library.files(Source::Snapshot)), (vec![], 3));
    fs::remove_dir_all(&below).unwrap();
    assert!(library.refresh(now()).unwrap().changed);
    assert_eq!(library.history().valid(Source::Snapshot), 2, "what is gone is gone");
}

/// An archive as CollecTor packs a month.
fn archive(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, bytes) in members {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mtime(1_500_000_000);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, *bytes).unwrap();
    }
    let options = lzma_rust2::XzOptions::with_preset(1);
    let mut xz = lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
    xz.write_all(&tar.into_inner().unwrap()).unwrap();
    xz.finish().unwrap()
}

fn without_head(seen: &str) -> Vec<u8> {
    let node = "ExitNode 0011BD2485AD45D984EC4159C88FC066E5E3300E\n";
    let exits = testkit::exit_list_of(60);
    let lines = exits.lines().map(|exit| format!("{node}ExitAddress {exit} {seen}\n"));
    lines.collect::<String>().into_bytes()
}

#[test]
fn month_archives_are_read_as_downloaded() {
    let mut home = Home::new();
    let name = "exit-lists/exit-list-2016-09.tar.xz";
    let packed = archive(&[
        ("exit-list-2016-09/20/2016-09-20-13-02-00", REAL_EXIT_LIST),
        ("exit-list-2016-09/30/2016-09-30-13-02-00", &without_head("2016-09-30 12:00:00")),
        ("exit-list-2016-09/30/unnamed", &without_head("2017-07-14 00:00:00")),
        ("exit-list-2016-09/30/2016-09-30-14-02-00", b"<html>"),
    ]);
    home.write(name, &packed);
    let (mut library, change) = home.loaded();
    let member = format!("{name}/exit-list-2016-09/30/2016-09-30-14-02-00");
    assert_eq!(reasons(&change, &home), [(member, Refusal::Html)]);
    let exit = Finding::Exit(Source::ExitList);
    assert_eq!(find(&library, "162.247.72.201", "2016-09-20T13:02:00Z"), exit);
    assert_eq!(find(&library, "185.220.100.1", "2016-09-30T13:02:00Z"), exit);
    // 1,500,000,000 is 2017-07-14T02:40:00Z, and its newest scan is earlier.
    assert_eq!(library.history().newest(Source::ExitList), Some(time("2017-07-14T00:00:00Z")));
    let listed = library.history().explain("185.220.100.1", time("2016-09-30T13:02:00Z")).evidence;
    assert!(
        listed[0]
            .path
            .ends_with("exit-list-2016-09.tar.xz/exit-list-2016-09/30/2016-09-30-13-02-00")
    );

    // Cut anywhere, it is refused whole, and what it held stays.
    for end in [0, 10, packed.len() / 2, packed.len() - 30, packed.len() - 1] {
        home.write(name, &packed[..end]);
        let change = library.refresh(now()).unwrap();
        assert_eq!(
            (change.changed, reasons(&change, &home)),
            (false, vec![(name.into(), Refusal::BadArchive)]),
            "cut at {end}"
        );
        assert_eq!(library.history().valid(Source::ExitList), 3);
        let (fresh, _) = home.loaded();
        assert_eq!(fresh.history().valid(Source::ExitList), 0);
    }
    // Whole again, with a member less.
    home.write(name, &archive(&[("exit-list-2016-09/20/2016-09-20-13-02-00", REAL_EXIT_LIST)]));
    let change = library.refresh(now()).unwrap();
    assert_eq!((change.changed, library.refused()), (true, vec![]));
    assert_eq!(library.history().valid(Source::ExitList), 1);
    assert_eq!(find(&library, "185.220.100.1", "2016-09-30T13:02:00Z"), Finding::NoCoverage);
}

#[test]
fn a_member_that_is_refused_later_keeps_what_it_held() {
    let mut home = Home::new();
    let name = "exit-lists/exit-list-2016-09.tar.xz";
    let other = without_head("2016-09-30 12:00:00");
    let member = "2016-09-20-13-02-00";
    home.write(name, &archive(&[(member, REAL_EXIT_LIST), ("2016-09-30-13-02-00", &other)]));
    let (mut library, _) = home.loaded();
    let cut = &REAL_EXIT_LIST[..100_000];
    home.write(name, &archive(&[(member, cut), ("2016-09-30-13-02-00", &other)]));
    let change = library.refresh(now()).unwrap();
    assert_eq!(reasons(&change, &home), [(format!("{name}/{member}"), Refusal::Truncated)]);
    let exit = Finding::Exit(Source::ExitList);
    assert_eq!(find(&library, "162.247.72.201", "2016-09-20T13:02:00Z"), exit);
    // A member that is gone is gone.
    home.write(name, &archive(&[("2016-09-30-13-02-00", &other)]));
    library.refresh(now()).unwrap();
    assert_eq!(library.refused(), []);
    assert_eq!(library.history().valid(Source::ExitList), 1);
}

#[test]
fn an_archive_and_the_same_list_beside_it_say_the_same() {
    let mut home = Home::new();
    home.write(
        "exit-lists/exit-list-2016-09.tar.xz",
        &archive(&[("2016-09-20-13-02-00", REAL_EXIT_LIST)]),
    );
    home.write("exit-lists/2016-09-20-13-02-00", REAL_EXIT_LIST);
    let (library, change) = home.loaded();
    assert_eq!(change.refused, []);
    let list = format::exit_list(REAL_EXIT_LIST, now()).unwrap();
    for &(exit, seen) in list.sightings() {
        assert_eq!(library.history().find(exit, seen), Finding::Exit(Source::ExitList));
    }
}

#[test]
fn the_real_snapshots_load() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/snapshots");
    let mut library = Library::new(SourcePaths::only(Source::Snapshot, data), TorRules::default());
    let change = library.refresh(now()).unwrap();
    assert_eq!(change.refused, []);
    assert_eq!(find(&library, "101.3.123.74", "2022-03-01T00:30:05.999999Z"), SEEN);
    let history = library.history();
    let days = history.coverage();
    assert_eq!(days.len(), 4);
    assert_eq!(days[0].lists, [0, 3, 0]);
    assert_eq!(days[2].lists, [0, 1, 0]);
    for family in enrich::Family::ALL {
        // From 6 h after 02:30:06 to 3 h before 00:30:06 of the next day.
        let gaps = history.gaps(family);
        assert_eq!(gaps.len(), 1);
        assert_eq!(gaps[0].first, time("2022-02-28T08:30:06.000001Z"));
        assert_eq!(gaps[0].last, time("2022-02-28T21:30:05.999999Z"));
    }
}
