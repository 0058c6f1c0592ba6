//! The results of several rounds, and the ratios between them, which are compared with floors.

/// The lowest medians with which `--check` passes: four fifths of the lowest ratio seen on two cores, or less where
/// other load changes the ratio most, so that a busy machine passes. Raise them when the ratios improve.
const FLOORS: &[(&str, f64)] = &[
    ("fresh_per_copy", 0.35),
    ("known_per_fresh", 0.93),
    ("sqlite_per_bare", 0.60),
    ("decode_per_serde_json", 0.60),
    ("records_growth", 0.60),
    ("instances_growth", 0.75),
    ("query_per_pgbench", 0.38),
    ("batch_per_pgbench", 0.50),
    ("history_cost", 0.18),
    ("fresh_per_connect", 3.40),
    ("fresh_per_copy_key_only", 0.35),
    ("query_per_mercurius", 3.00),
    ("batch_per_mercurius", 2.30),
];

/// The results of a measurement, one per round; never empty.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Figures(Vec<f64>);

impl Figures {
    /// The result of the first round.
    pub(crate) fn new(value: f64) -> Self {
        Self(vec![value])
    }

    /// Adds the result of another round.
    pub(crate) fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    /// The results in the order of the rounds.
    pub(crate) fn rounds(&self) -> &[f64] {
        &self.0
    }

    /// The median: the middle result, or the mean of the two middle ones.
    pub(crate) fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        if sorted.len().is_multiple_of(2) {
            f64::midpoint(sorted[middle - 1], sorted[middle])
        } else {
            sorted[middle]
        }
    }

    /// The least and the greatest result; `None` for a single round.
    pub(crate) fn spread(&self) -> Option<(f64, f64)> {
        let least = self.0.iter().copied().fold(f64::INFINITY, f64::min);
        let greatest = self.0.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        (self.0.len() > 1).then_some((least, greatest))
    }

    /// The ratio to another measurement, round by round, because a slow round slows both.
    fn over(&self, below: &Self) -> Option<Self> {
        let rounds = self.0.iter().zip(&below.0).map(|(above, below)| above / below);
        (self.0.len() == below.0.len()).then(|| Self(rounds.collect()))
    }
}

/// The ratio of two measurements.
#[derive(Debug)]
pub(crate) struct Ratio {
    pub(crate) key: &'static str,
    pub(crate) text: &'static str,
    /// `None` unless both were measured in every round.
    pub(crate) figures: Option<Figures>,
    pub(crate) floor: Option<f64>,
}

impl Ratio {
    /// A ratio, with the floor for its key.
    pub(crate) fn new(
        key: &'static str,
        text: &'static str,
        above: Option<&Figures>,
        below: Option<&Figures>,
    ) -> Self {
        let floor = FLOORS.iter().find(|(known, _)| *known == key).map(|(_, floor)| *floor);
        let figures = above.zip(below).and_then(|(above, below)| above.over(below));
        Self { key, text, figures, floor }
    }

    /// Whether the median is at least the floor, or there is no floor. False when the ratio was not measured.
    pub(crate) fn holds(&self) -> bool {
        let median = self.figures.as_ref().map(Figures::median);
        self.floor.is_none_or(|floor| median.is_some_and(|median| median >= floor))
    }
}

/// Formats a number: with separators for thousands, or with two decimals below 100.
pub(crate) fn number(value: f64) -> String {
    if value < 100.0 {
        return format!("{value:.2}");
    }
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Formats a spread for the table; empty for a single round.
pub(crate) fn spread(figures: &Figures) -> String {
    let text = |(least, greatest)| format!("{} to {}", number(least), number(greatest));
    figures.spread().map(text).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(rounds: &[f64]) -> Figures {
        Figures(rounds.to_vec())
    }

    #[test]
    fn the_median_is_the_middle_of_all_rounds() {
        assert!((figures(&[9.0, 1.0, 2.0]).median() - 2.0).abs() < 1e-9);
        assert!((figures(&[4.0, 1.0, 2.0, 100.0]).median() - 3.0).abs() < 1e-9);
        assert!((figures(&[7.0]).median() - 7.0).abs() < 1e-9);
    }

    #[test]
    fn a_single_round_has_no_spread() {
        assert_eq!(spread(&figures(&[7.0])), "");
        assert_eq!(spread(&figures(&[1_234.4, 7.0, 99.0])), "7.00 to 1,234");
    }

    #[test]
    fn a_ratio_is_taken_round_by_round() {
        // The second round was twice as slow for both, the third only for one.
        let (above, below) = (figures(&[10.0, 5.0, 5.0]), figures(&[5.0, 2.5, 5.0]));
        let ratio = Ratio::new("no floor", "", Some(&above), Some(&below));
        assert_eq!(ratio.figures, Some(figures(&[2.0, 2.0, 1.0])));
        assert!(ratio.holds());
    }

    #[test]
    fn a_ratio_below_its_floor_does_not_hold() {
        let (key, floor) = FLOORS[0];
        let of = |value| Ratio::new(key, "", Some(&figures(&[value])), Some(&figures(&[1.0])));
        assert!(of(floor).holds());
        assert!(!of(floor - 0.01).holds());
    }

    #[test]
    fn what_was_not_measured_does_not_hold_where_there_is_a_floor() {
        let one = figures(&[1.0]);
        assert!(!Ratio::new(FLOORS[0].0, "", Some(&one), None).holds());
        assert!(Ratio::new("no floor", "", Some(&one), None).holds());
        let two = figures(&[1.0, 1.0]);
        assert_eq!(Ratio::new("no floor", "", Some(&one), Some(&two)).figures, None);
    }

    #[test]
    fn every_floor_belongs_to_one_ratio() {
        let keys: std::collections::BTreeSet<_> = FLOORS.iter().map(|(key, _)| key).collect();
        assert_eq!(keys.len(), FLOORS.len());
    }

    #[test]
    fn numbers_are_grouped_by_thousands() {
        assert_eq!(number(0.125), "0.12");
        assert_eq!(number(99.994), "99.99");
        assert_eq!(number(100.4), "100");
        assert_eq!(number(1_234_567.0), "1,234,567");
    }
}
