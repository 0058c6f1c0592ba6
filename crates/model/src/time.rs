//! Points in time: microseconds since 1970, UTC, read and written as RFC 3339.

use std::fmt;
use std::time::Duration;

use jiff::SignedDuration;
use jiff::civil::DateTime;
use jiff::fmt::temporal::DateTimeParser;

/// A point in time in microseconds since 1970-01-01T00:00:00Z; a parsed time is within the years 0000 to 9999.
///
/// It is a number and not a calendar date, because every rule adds, subtracts and compares times, up to a million times
/// a second.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

/// The text is not an RFC 3339 date-time, or is outside the years 0000 to 9999 in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an RFC 3339 time")]
pub struct InvalidTimestamp;

/// 0000-01-01T00:00:00Z to 9999-12-31T23:59:59.999999Z: the times that RFC 3339 can represent.
const RANGE: std::ops::RangeInclusive<i64> = -62_167_219_200_000_000..=253_402_300_799_999_999;
const PARSER: DateTimeParser = DateTimeParser::new();
const EPOCH: DateTime = DateTime::constant(1970, 1, 1, 0, 0, 0, 0);

impl Timestamp {
    /// Builds a time from microseconds since 1970-01-01T00:00:00Z.
    #[must_use]
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// Builds a time from milliseconds since 1970-01-01T00:00:00Z, Kafka's record timestamp; saturates.
    #[must_use]
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis.saturating_mul(1_000))
    }

    /// Microseconds since 1970-01-01T00:00:00Z.
    #[must_use]
    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// Whether RFC 3339 can represent the time, as it can that of every row: it is within the years 0000 to 9999.
    #[must_use]
    pub fn is_rfc3339(self) -> bool {
        RANGE.contains(&self.0)
    }

    /// Parses an RFC 3339 date-time as crates/model/README.md restricts it (Publish event, `publishedAt`): `T` or `t`,
    /// seconds 00–59 (no leap second), any number of fraction digits truncated to microseconds, `Z`, `z` or an offset
    /// up to 23:59.
    ///
    /// # Errors
    /// [`InvalidTimestamp`] for any other text.
    pub fn parse(text: &str) -> Result<Self, InvalidTimestamp> {
        let bytes = text.as_bytes();
        let (head, rest) = bytes.split_at_checked(19).ok_or(InvalidTimestamp)?;
        // jiff reads other forms of ISO 8601 too, and takes second 60 for 59.
        let has_form = head.iter().enumerate().all(|(at, byte)| match at {
            4 | 7 => *byte == b'-',
            10 => matches!(byte, b'T' | b't'),
            13 | 16 => *byte == b':',
            _ => byte.is_ascii_digit(),
        });
        if !has_form || head.ends_with(b"60") {
            return Err(InvalidTimestamp);
        }
        let fraction = rest
            .strip_prefix(b".")
            .map_or(0, |rest| 1 + rest.iter().take_while(|byte| byte.is_ascii_digit()).count());
        let (local, zone) = bytes.split_at(head.len() + fraction);
        // Six digits of the fraction, which truncates.
        let local = &local[..local.len().min(26)];
        let local = PARSER.parse_datetime(local).map_err(|_| InvalidTimestamp)?;
        let micros = local.duration_since(EPOCH).as_micros() - offset(zone)?.as_micros();
        // The offset may move the time out of the years that RFC 3339 can represent.
        let time = i64::try_from(micros).ok().map(Self).filter(|time| time.is_rfc3339());
        time.ok_or(InvalidTimestamp)
    }

    /// Formats the time as RFC 3339 in UTC with six fraction digits and `Z`; texts sort in the order of time. A time
    /// outside of the years −9999 to 9999 is formatted as the first or last of these.
    #[must_use]
    pub fn to_rfc3339_micros(self) -> String {
        format!("{:.6}Z", self.civil())
    }

    /// Formats the time as RFC 3339 in UTC with three fraction digits and `Z`, as the API does (crates/query/README.md, API).
    #[must_use]
    pub fn to_rfc3339_millis(self) -> String {
        format!("{:.3}Z", self.civil())
    }

    /// The difference `self − earlier` in microseconds; negative if `self` is the earlier time.
    #[must_use]
    pub const fn micros_since(self, earlier: Self) -> i64 {
        self.0.saturating_sub(earlier.0)
    }

    /// The time that is `span` later; saturates.
    #[must_use]
    pub fn after(self, span: Duration) -> Self {
        Self(self.0.saturating_add(micros(span)))
    }

    /// The time that is `span` earlier; saturates.
    #[must_use]
    pub fn before(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(micros(span)))
    }

    fn civil(self) -> DateTime {
        EPOCH.saturating_add(SignedDuration::from_micros(self.0))
    }
}

fn micros(span: Duration) -> i64 {
    i64::try_from(span.as_micros()).unwrap_or(i64::MAX)
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_rfc3339_micros())
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_rfc3339_micros())
    }
}

/// The offset of local time from UTC.
fn offset(zone: &[u8]) -> Result<SignedDuration, InvalidTimestamp> {
    let (sign, h1, h2, m1, m2) = match zone {
        b"Z" | b"z" => return Ok(SignedDuration::ZERO),
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] => (sign, h1, h2, m1, m2),
        _ => return Err(InvalidTimestamp),
    };
    let number = |digits: [&u8; 2]| {
        let is_number = digits.iter().all(|byte| byte.is_ascii_digit());
        is_number.then(|| i64::from((digits[0] - b'0') * 10 + (digits[1] - b'0')))
    };
    match (number([h1, h2]), number([m1, m2])) {
        (Some(hours @ 0..24), Some(minutes @ 0..60)) => {
            let minutes = hours * 60 + minutes;
            Ok(SignedDuration::from_mins(if *sign == b'-' { -minutes } else { minutes }))
        }
        _ => Err(InvalidTimestamp),
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use proptest::prelude::*;

    fn micros(text: &str) -> Result<i64, InvalidTimestamp> {
        Timestamp::parse(text).map(Timestamp::as_micros)
    }

    #[test]
    fn reads_what_rfc_3339_allows() {
        assert_eq!(micros("1970-01-01T00:00:00Z"), Ok(0));
        assert_eq!(micros("2019-07-25T18:09:11.204Z"), Ok(1_564_078_151_204_000));
        assert_eq!(micros("2019-07-25t18:09:11.2049999z"), Ok(1_564_078_151_204_999));
        assert_eq!(micros("2019-07-25T20:09:11.204+02:00"), Ok(1_564_078_151_204_000));
        assert_eq!(micros("1969-12-31T23:59:59.999999999Z"), Ok(-1));
        assert_eq!(micros("2020-02-29T00:00:00-23:59"), micros("2020-02-29T23:59:00Z"));
        assert_eq!(micros("2000-02-29T00:00:00-00:00"), micros("2000-02-29T00:00:00Z"));
    }

    #[test]
    fn refuses_everything_else() {
        for text in [
            "",
            "2019-07-25",
            "2019-07-25 18:09:11Z",
            "2019-07-25T18:09:11",
            "2019-07-25T18:09:60Z",
            "2019-07-25T24:00:00Z",
            "2019-02-29T00:00:00Z",
            "1900-02-29T00:00:00Z",
            "2019-13-01T00:00:00Z",
            "2019-00-01T00:00:00Z",
            "2019-07-25T18:09:11.Z",
            "2019-07-25T18:09:11,5Z",
            "20190725T180911.123Z",
            "2019-07-25T18:09:11Z[UTC]",
            "2019-07-25T18:09:11+01",
            "2019-07-25T18:09:11+24:00",
            "2019-07-25T18:09:11+00:60",
            "2019-07-25T18:09:11+0000",
            "2019-07-25T18:09:11ZZ",
            " 2019-07-25T18:09:11Z",
            "+019-07-25T18:09:11Z",
            "２019-07-25T18:09:11Z",
            "0000-01-01T00:00:00+00:01",
            "9999-12-31T23:59:59-00:01",
        ] {
            assert_eq!(micros(text), Err(InvalidTimestamp), "{text}");
        }
    }

    #[test]
    fn writes_both_precisions() {
        let time = Timestamp::parse("2019-07-25T18:09:11.204999Z").unwrap();
        assert_eq!(time.to_rfc3339_micros(), "2019-07-25T18:09:11.204999Z");
        assert_eq!(time.to_rfc3339_millis(), "2019-07-25T18:09:11.204Z");
        assert_eq!(Timestamp::from_micros(-1).to_rfc3339_micros(), "1969-12-31T23:59:59.999999Z");
        assert_eq!(Timestamp::from_micros(-1).to_rfc3339_millis(), "1969-12-31T23:59:59.999Z");
        let last = "9999-12-31T23:59:59.999999Z";
        assert_eq!(Timestamp::from_micros(i64::MAX).to_rfc3339_micros(), last);
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(micros in RANGE) {
            let time = Timestamp::from_micros(micros);
            prop_assert_eq!(Timestamp::parse(&time.to_rfc3339_micros()), Ok(time));
        }

        #[test]
        fn text_sorts_like_time(a in RANGE, b in RANGE) {
            let (a, b) = (Timestamp::from_micros(a), Timestamp::from_micros(b));
            prop_assert_eq!(a.cmp(&b), a.to_rfc3339_micros().cmp(&b.to_rfc3339_micros()));
        }

        /// humantime reads and writes the years from 1970 in UTC.
        #[test]
        fn reads_and_writes_as_another_library(
            nanos in 0..253_402_300_800_000_000_000_u128,
            (is_west, minutes) in (any::<bool>(), 0..1_440_i64),
        ) {
            let nanos = Duration::from_nanos_u128(nanos);
            let theirs = SystemTime::UNIX_EPOCH + nanos;
            let utc = humantime::format_rfc3339_nanos(theirs).to_string();
            let time = Timestamp::from_micros(nanos.as_micros().try_into().unwrap());
            prop_assert_eq!(Timestamp::parse(&utc), Ok(time));
            prop_assert_eq!(time.to_rfc3339_micros(), humantime::format_rfc3339_micros(theirs).to_string());
            prop_assert_eq!(time.to_rfc3339_millis(), humantime::format_rfc3339_millis(theirs).to_string());
            let zone = format!("{}{:02}:{:02}", if is_west { '-' } else { '+' }, minutes / 60, minutes % 60);
            let moved = time.0 + if is_west { minutes } else { -minutes } * 60_000_000;
            let expected = if RANGE.contains(&moved) { Ok(Timestamp(moved)) } else { Err(InvalidTimestamp) };
            prop_assert_eq!(Timestamp::parse(&utc.replace('Z', &zone)), expected);
        }

        /// A text that has the form is a time exactly if another library says so.
        #[test]
        fn refuses_what_another_library_refuses(
            (year, month, day) in (1_970..9_999_u16, 0..14_u8, 0..33_u8),
            (hour, minute, second) in (0..26_u8, 0..62_u8, 0..60_u8),
        ) {
            let text = format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z");
            prop_assert_eq!(Timestamp::parse(&text).is_ok(), humantime::parse_rfc3339(&text).is_ok(), "{}", text);
        }

        #[test]
        fn never_panics(text in "\\PC{0,40}") {
            let _ = Timestamp::parse(&text);
        }
    }
}
