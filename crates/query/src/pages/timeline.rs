//! A history as a timeline: time from left to right, one lane for each method. Positions are percentages of the width
//! and text keeps its size, so that it is readable on narrow screens.

use std::fmt::Write as _;

use maud::{Markup, html};
use model::visible;

use super::marks::{Mark, Row, dot, in_text};
use super::words;

/// The height of a lane, and the position of its line, in pixels.
const LANE: usize = 68;
const LINE: usize = 44;
/// Positions of the first and the last publication, in percent of the width.
const LEFT: f64 = 3.0;
const RIGHT: f64 = 97.0;

/// The timeline of the rows, newest first.
pub(super) fn figure(rows: &[Row<'_>]) -> Markup {
    let times = rows.iter().map(|row| row.publication.info.created);
    let (Some(first), Some(last)) = (times.clone().min(), times.max()) else {
        return html! {};
    };
    let span = last.micros_since(first);
    let bottom = LANE * words::METHODS.len();
    html! {
        figure {
            svg.timeline width="100%" height=(bottom + 28) role="img" aria-label=(text_alternative(rows)) {
                @for (lane, method) in words::METHODS.into_iter().enumerate() {
                    text x="0" y=(lane * LANE + 14) { (words::method(method)) }
                    line.lane x1="0" x2="100%" y1=(lane * LANE + LINE) y2=(lane * LANE + LINE) {}
                    @for row in rows.iter().rev().filter(|row| row.method() == method) {
                        @let since = row.publication.info.created.micros_since(first);
                        svg x={(place(since, span)) "%"} y=(lane * LANE + LINE) overflow="visible" {
                            title { (name(row)) }
                            (dot(method))
                            @for mark in row.marks() { (mark.shape()) }
                        }
                    }
                }
                text x="0" y=(bottom + 18) { (words::day(first)) }
                @if span > 0 {
                    text.end x="100%" y=(bottom + 18) { (words::day(last)) }
                }
            }
            figcaption {
                "Each dot is a publication. "
                @for mark in Mark::ALL {
                    span.key { (in_text(mark)) " " (mark.label()) } " "
                }
            }
        }
    }
}

/// A position in percent of the width, with two digits.
#[expect(clippy::cast_precision_loss, reason = "a place on the screen")]
fn place(since: i64, span: i64) -> String {
    let share = if span > 0 { since as f64 / span as f64 } else { 0.5 };
    format!("{:.2}", LEFT + share * (RIGHT - LEFT))
}

fn name(row: &Row<'_>) -> String {
    let mut text = format!(
        "{}, {}: {}",
        visible(row.publication.id.version.as_str()),
        words::day(row.publication.info.created),
        words::method(row.method())
    );
    for mark in row.marks() {
        // Writing to a string cannot fail.
        let _ = write!(text, "; {}", mark.label());
    }
    text
}

/// The text alternative of the timeline. The table below has each publication.
fn text_alternative(rows: &[Row<'_>]) -> String {
    let methods = words::METHODS.into_iter().map(|method| {
        let count = rows.iter().filter(|row| row.method() == method).count();
        (words::method(method), count)
    });
    let marks = Mark::ALL.into_iter().map(|mark| {
        let count = rows.iter().filter(|row| row.has(mark)).count();
        (mark.label(), count)
    });
    let mut text =
        format!("Timeline of the publications in the table below, {} in all.", rows.len());
    for (label, count) in methods.chain(marks).filter(|(_, count)| *count > 0) {
        // Writing to a string cannot fail.
        let _ = write!(text, " {label}: {count}.");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_keep_their_distances_within_the_width() {
        assert_eq!(place(0, 100), "3.00");
        assert_eq!(place(50, 100), "50.00");
        assert_eq!(place(100, 100), "97.00");
        assert_eq!(place(0, 0), "50.00");
        assert_eq!(place(i64::MAX, i64::MAX), "97.00");
    }
}
