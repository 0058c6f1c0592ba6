//! The times that the history covers, and the gaps (`tor coverage`).

use model::Timestamp;

use super::ExitHistory;
use crate::{Family, Source};

const DAY_MICROS: i64 = 86_400 * 1_000_000;

/// A span from `first` to `last`, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    /// The first microsecond.
    pub first: Timestamp,
    /// The last microsecond.
    pub last: Timestamp,
}

impl Span {
    const fn micros(self) -> i64 {
        self.last.micros_since(self.first) + 1
    }

    fn and(self, other: Self) -> Option<Self> {
        let both = Self { first: self.first.max(other.first), last: self.last.min(other.last) };
        (both.first <= both.last).then_some(both)
    }
}

/// The coverage of one day, in UTC, for one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DayCoverage {
    /// The day's first microsecond.
    pub day: Timestamp,
    /// The address family.
    pub family: Family,
    /// By source in the order of [`Source::ALL`], the number of valid lists or databases of this day that cover the family.
    pub lists: [usize; 3],
    /// The covered part of the day in microseconds, 0 to 86,400,000,000.
    pub covered_micros: i64,
}

impl ExitHistory {
    /// The times at which an unlisted address of the family is `not_listed` rather than `no_coverage`: sorted spans
    /// that do not touch.
    #[must_use]
    pub fn covered(&self, family: Family) -> Vec<Span> {
        let rules = self.rules();
        let mut spans: Vec<Span> = Source::ALL
            .iter()
            .flat_map(|&source| {
                // A list in [T − c, T + s] covers T, so a list covers every T in [time − s, time + c].
                let c = if source == Source::AnonymousIp { rules.max_age } else { rules.coverage };
                self.covering(source, family).iter().map(move |time| Span {
                    first: time.before(rules.settle_after),
                    last: time.after(c),
                })
            })
            .collect();
        spans.sort_unstable();
        spans.dedup_by(|next, kept| {
            let touches = next.first.micros_since(kept.last) <= 1;
            if touches {
                kept.last = kept.last.max(next.last);
            }
            touches
        });
        spans
    }

    /// The uncovered spans between the first and the last covered time.
    #[must_use]
    pub fn gaps(&self, family: Family) -> Vec<Span> {
        let covered = self.covered(family);
        let between = covered.windows(2).map(|pair| Span {
            first: Timestamp::from_micros(pair[0].last.as_micros() + 1),
            last: Timestamp::from_micros(pair[1].first.as_micros() - 1),
        });
        between.collect()
    }

    /// The coverage of each day from the first to the last with a valid list, for both families, including days without
    /// lists.
    #[must_use]
    pub fn coverage(&self) -> Vec<DayCoverage> {
        let day_of = |time: Timestamp| time.as_micros().div_euclid(DAY_MICROS);
        let times = Family::ALL.into_iter().flat_map(|family| {
            Source::ALL.into_iter().flat_map(move |source| self.covering(source, family))
        });
        let (first, last) = times.fold((i64::MAX, i64::MIN), |(first, last), &time| {
            (first.min(day_of(time)), last.max(day_of(time)))
        });
        let spans = Family::ALL.map(|family| self.covered(family));
        let day = |number: i64, family: Family| {
            let span = Span {
                first: Timestamp::from_micros(number * DAY_MICROS),
                last: Timestamp::from_micros((number + 1) * DAY_MICROS - 1),
            };
            let lists = Source::ALL.map(|source| {
                let times = self.covering(source, family);
                times.partition_point(|&time| time <= span.last)
                    - times.partition_point(|&time| time < span.first)
            });
            // A day has at most as many spans as lists, so a binary search for the first span is enough.
            let spans = &spans[family as usize];
            let begin = spans.partition_point(|covered| covered.last < span.first);
            let covered = spans[begin..].iter().map_while(|covered| covered.and(span));
            DayCoverage {
                day: span.first,
                family,
                lists,
                covered_micros: covered.map(Span::micros).sum(),
            }
        };
        (first..=last).flat_map(|number| Family::ALL.map(|family| day(number, family))).collect()
    }

    /// The times of a source's valid lists or databases that cover a family, sorted.
    #[must_use]
    pub fn covering(&self, source: Source, family: Family) -> &[Timestamp] {
        match source {
            Source::ExitList => self.exit_lists.covering(family),
            Source::Snapshot => self.snapshots.covering(family),
            Source::AnonymousIp => self.databases.covering(family),
        }
    }
}
