//! Enums that stay open: a reader shows a value of a newer writer as it is, instead of refusing its document.

use std::{cmp::Ordering, fmt, hash};

/// A value that this version has no name for, as it was written. What is longer than [`Word::MOST`] bytes is cut off.
#[derive(Clone, Copy)]
pub struct Word {
    length: u8,
    bytes: [u8; Self::MOST],
}

impl Word {
    /// Bytes that are kept; every name of the product's documents is shorter.
    pub const MOST: usize = 47;

    /// The word.
    #[must_use]
    pub fn new(text: &str) -> Self {
        let mut length = text.len().min(Self::MOST);
        while !text.is_char_boundary(length) {
            length -= 1;
        }
        let mut bytes = [0; Self::MOST];
        bytes[..length].copy_from_slice(&text.as_bytes()[..length]);
        Self { length: length as u8, bytes }
    }

    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // Made from a whole number of characters, so it is never empty by error.
        std::str::from_utf8(&self.bytes[..usize::from(self.length)]).unwrap_or_default()
    }
}

impl fmt::Debug for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl PartialEq for Word {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Word {}

impl PartialOrd for Word {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Word {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_str().cmp(other.as_str())
    }
}

impl hash::Hash for Word {
    fn hash<H: hash::Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

/// An enum of words with one more variant, `Other`, for words of a newer writer.
macro_rules! open_enum {
    ($(#[$meta:meta])* pub enum $name:ident { $($(#[$doc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $($(#[$doc])* $variant,)*
            /// A word of a newer writer.
            Other($crate::open::Word),
        }

        impl $name {
            /// How documents spell it.
            #[must_use]
            pub fn as_str(&self) -> &str {
                match self {
                    $(Self::$variant => $text,)*
                    Self::Other(word) => word.as_str(),
                }
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                match text {
                    $($text => Self::$variant,)*
                    other => Self::Other($crate::open::Word::new(other)),
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                Ok(Self::from(&*text))
            }
        }
    };
}
pub(crate) use open_enum;

#[cfg(test)]
mod tests {
    use crate::agent::{DecisionVerdict, EventOutcome, Otherwise, PolicyState, RungKind};

    #[test]
    fn words_of_a_newer_agent_are_read_and_written_as_they_are() {
        fn same<T: serde::Serialize + serde::de::DeserializeOwned + std::fmt::Display>(word: &str) {
            let json = format!("{word:?}");
            let value: T = serde_json::from_str(&json).unwrap();
            assert_eq!((value.to_string().as_str(), serde_json::to_string(&value).unwrap()), (word, json));
        }
        for word in ["Draining", "", "wörd"] {
            same::<PolicyState>(word);
            same::<RungKind>(word);
            same::<Otherwise>(word);
            same::<DecisionVerdict>(word);
            same::<EventOutcome>(word);
        }
    }

    #[test]
    fn known_words_are_known() {
        assert_eq!(PolicyState::from("Fallback"), PolicyState::Fallback);
        assert_eq!(RungKind::from("redirect"), RungKind::Redirect);
        assert_eq!(Otherwise::from("refuse"), Otherwise::Refuse);
        assert_eq!(DecisionVerdict::from("untouched"), DecisionVerdict::Untouched);
        assert_eq!(EventOutcome::from("qosDrop"), EventOutcome::QosDrop);
    }

    #[test]
    fn a_long_word_is_cut_between_characters() {
        let long = "ä".repeat(100);
        assert_eq!(PolicyState::from(long.as_str()).to_string(), "ä".repeat(23));
    }
}
