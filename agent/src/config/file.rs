//! The configuration file: a flat mapping of settings, each with the line it stands on.

use std::path::{Path, PathBuf};

use saphyr_parser::{Event, Parser, ScalarStyle, Span};

use super::{ConfigError, flags::SETTINGS};

/// A key of the file and its values.
pub(super) struct Entry {
    pub(super) setting: &'static str,
    pub(super) key: String,
    /// 1-based.
    pub(super) line: usize,
    pub(super) texts: Vec<String>,
}

/// A configuration file.
pub(super) struct File {
    pub(super) path: PathBuf,
    pub(super) entries: Vec<Entry>,
}

/// The key of a setting: `policy-lease` is `policyLease`.
pub(super) fn key_of(setting: &str) -> String {
    let mut words = setting.split('-');
    let mut key = words.next().unwrap_or_default().to_owned();
    for word in words {
        let mut letters = word.chars();
        key.extend(letters.next().map(|c| c.to_ascii_uppercase()));
        key.push_str(letters.as_str());
    }
    key
}

struct Reader<'i> {
    path: PathBuf,
    parser: Parser<'i, saphyr_parser::StrInput<'i>>,
}

impl<'i> Reader<'i> {
    fn next(&mut self) -> Result<(Event<'i>, usize), ConfigError> {
        match self.parser.next_event() {
            Some(Ok((event, Span { start, .. }))) => Ok((event, start.line())),
            Some(Err(error)) => Err(self.error(error.marker().line(), format!("not YAML: {}", error.info()))),
            None => Ok((Event::StreamEnd, 0)),
        }
    }

    fn error(&self, line: usize, message: impl Into<String>) -> ConfigError {
        ConfigError::File { path: self.path.clone(), line, message: message.into() }
    }

    fn values(&mut self, key: &str) -> Result<Vec<String>, ConfigError> {
        let list = |name| if name == "api" { "a text or a list of texts" } else { "a single value" };
        match self.next()? {
            (Event::Scalar(text, style, ..), line) => {
                if style == ScalarStyle::Plain && matches!(&*text, "" | "~" | "null") {
                    return Err(self.error(line, format!("{key} has no value")));
                }
                Ok(vec![text.into_owned()])
            }
            (Event::SequenceStart(..), line) if key == "api" => {
                let mut texts = Vec::new();
                loop {
                    match self.next()? {
                        (Event::Scalar(text, ..), _) => texts.push(text.into_owned()),
                        (Event::SequenceEnd, _) if texts.is_empty() => {
                            return Err(self.error(line, format!("{key} has no value")));
                        }
                        (Event::SequenceEnd, _) => return Ok(texts),
                        (_, line) => return Err(self.error(line, format!("{key}: expected {}", list(key)))),
                    }
                }
            }
            (_, line) => Err(self.error(line, format!("{key}: expected {}", list(key)))),
        }
    }
}

/// Reads the text of a configuration file. An empty file is one without settings.
pub(super) fn parse(path: &Path, text: &str) -> Result<File, ConfigError> {
    let mut reader = Reader { path: path.to_owned(), parser: Parser::new_from_str(text) };
    let mut entries: Vec<Entry> = Vec::new();
    loop {
        match reader.next()? {
            (Event::StreamStart | Event::DocumentStart(_), _) => {}
            (Event::StreamEnd, _) => return Ok(File { path: reader.path, entries }),
            (Event::Scalar(text, ScalarStyle::Plain, ..), _) if matches!(&*text, "" | "~" | "null") => {}
            (Event::DocumentEnd, _) => {}
            (Event::MappingStart(..), _) if entries.is_empty() => mapping(&mut reader, &mut entries)?,
            (Event::MappingStart(..), line) => {
                return Err(reader.error(line, "a second document: one is expected"));
            }
            (_, line) => {
                return Err(reader.error(line, "expected a mapping of settings, such as `nodeName: n1`"));
            }
        }
    }
}

fn mapping(reader: &mut Reader<'_>, entries: &mut Vec<Entry>) -> Result<(), ConfigError> {
    loop {
        let (key, line) = match reader.next()? {
            (Event::Scalar(key, ..), line) => (key.into_owned(), line),
            (Event::MappingEnd, _) => return Ok(()),
            (_, line) => return Err(reader.error(line, "expected the name of a setting")),
        };
        let Some(setting) = SETTINGS.into_iter().find(|s| key_of(s) == key) else {
            let hint = SETTINGS.into_iter().find(|s| similar(s, &key));
            return Err(ConfigError::UnknownKey {
                path: reader.path.clone(),
                line,
                key,
                hint: hint.map(key_of),
            });
        };
        if let Some(first) = entries.iter().find(|e| e.setting == setting) {
            return Err(reader.error(line, format!("{key} is set twice, first on line {}", first.line)));
        }
        let texts = reader.values(&key)?;
        entries.push(Entry { setting, key, line, texts });
    }
}

/// Is the key the setting in another spelling (`policy-lease`, `PolicyLease`, `policy_lease`)?
fn similar(setting: &str, key: &str) -> bool {
    let letters = |s: &str| -> String {
        s.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
    };
    letters(setting) == letters(key)
}
