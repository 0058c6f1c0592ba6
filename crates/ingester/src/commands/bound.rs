//! The bounds of a range, as given on the command line.

use std::str::FromStr;

use model::Timestamp;

use crate::evidence;
use crate::kafka::Bound;

/// `earliest`, `latest`, an offset, a time (RFC 3339), or a span back from now (`2h`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BoundArgument {
    /// The text of the argument.
    pub(crate) text: String,
    pub(crate) bound: Bound,
}

impl BoundArgument {
    pub(crate) fn new(text: &str, now: Timestamp) -> Result<Self, String> {
        let millis = |time: Timestamp| Bound::Time(time.as_micros().div_euclid(1_000));
        let bound = match text {
            "earliest" => Bound::Earliest,
            "latest" => Bound::Latest,
            _ => {
                if let Ok(offset) = text.parse::<i64>() {
                    if offset < 0 {
                        return Err("an offset is not negative".to_owned());
                    }
                    Bound::Offset(offset)
                } else if let Ok(time) = Timestamp::parse(text) {
                    millis(time)
                } else if let Ok(span) = humantime::parse_duration(text) {
                    millis(now.before(span))
                } else {
                    return Err(
                        "neither a time such as 2026-03-05T10:00:00Z, nor a span back from now such as 2h, nor an \
                         offset, nor earliest, nor latest"
                            .to_owned(),
                    );
                }
            }
        };
        Ok(Self { text: text.to_owned(), bound })
    }

    /// Describes the bound in words; a span back from now is shown as the resulting time.
    pub(crate) fn describe(&self) -> String {
        match self.bound {
            Bound::Earliest | Bound::Latest => self.text.clone(),
            Bound::Offset(offset) => format!("offset {offset}"),
            Bound::Time(millis) => Timestamp::from_millis(millis).to_rfc3339_millis(),
        }
    }

    /// The time, if the bound is a time.
    pub(crate) const fn time(&self) -> Option<Timestamp> {
        match self.bound {
            Bound::Time(millis) => Some(Timestamp::from_millis(millis)),
            _ => None,
        }
    }
}

/// A range that no topic can have, which is a misuse of the command line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct InvalidRange(pub(crate) String);

impl BoundArgument {
    /// Checks that a range from this bound to `until` can contain a record.
    ///
    /// # Errors
    /// [`InvalidRange`] if it begins after its end, or with a time in the future.
    pub(crate) fn check_order(&self, until: &Self) -> Result<(), InvalidRange> {
        let is_backwards = match (self.bound, until.bound) {
            (Bound::Offset(from), Bound::Offset(until)) => from > until,
            (Bound::Time(from), Bound::Time(until)) => from > until,
            (Bound::Latest, Bound::Earliest) => true,
            _ => false,
        };
        if is_backwards {
            let (from, until) = (self.describe(), until.describe());
            return Err(InvalidRange(format!("the range from {from} until {until} is backwards")));
        }
        if self.time().is_some_and(|from| from > evidence::now()) {
            let from = self.describe();
            return Err(InvalidRange(format!("the range from {from} is still to come")));
        }
        Ok(())
    }
}

impl FromStr for BoundArgument {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::new(text, evidence::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_say_it() {
        let now = Timestamp::parse("2026-03-05T10:00:00Z").unwrap();
        let bound = |text| BoundArgument::new(text, now).map(|argument| argument.bound);
        assert_eq!(bound("earliest"), Ok(Bound::Earliest));
        assert_eq!(bound("latest"), Ok(Bound::Latest));
        assert_eq!(bound("0"), Ok(Bound::Offset(0)));
        assert_eq!(bound("1970-01-01T00:00:01.5Z"), Ok(Bound::Time(1_500)));
        assert_eq!(bound("2h 30m"), bound("2026-03-05T07:30:00Z"));
        let order = |from, until| {
            let argument = |text| BoundArgument::new(text, evidence::now()).unwrap();
            argument(from).check_order(&argument(until)).is_ok()
        };
        for (from, until) in [("5", "2"), ("1h", "2h"), ("2099-01-01T00:00:00Z", "latest")] {
            assert!(!order(from, until), "{from} {until}");
        }
        for (from, until) in [("5", "5"), ("2h", "1h"), ("5", "1h"), ("earliest", "0")] {
            assert!(order(from, until), "{from} {until}");
        }
        for text in ["", "-1", "yesterday", "2026-03-05", "12parsecs"] {
            assert!(bound(text).is_err(), "{text}");
        }
    }
}
