//! How values become text: cells from outside made harmless, numbers, ages, near names.

use std::{borrow::Cow, fmt::Write as _, time::Duration};

use jiff::Timestamp;

/// What stands for a value that does not exist.
pub const NONE: &str = "<none>";
/// What stands for a value that could not be had.
pub const UNKNOWN: &str = "<unknown>";

/// The text without anything a terminal would obey: control characters in caret notation as kubectl prints them, C1
/// controls and marks that turn the direction of text replaced.
#[must_use]
pub fn sanitise(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_unsafe) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match c {
            '\n' | '\r' | '\t' => out.push(' '),
            '\0'..='\u{1f}' => {
                out.push('^');
                out.push(char::from_u32(c as u32 + 0x40).unwrap_or('?'));
            }
            '\u{7f}' => out.push_str("^?"),
            c if is_unsafe(c) => out.push(char::REPLACEMENT_CHARACTER),
            c => out.push(c),
        }
    }
    Cow::Owned(out)
}

fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}' | '\u{2028}' | '\u{2029}')
}

/// The text as part of a URI (RFC 3986): all but letters, digits and `-._~/` percent-encoded.
#[must_use]
pub fn percent_encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                out.push(byte.into())
            }
            _ => {
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
    out
}

/// A rate or count for people: one decimal below 100, whole numbers below 10,000, then powers of 1,000.
#[must_use]
pub fn scaled(value: f64) -> String {
    const UNITS: [&str; 5] = ["k", "M", "G", "T", "P"];
    if value == 0.0 {
        return "0".to_owned();
    }
    if value < 99.95 {
        return format!("{value:.1}");
    }
    if value < 9_999.5 {
        return format!("{value:.0}");
    }
    let (mut value, mut unit) = (value / 1000.0, 0);
    while value >= 999.95 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    format!("{value:.1}{}", UNITS[unit])
}

/// A whole number for people, as [`scaled`] but exact below 10,000.
#[must_use]
pub fn scaled_count(value: u64) -> String {
    if value < 10_000 { value.to_string() } else { scaled(value as f64) }
}

/// A span of time as kubectl's AGE prints it.
#[must_use]
pub fn age(seconds: i64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let pair = |a: i64, unit_a: &str, b: i64, unit_b: &str| {
        if b == 0 { format!("{a}{unit_a}") } else { format!("{a}{unit_a}{b}{unit_b}") }
    };
    match seconds {
        ..-1 => "<invalid>".to_owned(),
        -1 => "0s".to_owned(),
        0..120 => format!("{seconds}s"),
        120..600 => pair(minutes, "m", seconds % 60, "s"),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => pair(hours, "h", minutes % 60, "m"),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => pair(days, "d", hours % 24, "h"),
        691_200..63_072_000 => format!("{days}d"),
        63_072_000..252_288_000 => pair(days / 365, "y", days % 365, "d"),
        _ => format!("{}y", days / 365),
    }
}

/// Reads a span of time above zero: 500ms, 30s, 5m, 2h.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    parse_time(text).and_then(|span| if span.is_zero() { Err(WRONG_TIME.to_owned()) } else { Ok(span) })
}

const WRONG_TIME: &str = "it must be more than 0 and less than a year";

/// Reads a span of time that may be zero: 0s, 500ms, 30s, 5m, 2h.
pub fn parse_time(text: &str) -> Result<Duration, String> {
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[number.len()..] {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        "" => return Err("a unit is missing: 500ms, 30s, 5m, 2h".to_owned()),
        unit => return Err(format!("unknown unit {unit:?}; use ms, s, m or h")),
    };
    let number: f64 = number.parse().map_err(|_| format!("{number:?} is not a number"))?;
    match Duration::try_from_secs_f64(number * unit) {
        Ok(span) if span < Duration::from_secs(366 * 86_400) => Ok(span),
        _ => Err(WRONG_TIME.to_owned()),
    }
}

/// A moment in a sentence: nobody reads its nanoseconds.
#[must_use]
pub fn moment(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// The age of a moment at another.
#[must_use]
pub fn age_at(then: Timestamp, now: Timestamp) -> String {
    age(now.as_second() - then.as_second())
}

/// `one pod`, `2 pods`.
#[must_use]
pub fn plural(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// Items joined with commas; after `most` of them `and N more`.
#[must_use]
pub fn list<T: std::fmt::Display>(items: &[T], most: usize) -> String {
    let mut out = String::new();
    for (i, item) in items.iter().take(most).enumerate() {
        let _ = write!(out, "{}{item}", if i == 0 { "" } else { ", " });
    }
    if items.len() > most {
        let _ = write!(out, " and {} more", items.len() - most);
    }
    out
}

/// The names nearest to `name`, best first: those it is a part of, and those at most a third of its letters away.
#[must_use]
pub fn near<'a>(name: &str, names: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let most = (name.chars().count() / 3).max(1);
    let mut found: Vec<(usize, &str)> = names
        .into_iter()
        .filter_map(|other| {
            let distance = distance(name, other);
            let part = !name.is_empty() && (other.contains(name) || name.contains(other));
            (distance <= most || part).then_some((distance, other))
        })
        .collect();
    found.sort_unstable();
    found.dedup();
    found.into_iter().take(3).map(|(_, name)| name).collect()
}

/// Letters to insert, remove or replace to get from one word to the other (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn control_characters_are_shown_and_not_obeyed() {
        assert_eq!(sanitise("plain ä 漢"), "plain ä 漢");
        assert_eq!(sanitise("a\u{1b}[31mred"), "a^[[31mred");
        assert_eq!(sanitise("two\nlines\tand\0"), "two lines and^@");
        assert_eq!(sanitise("x\u{202e}y\u{9b}z\u{7f}"), "x\u{fffd}y\u{fffd}z^?");
    }

    proptest! {
        #[test]
        fn nothing_unsafe_is_left(text in any::<String>()) {
            prop_assert!(!sanitise(&text).chars().any(is_unsafe));
        }
    }

    #[test]
    fn numbers_for_people() {
        for (value, text) in [
            (0.0, "0"),
            (0.04, "0.0"),
            (1.5, "1.5"),
            (99.96, "100"),
            (9_999.0, "9999"),
            (9_999.6, "10.0k"),
            (48_213.0, "48.2k"),
            (999_960.0, "1.0M"),
            (1.5e18, "1500.0P"),
        ] {
            assert_eq!(scaled(value), text, "{value}");
        }
        assert_eq!(scaled_count(9_999), "9999");
        assert_eq!(scaled_count(u64::MAX), "18446.7P");
    }

    #[test]
    fn ages_are_kubectls() {
        for (seconds, text) in [
            (-5, "<invalid>"),
            (95, "95s"),
            (200, "3m20s"),
            (180, "3m"),
            (47 * 60, "47m"),
            (3 * 3600 + 12 * 60, "3h12m"),
            (31 * 3600, "31h"),
            (5 * 86_400 + 4 * 3600, "5d4h"),
            (211 * 86_400, "211d"),
            (741 * 86_400, "2y11d"),
            (9 * 365 * 86_400, "9y"),
        ] {
            assert_eq!(age(seconds), text, "{seconds}");
        }
    }

    #[test]
    fn spans_of_time() {
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("1.5m"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("2h"), Ok(Duration::from_secs(7200)));
        for wrong in ["", "5", "s", "-1s", "0s", "nans", "infs", "1d", "9999h9", "1e9h"] {
            assert!(parse_duration(wrong).is_err(), "{wrong}");
            assert!(parse_time(wrong).is_err() || wrong == "0s", "{wrong}");
        }
    }

    #[test]
    fn moments_have_whole_seconds() {
        let time: Timestamp = "2026-11-25T01:17:55.834925501Z".parse().unwrap();
        assert_eq!(moment(time), "2026-11-25T01:17:55Z");
    }

    #[test]
    fn parts_of_uris() {
        assert_eq!(percent_encoded("a b/ü&[x]:1"), "a%20b/%C3%BC%26%5Bx%5D%3A1");
    }

    #[test]
    fn near_names() {
        let names = ["node-local-dns", "apiserver-cache", "edge-proxy"];
        assert_eq!(near("node-local-dsn", names), ["node-local-dns"]);
        assert_eq!(near("apiserver", names), ["apiserver-cache"]);
        assert_eq!(near("quite-another", names), [] as [&str; 0]);
        assert_eq!(near("", names), [] as [&str; 0]);
    }
}
