//! Syntax of names, and what a misspelt one was meant to be.

/// Is it a DNS label (RFC 1123): 1 to 63 of `a-z`, `0-9` and `-`, with no `-` at either end?
pub(super) fn is_dns_label(s: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=63).contains(&s.len()) && s.bytes().all(inner) && !s.starts_with('-') && !s.ends_with('-')
}

/// Is it a DNS subdomain: labels of any length with dots between, 253 in all?
pub(super) fn is_dns_subdomain(s: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let part = |p: &str| !p.is_empty() && p.bytes().all(inner) && !p.starts_with('-') && !p.ends_with('-');
    s.len() <= 253 && s.split('.').all(part)
}

/// A name as the last part of a label's key, or the value of a label: at most 63 of letters, digits, `-`, `_` and `.`,
/// a letter or digit at both ends.
fn is_label_name(s: &str) -> bool {
    let alphanumeric = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = s.as_bytes();
    (1..=63).contains(&s.len())
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        && alphanumeric(bytes.first())
        && alphanumeric(bytes.last())
}

/// Is it the value of a label? It may be empty.
pub(super) fn is_label_value(s: &str) -> bool {
    s.is_empty() || is_label_name(s)
}

/// Is it the key of a label: a name, perhaps behind `subdomain/`?
pub(super) fn is_label_key(s: &str) -> bool {
    match s.split_once('/') {
        Some((prefix, name)) => !prefix.is_empty() && is_dns_subdomain(prefix) && is_label_name(name),
        None => is_label_name(s),
    }
}

/// The word that was probably meant.
pub(super) fn nearest<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let distance = |k: &str| strsim::damerau_levenshtein(&written.to_lowercase(), &k.to_lowercase());
    // A long word would make the comparison slow and is no slip of a short one.
    let near = |&(d, k): &(usize, &str)| d <= (k.len() / 3).max(1);
    if written.len() > 64 {
        return None;
    }
    known.into_iter().map(|k| (distance(k), k)).filter(near).min_by_key(|&(d, _)| d).map(|(_, k)| k)
}
