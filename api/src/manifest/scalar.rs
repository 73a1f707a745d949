//! Scalars by the core schema of YAML 1.2 (chapter 10.3), and what other readers make of the same text.

use std::borrow::Cow;

use serde_json::{Number, Value};

/// What a scalar says of its type.
#[derive(Clone, Copy)]
pub(super) enum Style<'a> {
    /// Neither quoted nor tagged.
    Plain,
    /// Quoted, or a block.
    Quoted,
    /// With a tag of the core schema: `int`, `str`, ...
    Tagged(&'a str),
}

/// The value of a scalar, or why there is none.
pub(super) fn resolve(text: Cow<'_, str>, style: Style<'_>) -> Result<Value, String> {
    let value = match style {
        Style::Quoted => None,
        Style::Plain => plain(&text)?,
        Style::Tagged("str" | "binary" | "timestamp") => None,
        Style::Tagged(tag @ ("int" | "float" | "bool" | "null")) => {
            let value = plain(&text)?.filter(|v| {
                matches!(
                    (tag, v),
                    ("int" | "float", Value::Number(_)) | ("bool", Value::Bool(_)) | ("null", Value::Null)
                )
            });
            Some(value.ok_or_else(|| format!("{text:?} is no !!{tag}"))?)
        }
        Style::Tagged(_) => None,
    };
    Ok(value.unwrap_or_else(|| Value::String(text.into_owned())))
}

/// The value of a plain scalar that is no text.
fn plain(text: &str) -> Result<Option<Value>, String> {
    let Some(&first) = text.as_bytes().first() else { return Ok(Some(Value::Null)) };
    Ok(match first {
        b'~' | b'n' | b'N' if matches!(text, "~" | "null" | "Null" | "NULL") => Some(Value::Null),
        b't' | b'T' if matches!(text, "true" | "True" | "TRUE") => Some(Value::Bool(true)),
        b'f' | b'F' if matches!(text, "false" | "False" | "FALSE") => Some(Value::Bool(false)),
        b'0'..=b'9' | b'+' | b'-' | b'.' => number(text)?.map(Value::Number),
        _ => None,
    })
}

fn number(text: &str) -> Result<Option<Number>, String> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    if matches!(unsigned, ".inf" | ".Inf" | ".INF") || matches!(text, ".nan" | ".NaN" | ".NAN") {
        return Err(format!(
            "{text} is no number of JSON, so no object can hold it; quote it if text is meant"
        ));
    }
    if let Some(digits) = text.strip_prefix("0x") {
        return Ok(radix(digits, 16));
    }
    if let Some(digits) = text.strip_prefix("0o") {
        return Ok(radix(digits, 8));
    }
    if !unsigned.is_empty() && unsigned.bytes().all(|b| b.is_ascii_digit()) {
        if let Ok(n) = text.parse::<i64>() {
            return Ok(Some(n.into()));
        }
        if let Ok(n) = text.parse::<u64>() {
            return Ok(Some(n.into()));
        }
    }
    if !is_float(unsigned) {
        return Ok(None);
    }
    let float: f64 = text.parse().map_err(|_| format!("{text} is no number"))?;
    let too_large = || format!("the number {text} is too large; quote it if text is meant");
    Ok(Some(Number::from_f64(float).ok_or_else(too_large)?))
}

fn radix(digits: &str, radix: u32) -> Option<Number> {
    let all = !digits.is_empty() && digits.chars().all(|c| c.is_digit(radix));
    u64::from_str_radix(digits, radix).ok().filter(|_| all).map(Number::from)
}

/// `( \. [0-9]+ | [0-9]+ ( \. [0-9]* )? ) ( [eE] [-+]? [0-9]+ )?`, without the sign.
fn is_float(text: &str) -> bool {
    let (mantissa, exponent) = match text.find(['e', 'E']) {
        Some(at) => (&text[..at], Some(&text[at + 1..])),
        None => (text, None),
    };
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    digits(whole)
        && digits(fraction)
        && !(whole.is_empty() && fraction.is_empty())
        && exponent.is_none_or(|e| {
            let e = e.strip_prefix(['+', '-']).unwrap_or(e);
            !e.is_empty() && digits(e)
        })
}

/// What kubectl (YAML 1.1) makes of a plain scalar that the core schema reads as something else.
pub(super) fn ambiguity(text: &str) -> Option<String> {
    let first = *text.as_bytes().first()?;
    match first {
        b'y' | b'Y' | b'n' | b'N' | b'o' | b'O' => {
            let boolean = match text {
                "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => "true",
                "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => "false",
                _ => return None,
            };
            Some(format!(
                "{text} without quotes is the boolean {boolean} to kubectl and the text {text:?} here"
            ))
        }
        b'0' if text.len() > 1 && text.bytes().all(|b| (b'0'..=b'7').contains(&b)) => {
            let octal = u64::from_str_radix(text, 8).ok()?;
            let decimal: u64 = text.parse().ok()?;
            (octal != decimal)
                .then(|| format!("{text} without quotes is {octal} (octal) to kubectl and {decimal} here"))
        }
        _ => None,
    }
}
