//! Just enough of DNS (RFC 1035) to ask a server who it is.

/// The name that each DNS server of the demo answers with a text of its own.
pub const WHOAMI: &str = "whoami.demo";

const TYPE_TXT: u16 = 16;
const CLASS_IN: u16 = 1;

/// A query for the text of [`WHOAMI`].
#[must_use]
pub fn whoami_query() -> Vec<u8> {
    // Id 1, recursion desired, one question.
    let mut query = vec![0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in WHOAMI.split('.') {
        query.push(label.len() as u8);
        query.extend_from_slice(label.as_bytes());
    }
    query.push(0);
    query.extend_from_slice(&TYPE_TXT.to_be_bytes());
    query.extend_from_slice(&CLASS_IN.to_be_bytes());
    query
}

/// The first text in the answers of a reply.
#[must_use]
pub fn first_text(reply: &[u8]) -> Option<String> {
    let u16_at = |at: usize| Some(u16::from_be_bytes([*reply.get(at)?, *reply.get(at + 1)?]));
    let (questions, answers) = (u16_at(4)?, u16_at(6)?);
    let mut at = 12;
    for _ in 0..questions {
        at = skip_name(reply, at)? + 4;
    }
    for _ in 0..answers {
        at = skip_name(reply, at)?;
        let (kind, length) = (u16_at(at)?, usize::from(u16_at(at + 8)?));
        let data = reply.get(at + 10..at + 10 + length)?;
        if kind == TYPE_TXT {
            let text = data.get(1..=usize::from(*data.first()?))?;
            return Some(String::from_utf8_lossy(text).into_owned());
        }
        at += 10 + length;
    }
    None
}

/// Where the name at `at` ends: at a zero or after a pointer.
fn skip_name(reply: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *reply.get(at)? {
            0 => return Some(at + 1),
            length if length >= 0xc0 => return Some(at + 2),
            length => at += usize::from(length) + 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(records: &[(u16, &[u8])]) -> Vec<u8> {
        let mut reply = whoami_query();
        reply[7] = records.len() as u8;
        for (kind, data) in records {
            // A pointer to the question's name, type, class, time to live, length.
            reply.extend_from_slice(&[0xc0, 12]);
            reply.extend_from_slice(&kind.to_be_bytes());
            reply.extend_from_slice(&[0, 1, 0, 0, 0, 0]);
            reply.extend_from_slice(&(data.len() as u16).to_be_bytes());
            reply.extend_from_slice(data);
        }
        reply
    }

    #[test]
    fn the_first_text_is_found_behind_other_records() {
        let both = reply(&[(5, b"\x01a\x00"), (16, b"\x07CoreDNS")]);
        assert_eq!(first_text(&both).as_deref(), Some("CoreDNS"));
    }

    #[test]
    fn what_is_cut_off_is_no_answer() {
        let whole = reply(&[(16, b"\x07CoreDNS")]);
        assert_eq!(first_text(&whole[..whole.len() - 1]), None);
        assert_eq!(first_text(&reply(&[])), None);
        assert_eq!(first_text(b"short"), None);
    }
}
