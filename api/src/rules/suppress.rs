//! Findings that somebody has decided to live with.

use std::str::FromStr;

use serde_json::Value;

use super::{
    Located, Place, Severity,
    catalogue::{self, code},
    reader::{Fields, Report},
};
use crate::{
    manifest::quote,
    names::ANNOTATION_SUPPRESS,
    pattern,
    policy::{PolicyKind, PolicyRef},
};

/// The codes that an object's annotation keeps quiet, as far as such rules exist.
pub(super) fn codes(object: &Value) -> Vec<&'static str> {
    let written = object.pointer("/metadata/annotations").and_then(|a| a.get(ANNOTATION_SUPPRESS));
    words(written.and_then(Value::as_str).unwrap_or_default())
        .filter_map(catalogue::rule)
        .map(|r| r.code)
        .collect()
}

/// Report codes that do not exist.
pub(super) fn check(report: &mut Report, meta: &Fields<'_>) {
    let written = meta.get("annotations").and_then(|a| a.get(ANNOTATION_SUPPRESS)).and_then(Value::as_str);
    for word in words(written.unwrap_or_default()).filter(|w| catalogue::rule(w).is_none()) {
        let place = Place::value(meta.path.key("annotations").key(ANNOTATION_SUPPRESS));
        let message = format!("there is no rule {}, so nothing is suppressed", quote(word));
        let help =
            "write codes as BAL0203, separated by commas; kubectl balancing validate --list-rules shows all";
        report.add(code::SUPPRESSION, Severity::Warning, place, message, help);
    }
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| c == ',' || c.is_whitespace()).filter(|w| !w.is_empty())
}

/// A rule that is kept quiet, for all objects or some: `BAL0203`, `BAL0203=LocalRedirectPolicy/web`, `BAL0203=lr/*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suppression {
    code: &'static str,
    /// Kind and pattern of the name; `*` stands for any letters.
    object: Option<(PolicyKind, String)>,
}

/// The text is no [`Suppression`].
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseSuppressionError {
    /// No rule has this code.
    #[error("there is no rule {0:?}; `kubectl balancing validate --list-rules` shows all")]
    UnknownRule(String),
    /// Behind the `=` stands no `KIND/NAME`.
    #[error(
        "{0:?} is no KIND/NAME; KIND is LocalRedirectPolicy (lr) or BalancingPolicy (bl), NAME may hold *"
    )]
    Object(String),
}

impl FromStr for Suppression {
    type Err = ParseSuppressionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (written, object) =
            text.split_once('=').map_or((text, None), |(code, object)| (code, Some(object)));
        let rule = catalogue::rule(written.trim());
        let code = rule.ok_or_else(|| ParseSuppressionError::UnknownRule(written.to_owned()))?.code;
        let Some(object) = object else { return Ok(Self { code, object: None }) };
        let wrong = || ParseSuppressionError::Object(object.to_owned());
        let (kind, name) = object.split_once('/').filter(|(_, name)| !name.is_empty()).ok_or_else(wrong)?;
        let kinds = [PolicyKind::LocalRedirectPolicy, PolicyKind::BalancingPolicy];
        let is = |k: &PolicyKind| {
            kind.eq_ignore_ascii_case(k.as_str()) || kind.eq_ignore_ascii_case(k.short_name())
        };
        let kind = kinds.into_iter().find(is).ok_or_else(wrong)?;
        Ok(Self { code, object: Some((kind, name.to_owned())) })
    }
}

impl Suppression {
    /// Is it about this finding? What keeps a policy from being applied cannot be suppressed: see
    /// [`super::Finding::blocks`].
    #[must_use]
    pub fn concerns(&self, found: &Located) -> bool {
        self.code == found.finding.code
            && self.object.as_ref().is_none_or(|(kind, wanted)| {
                let (of, name) = found.object.split_once('/').unwrap_or((&found.object, ""));
                of == kind.as_str() && pattern::matches(wanted, name)
            })
    }
}

impl std::fmt::Display for Suppression {
    /// As it is parsed.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.object {
            None => f.write_str(self.code),
            Some((kind, name)) => write!(f, "{}={}", self.code, PolicyRef::new(*kind, name.as_str())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{manifest::parse, rules::check_files};

    #[test]
    fn texts() {
        let parse = |text: &str| text.parse::<Suppression>().map(|s| s.to_string());
        assert_eq!(parse("bal0203"), Ok("BAL0203".to_owned()));
        assert_eq!(parse("BAL0203=lr/web-*"), Ok("BAL0203=LocalRedirectPolicy/web-*".to_owned()));
        assert_eq!(parse("BAL9999"), Err(ParseSuppressionError::UnknownRule("BAL9999".to_owned())));
        for wrong in ["BAL0203=", "BAL0203=web", "BAL0203=lr/", "BAL0203=Pod/x"] {
            assert!(matches!(parse(wrong), Err(ParseSuppressionError::Object(_))), "{wrong}");
        }
    }

    /// The wrong example of a rule with an annotation that suppresses it.
    fn annotated(code: &str) -> String {
        let bad = catalogue::rule(code).unwrap().bad.text();
        let last = bad.rfind("\nmetadata:\n").unwrap() + "\nmetadata:\n".len();
        format!("{}  annotations:\n    {ANNOTATION_SUPPRESS}: {code}\n{}", &bad[..last], &bad[last..])
    }

    #[test]
    fn annotations_keep_what_does_not_block_quiet() {
        for code in ["BAL0002", "BAL0107", "BAL0201", "BAL0302", "BAL0306", "BAL0402"] {
            let bad = check_files(&[parse(&catalogue::rule(code).unwrap().bad.text())]);
            let kept = bad.findings.iter().filter(|f| f.finding.blocks).count();
            let examined = check_files(&[parse(&annotated(code))]);
            assert_eq!(examined.findings.len(), kept, "{code}: {:?}", examined.findings);
            assert_eq!(examined.suppressed, bad.findings.len() - kept, "{code}");
        }
        let blocked = check_files(&[parse(&annotated("BAL0102"))]);
        assert_eq!((blocked.findings.len(), blocked.suppressed), (1, 0));
    }
}
