//! What a file of manifests is: its name, its size, its text.

use std::ffi::OsStr;

use super::SyntaxError;

/// Largest file that is read, in bytes.
pub const MAX_BYTES: u64 = 16 << 20;

/// Is it the name of a file of manifests? Hidden files are none.
#[must_use]
pub fn is_file_name(name: &OsStr) -> bool {
    let name = name.as_encoded_bytes();
    !name.starts_with(b".") && [&b".yaml"[..], b".yml", b".json"].iter().any(|end| name.ends_with(end))
}

/// The bytes of a file as text.
///
/// # Errors
/// They are no UTF-8; the place is behind the last character that is.
pub fn utf8(bytes: &[u8]) -> Result<&str, SyntaxError> {
    std::str::from_utf8(bytes).map_err(|error| {
        let good = bytes.get(..error.valid_up_to()).unwrap_or_default();
        let last = good.rsplit(|b| *b == b'\n').next().unwrap_or_default();
        let characters = |bytes: &[u8]| bytes.utf8_chunks().map(|c| c.valid().chars().count()).sum::<usize>();
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let wide = bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]);
        SyntaxError {
            line: count(1 + good.iter().filter(|b| **b == b'\n').count()),
            column: count(1 + characters(last)),
            document: 1,
            message: if wide { "the text is UTF-16; save it as UTF-8" } else { "the text is not UTF-8" }
                .to_owned(),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_text_says_where() {
        assert_eq!(utf8("ü: ß\n".as_bytes()), Ok("ü: ß\n"));
        for (bytes, line, column, message) in [
            (&b"\xc3\xbc: caf\xe9"[..], 1, 7, "the text is not UTF-8"),
            (b"a\nb\n\xff", 3, 1, "the text is not UTF-8"),
            (b"\xff\xfea\0", 1, 1, "the text is UTF-16; save it as UTF-8"),
        ] {
            let error = utf8(bytes).unwrap_err();
            assert_eq!((error.line, error.column, error.message.as_str()), (line, column, message));
        }
    }

    #[test]
    fn names_of_manifests() {
        for (name, is) in [
            ("a.yaml", true),
            ("a.b.yml", true),
            ("a.json", true),
            (".a.yaml", false),
            (".yaml", false),
            ("a.yaml~", false),
            ("yaml", false),
            ("a.txt", false),
        ] {
            assert_eq!(is_file_name(OsStr::new(name)), is, "{name}");
        }
    }
}
