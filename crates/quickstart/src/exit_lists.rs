//! Exit lists for the days of the replay. No public list covers them, so they are generated: the addresses belonged to
//! real exits in 2016 and 2022, but the times are invented.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use model::Timestamp;

use crate::random::Random;

const EXITS_2016: &str = include_str!("../data/exits-2016.txt");
const EXITS_2022: &str = include_str!("../data/exits-2022.txt");
/// 2018-01-01: lists have IPv6 exits from this day, so for IPv6 the flag is undetermined before.
const IPV6_SINCE: Timestamp = Timestamp::from_micros(1_514_764_800_000_000);
/// 2019-01-01: from this day the exits of 2022 are closer in time than those of 2016.
const EXITS_2022_SINCE: Timestamp = Timestamp::from_micros(1_546_300_800_000_000);

const HOUR: Duration = Duration::from_secs(3_600);
/// A list covers publications up to three hours before it and six hours after it (crates/enrich/README.md, Rules, 4).
const COVERS_BEFORE: Duration = HOUR.saturating_mul(3);
const COVERS_AFTER: Duration = HOUR.saturating_mul(6);
/// An entry makes publications up to a day after it true (rule 2).
const WINDOW: Duration = HOUR.saturating_mul(24);
/// Addresses per list: just over the 50 that a family needs to be covered.
const V4_ADDRESSES: usize = 64;
const V6_ADDRESSES: usize = 52;
/// How many addresses change from list to list. Most exits are in the next list too.
const STEP: usize = 2;
/// One day in so many has no list, so that undetermined flags occur too.
const DAYS_TO_A_GAP: i64 = 89;
const DAY_MICROS: i64 = 86_400_000_000;

/// The fewest lists that cover the publications. Their content follows from their index, so only files hold all of it.
#[derive(Debug)]
pub(crate) struct ExitLists {
    /// In whole seconds, ascending.
    times: Vec<Timestamp>,
    v4_2016: Vec<&'static str>,
    v4_2022: Vec<&'static str>,
    v6_2022: Vec<&'static str>,
    all: HashSet<IpAddr>,
}

impl ExitLists {
    /// Plans the lists for publications at these times, in ascending order.
    pub(crate) fn plan(acts: impl IntoIterator<Item = Timestamp>) -> Self {
        let (v4_2016, _) = pool(EXITS_2016);
        let (v4_2022, v6_2022) = pool(EXITS_2022);
        let every = [&v4_2016, &v4_2022, &v6_2022];
        let all = every.into_iter().flatten().filter_map(|text| text.parse().ok()).collect();
        Self { times: times(acts), v4_2016, v4_2022, v6_2022, all }
    }

    /// The number of lists.
    pub(crate) const fn len(&self) -> usize {
        self.times.len()
    }

    /// Whether the address is an exit in any list.
    pub(crate) fn is_exit(&self, address: IpAddr) -> bool {
        self.all.contains(&address)
    }

    /// The newest list that makes a publication at that time `true`.
    pub(crate) fn before(&self, at: Timestamp) -> Option<usize> {
        let next = self.times.partition_point(|&time| time <= at);
        next.checked_sub(1).filter(|&list| self.times[list] > at.before(WINDOW))
    }

    /// The first list after a publication that is still used for it.
    pub(crate) fn after(&self, at: Timestamp) -> Option<usize> {
        let next = self.times.partition_point(|&time| time <= at);
        self.times.get(next).is_some_and(|&time| time <= at.after(COVERS_BEFORE)).then_some(next)
    }

    /// The addresses of a list: a window that moves over the real addresses.
    pub(crate) fn addresses(&self, list: usize) -> Vec<&'static str> {
        let time = self.times[list];
        let v4 = if time < EXITS_2022_SINCE { &self.v4_2016 } else { &self.v4_2022 };
        let v6_addresses = if time < IPV6_SINCE { 0 } else { V6_ADDRESSES };
        let window = |pool: &[&'static str], len| -> Vec<&'static str> {
            (0..len).map(|place| pool[(list * STEP + place) % pool.len()]).collect()
        };
        [window(v4, V4_ADDRESSES), window(&self.v6_2022, v6_addresses)].concat()
    }

    /// Writes the lists into a folder, which is created if missing. Names and content are the same in every run.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub(crate) fn write(&self, folder: &Path) -> io::Result<()> {
        fs::create_dir_all(folder)?;
        let mut text = String::new();
        for (list, &time) in self.times.iter().enumerate() {
            text.clear();
            text.push_str("# made up by quickstart from the addresses of real exits\n");
            for address in self.addresses(list) {
                // Writing to a String cannot fail.
                let _ = writeln!(text, "{address}");
            }
            fs::write(folder.join(file_name(time)), &text)?;
        }
        Ok(())
    }
}

/// The fewest times that cover all acts except those in a gap: each list is as late as its first act allows.
fn times(acts: impl IntoIterator<Item = Timestamp>) -> Vec<Timestamp> {
    let mut times: Vec<Timestamp> = Vec::new();
    let mut latest = None;
    for act in acts {
        latest = Some(act);
        let covered = times.last().is_some_and(|time| act <= time.after(COVERS_AFTER));
        let is_gap = act.as_micros().div_euclid(DAY_MICROS) % DAYS_TO_A_GAP == 0;
        if !covered && !is_gap {
            times.push(whole_second(act).after(COVERS_BEFORE));
        }
    }
    // One more list settles the last publications, because no later list can affect them.
    times.extend(latest.map(|act| whole_second(act).after(COVERS_BEFORE + Duration::from_secs(1))));
    times.dedup();
    times
}

/// File names have whole seconds.
const fn whole_second(time: Timestamp) -> Timestamp {
    let micros = time.as_micros();
    Timestamp::from_micros(micros - micros.rem_euclid(1_000_000))
}

/// The file name `YYYY-MM-DD-HH-MM-SS`, from which the time of a list is read.
fn file_name(time: Timestamp) -> String {
    time.to_rfc3339_millis()[..19].replace(['T', ':'], "-")
}

/// The IPv4 and IPv6 addresses of a file, shuffled, because neighbours in the file are neighbours in the network.
fn pool(file: &'static str) -> (Vec<&'static str>, Vec<&'static str>) {
    let lines = file.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    let (mut v6, mut v4): (Vec<_>, Vec<_>) = lines.partition(|address| address.contains(':'));
    let mut random = Random::new(2_016);
    random.shuffle(&mut v4);
    random.shuffle(&mut v6);
    (v4, v6)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::releases;
    use enrich::{Family, Library, Source, SourcePaths, TorRules};

    fn lists() -> (Vec<Timestamp>, ExitLists) {
        let acts: Vec<Timestamp> = releases::load().unwrap().iter().map(|r| r.created).collect();
        let lists = ExitLists::plan(acts.iter().copied());
        (acts, lists)
    }

    #[test]
    fn every_list_is_valid_and_nearly_every_publication_is_covered() {
        let (acts, lists) = lists();
        let folder = tempfile::tempdir().unwrap();
        lists.write(folder.path()).unwrap();
        let paths = SourcePaths::only(Source::Snapshot, folder.path().to_owned());
        let mut library = Library::new(paths, TorRules::default());
        let change = library.refresh(acts.last().unwrap().after(WINDOW)).unwrap();
        assert_eq!(change.refused, []);
        let history = library.history();
        assert_eq!(history.valid(Source::Snapshot), lists.len());
        assert!(history.newest(Source::Snapshot) > acts.last().map(|act| act.after(COVERS_BEFORE)));
        let spans = history.covered(Family::V4);
        let is_covered =
            |act: &&Timestamp| spans.iter().any(|span| (span.first..=span.last).contains(*act));
        let uncovered = acts.len() - acts.iter().filter(is_covered).count();
        assert!((1..acts.len() / 50).contains(&uncovered), "{uncovered}");
        assert!(!history.covered(Family::V6).is_empty());
    }

    #[test]
    fn lists_are_small_and_distinct() {
        let (_, lists) = lists();
        for list in 0..lists.len() {
            let addresses = lists.addresses(list);
            let distinct: HashSet<_> = addresses.iter().collect();
            assert_eq!(distinct.len(), addresses.len());
            assert!((60..=120).contains(&addresses.len()));
        }
    }

    #[test]
    fn before_and_after_keep_the_bounds_of_the_rules() {
        let act = Timestamp::from_micros(1_500_000_000_700_000);
        let lists = ExitLists::plan([act]);
        let time = lists.times[0];
        assert_eq!(time, Timestamp::from_micros(1_500_010_800_000_000));
        assert_eq!((lists.before(act), lists.after(act)), (None, Some(0)));
        assert_eq!((lists.before(time), lists.after(time)), (Some(0), Some(1)));
        let day_after = lists.times[1].after(WINDOW);
        assert_eq!((lists.before(day_after), lists.after(day_after)), (None, None));
        assert_eq!(lists.before(Timestamp::from_micros(day_after.as_micros() - 1)), Some(1));
    }
}
