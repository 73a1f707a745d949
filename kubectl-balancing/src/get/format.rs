//! `-o` of `get`: what every list has, and kubectl's `custom-columns=HEADER:PATH,...`.

use std::{ffi::OsStr, str::FromStr};

use clap::{
    Arg, Command, ValueEnum,
    builder::{EnumValueParser, PossibleValue, TypedValueParser},
    error::ErrorKind,
};
use jsonpath_rust::{
    parser::{model::JpQuery, parse_json_path},
    query::js_path_process,
};
use serde::Serialize;
use serde_json::Value;

use crate::{
    output::Listing,
    text::{NONE, sanitise},
};

/// What begins a list of columns.
const CUSTOM: &str = "custom-columns=";

/// `-o` of `get`.
#[derive(Clone, Debug)]
pub enum Format {
    /// What every list has.
    Listing(Listing),
    /// Columns that the command line names.
    Custom(CustomColumns),
}

impl Default for Format {
    fn default() -> Self {
        Self::Listing(Listing::default())
    }
}

impl Format {
    /// Is it that?
    #[must_use]
    pub fn is(&self, listing: Listing) -> bool {
        matches!(self, Self::Listing(l) if *l == listing)
    }

    /// Is it a document, which says by itself that it is empty?
    #[must_use]
    pub fn is_document(&self) -> bool {
        matches!(self, Self::Listing(Listing::Json | Listing::Jsonl | Listing::Yaml))
    }
}

/// Columns that the command line names.
#[derive(Clone, Debug)]
pub struct CustomColumns(Vec<(String, JpQuery)>);

impl FromStr for CustomColumns {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let column = |part: &str| {
            let (header, path) = part
                .split_once(':')
                .filter(|(header, path)| !header.is_empty() && !path.is_empty())
                .ok_or_else(|| format!("{part:?} is not HEADER:PATH, as in STATE:.state"))?;
            let bare = path.trim().trim_start_matches('{').trim_end_matches('}').trim_start_matches('$');
            let dot = if bare.starts_with(['.', '[']) { "" } else { "." };
            let query = parse_json_path(&format!("${dot}{bare}"));
            let query = query
                .map_err(|_| format!("{path:?} is no path into a row, as .state or .backends.wanted"))?;
            Ok((header.trim().to_owned(), query))
        };
        text.split(',').map(column).collect::<Result<_, String>>().map(Self)
    }
}

impl CustomColumns {
    /// Their headers.
    #[must_use]
    pub fn headers(&self) -> Vec<String> {
        self.0.iter().map(|(header, _)| header.clone()).collect()
    }

    /// The cells of a row, as its document has them.
    ///
    /// # Errors
    /// The row is no document.
    pub fn cells<R: Serialize>(&self, row: &R) -> Result<Vec<String>, serde_json::Error> {
        let row = serde_json::to_value(row)?;
        let cell = |query: &JpQuery| {
            let found = js_path_process(query, &row).unwrap_or_default();
            let found: Vec<String> = found.into_iter().map(|f| shown(f.val())).collect();
            if found.is_empty() { NONE.to_owned() } else { sanitise(&found.join(",")).into_owned() }
        };
        Ok(self.0.iter().map(|(_, query)| cell(query)).collect())
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::Null => NONE.to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Reads `-o`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Formats;

impl TypedValueParser for Formats {
    type Value = Format;

    fn parse_ref(&self, cmd: &Command, arg: Option<&Arg>, value: &OsStr) -> Result<Format, clap::Error> {
        let text = value.to_str().unwrap_or_default();
        let wrong = |message: String| {
            clap::Error::raw(
                ErrorKind::ValueValidation,
                format!("invalid value {text:?} for '--output': {message}\n"),
            )
            .with_cmd(cmd)
        };
        if let Some(columns) = text.strip_prefix(CUSTOM) {
            return columns.parse().map(Format::Custom).map_err(wrong);
        }
        if ["jsonpath", "go-template"].iter().any(|of_kubectl| text.starts_with(of_kubectl)) {
            return Err(wrong(
                "of the objects themselves kubectl prints that, as in `kubectl get lr -o jsonpath=...`; here use \
                 -o custom-columns=NAME:.name,STATE:.state, or -o json and jq"
                    .to_owned(),
            ));
        }
        EnumValueParser::<Listing>::new().parse_ref(cmd, arg, value).map(Format::Listing)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        let known = Listing::value_variants().iter().filter_map(ValueEnum::to_possible_value);
        let custom =
            PossibleValue::new(CUSTOM).help("HEADER:PATH,... with paths into what -o json has of a row");
        Some(Box::new(known.chain([custom])))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn cells(columns: &str) -> Vec<String> {
        let row = json!({
            "name": "dns", "state": "Programmed", "reason": null, "backends": {"wanted": 2, "programmed": 1},
            "frontends": [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}], "evil": "\u{1b}[2J",
        });
        columns.parse::<CustomColumns>().unwrap().cells(&row).unwrap()
    }

    #[test]
    fn cells_are_what_paths_find() {
        assert_eq!(
            cells("NAME:.name,S:{.state},N:.backends.wanted,R:.reason,X:.nothing,B:backends"),
            ["dns", "Programmed", "2", "<none>", "<none>", r#"{"wanted":2,"programmed":1}"#]
        );
        assert_eq!(cells("P:.frontends[*].protocol,F:.frontends[0].port,A:$.name"), ["UDP,TCP", "53", "dns"]);
        assert!(!cells("E:.evil")[0].contains('\u{1b}'));
        assert_eq!("A:.a,B:.b".parse::<CustomColumns>().unwrap().headers(), ["A", "B"]);
    }

    #[test]
    fn what_is_no_column_is_told() {
        for wrong in ["", "NAME", "NAME:", ":.name", "NAME:.name,", "NAME:.na[me"] {
            assert!(wrong.parse::<CustomColumns>().is_err(), "{wrong:?}");
        }
    }
}
