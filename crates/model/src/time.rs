//! Points in time: microseconds since 1970, UTC, read and written as RFC 3339.

use std::fmt;
use std::time::Duration;

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

const MICROS_PER_SECOND: i64 = 1_000_000;
const SECONDS_PER_DAY: i64 = 86_400;
/// 0000-01-01T00:00:00Z to 9999-12-31T23:59:59.999999Z: the times that RFC 3339 can represent.
const RANGE: std::ops::RangeInclusive<i64> = -62_167_219_200_000_000..=253_402_300_799_999_999;

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

    /// Builds a time from a calendar date and a time of day in UTC.
    ///
    /// # Errors
    /// [`InvalidTimestamp`] if there is no such day (month 1–12, day 1 to the month's last) or no such time (hour 0–23,
    /// minute and second 0–59), or the year is not within 0–9999.
    pub fn from_utc(
        date: (i64, i64, i64),
        time: (i64, i64, i64),
    ) -> Result<Self, InvalidTimestamp> {
        let ((year, month, day), (hour, minute, second)) = (date, time);
        let fits = (0..=9999).contains(&year)
            && (1..=12).contains(&month)
            && (1..=days_in_month(year, month)).contains(&day)
            && (0..24).contains(&hour)
            && (0..60).contains(&minute)
            && (0..60).contains(&second);
        if !fits {
            return Err(InvalidTimestamp);
        }
        let seconds = days_from_civil(year, month, day) * SECONDS_PER_DAY
            + hour * 3_600
            + minute * 60
            + second;
        Ok(Self(seconds * MICROS_PER_SECOND))
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
        let separators = [(4, b'-'), (7, b'-'), (13, b':'), (16, b':')];
        if separators.iter().any(|&(at, byte)| head[at] != byte) || !matches!(head[10], b'T' | b't')
        {
            return Err(InvalidTimestamp);
        }
        let local = Self::from_utc(
            (digits(&head[0..4])?, digits(&head[5..7])?, digits(&head[8..10])?),
            (digits(&head[11..13])?, digits(&head[14..16])?, digits(&head[17..19])?),
        )?;
        let (fraction, zone) = fraction(rest)?;
        let micros = local.0 + fraction - offset(zone)? * 60 * MICROS_PER_SECOND;
        // The offset may move the time out of the years that RFC 3339 can represent.
        if RANGE.contains(&micros) { Ok(Self(micros)) } else { Err(InvalidTimestamp) }
    }

    /// Formats the time as RFC 3339 in UTC with six fraction digits and `Z`; texts sort in the order of time.
    #[must_use]
    pub fn to_rfc3339_micros(self) -> String {
        self.to_rfc3339(self.0.rem_euclid(MICROS_PER_SECOND), 6)
    }

    /// Formats the time as RFC 3339 in UTC with three fraction digits and `Z`, as the API does (crates/query/README.md, API).
    #[must_use]
    pub fn to_rfc3339_millis(self) -> String {
        self.to_rfc3339(self.0.rem_euclid(MICROS_PER_SECOND) / 1_000, 3)
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

    fn to_rfc3339(self, fraction: i64, fraction_digits: u32) -> String {
        let seconds = self.0.div_euclid(MICROS_PER_SECOND);
        let (year, month, day) = civil_from_days(seconds.div_euclid(SECONDS_PER_DAY));
        let of_day = seconds.rem_euclid(SECONDS_PER_DAY);
        let mut text = String::with_capacity("2019-07-25T18:09:11.204999Z".len());
        push(&mut text, year, 4);
        for (before, number) in [
            ('-', month),
            ('-', day),
            ('T', of_day / 3_600),
            (':', of_day / 60 % 60),
            (':', of_day % 60),
        ] {
            text.push(before);
            push(&mut text, number, 2);
        }
        text.push('.');
        push(&mut text, fraction, fraction_digits);
        text.push('Z');
        text
    }
}

/// Appends a number with leading zeros. Written by hand, because each row has two times and the standard formatter
/// takes several times as long.
fn push(text: &mut String, number: i64, digits: u32) {
    match u32::try_from(number) {
        Ok(number) if number < 10_u32.pow(digits) => text.extend(
            (0..digits)
                .rev()
                .map(|place| char::from(b'0' + (number / 10_u32.pow(place) % 10) as u8)),
        ),
        // A year that RFC 3339 cannot represent.
        _ => text.push_str(&number.to_string()),
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

fn digits(bytes: &[u8]) -> Result<i64, InvalidTimestamp> {
    bytes.iter().try_fold(0, |number, byte| match byte {
        b'0'..=b'9' => Ok(number * 10 + i64::from(byte - b'0')),
        _ => Err(InvalidTimestamp),
    })
}

/// Splits `.123…Z` into microseconds and the rest; digits after the sixth are dropped, which truncates.
fn fraction(rest: &[u8]) -> Result<(i64, &[u8]), InvalidTimestamp> {
    let Some((b'.', rest)) = rest.split_first() else { return Ok((0, rest)) };
    let length = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if length == 0 {
        return Err(InvalidTimestamp);
    }
    let kept = length.min(6);
    let scale = [100_000, 10_000, 1_000, 100, 10, 1][kept - 1];
    Ok((digits(&rest[..kept])? * scale, &rest[length..]))
}

/// The offset from UTC in minutes.
fn offset(zone: &[u8]) -> Result<i64, InvalidTimestamp> {
    match zone {
        b"Z" | b"z" => Ok(0),
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] => {
            let (hours, minutes) = (digits(&[*h1, *h2])?, digits(&[*m1, *m2])?);
            if hours > 23 || minutes > 59 {
                return Err(InvalidTimestamp);
            }
            let total = hours * 60 + minutes;
            Ok(if *sign == b'-' { -total } else { total })
        }
        _ => Err(InvalidTimestamp),
    }
}

const fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

const fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if is_leap(year) => 29,
        2 => 28,
        _ => 31,
    }
}

/// Days since 1970-01-01 of a date of the proleptic Gregorian calendar (Howard Hinnant, "chrono-compatible low-level
/// date algorithms", `days_from_civil`).
const fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// The inverse of [`days_from_civil`] (same source, `civil_from_days`).
const fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year_of_era + era * 400 + (month <= 2) as i64, month, day)
}

#[cfg(test)]
mod tests {
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

        /// An accepted text is the time that another library parses, and each text that has the form and is a time is accepted.
        #[test]
        fn reads_what_another_library_reads(
            date in (1..9_999_i16, 0..14_i8, 0..33_i8),
            clock in (0..26_i8, 0..62_i8, 0..62_i8),
            fraction in "(\\.[0-9]{1,9})?",
            offset in prop_oneof![Just(None), (any::<bool>(), 0..26_i8, 0..62_i8).prop_map(Some)],
        ) {
            let ((year, month, day), (hour, minute, second)) = (date, clock);
            let zone = offset.map_or("Z".to_owned(), |(is_west, hours, minutes)| {
                format!("{}{hours:02}:{minutes:02}", if is_west { '-' } else { '+' })
            });
            let text = format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}{zone}");
            let is_time = jiff::civil::DateTime::new(year, month, day, hour, minute, second, 0).is_ok()
                && offset.is_none_or(|(_, hours, minutes)| hours < 24 && minutes < 60);
            let theirs = text.parse::<jiff::Timestamp>().ok().filter(|_| is_time);
            let theirs = theirs.map(|time| time.as_nanosecond().div_euclid(1_000));
            prop_assert_eq!(Timestamp::parse(&text).ok().map(|time| i128::from(time.as_micros())), theirs, "{}", text);
        }

        #[test]
        fn writes_what_another_library_writes(micros in -62_135_596_800_000_000..253_402_200_000_000_000_i64) {
            let theirs = jiff::Timestamp::from_microsecond(micros).unwrap();
            let theirs = theirs.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string();
            prop_assert_eq!(Timestamp::from_micros(micros).to_rfc3339_micros(), theirs);
        }

        #[test]
        fn never_panics(text in "\\PC{0,40}") {
            let _ = Timestamp::parse(&text);
        }
    }
}
