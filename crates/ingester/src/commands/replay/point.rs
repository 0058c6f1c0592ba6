//! Ends of a range, as they are written on the command line.

use std::str::FromStr;

use model::Timestamp;

use crate::evidence;
use crate::kafka::Bound;

/// `earliest`, `latest`, an offset, a time (RFC 3339), or a span back from now (`2h`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PointArgument {
    /// As it was written.
    pub(crate) text: String,
    pub(crate) point: Bound,
}

impl PointArgument {
    pub(crate) fn new(text: &str, now: Timestamp) -> Result<Self, String> {
        let millis = |time: Timestamp| Bound::Time(time.as_micros().div_euclid(1_000));
        let point = match text {
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
        Ok(Self { text: text.to_owned(), point })
    }

    /// In words, a span back from now as the time it stands for.
    pub(crate) fn describe(&self) -> String {
        match self.point {
            Bound::Earliest | Bound::Latest => self.text.clone(),
            Bound::Offset(offset) => format!("offset {offset}"),
            Bound::Time(millis) => Timestamp::from_millis(millis).to_rfc3339_millis(),
        }
    }

    /// The time, where it is one.
    pub(crate) const fn time(&self) -> Option<Timestamp> {
        match self.point {
            Bound::Time(millis) => Some(Timestamp::from_millis(millis)),
            _ => None,
        }
    }
}

impl FromStr for PointArgument {
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
        let point = |text| PointArgument::new(text, now).map(|argument| argument.point);
        assert_eq!(point("earliest"), Ok(Bound::Earliest));
        assert_eq!(point("latest"), Ok(Bound::Latest));
        assert_eq!(point("0"), Ok(Bound::Offset(0)));
        assert_eq!(point("1970-01-01T00:00:01.5Z"), Ok(Bound::Time(1_500)));
        assert_eq!(point("2h 30m"), point("2026-03-05T07:30:00Z"));
        for text in ["", "-1", "yesterday", "2026-03-05", "12parsecs"] {
            assert!(point(text).is_err(), "{text}");
        }
    }
}
