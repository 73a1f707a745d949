//! What a listener asks for: the query of `GET /v1/events`.

use std::net::SocketAddr;

use balancing_api::agent::{Event, EventOutcome};

/// Which events a listener wants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Name of the policy, or `Kind/name`.
    pub policy: Option<String>,
    /// What happened.
    pub outcome: Option<EventOutcome>,
    /// What was dialled.
    pub to: Option<SocketAddr>,
}

impl Filter {
    /// Does the listener want this event?
    #[must_use]
    pub fn wants(&self, event: &Event) -> bool {
        let policy = |wanted: &String| {
            event.policy.as_ref().is_some_and(|p| match wanted.split_once('/') {
                Some((kind, name)) => kind == p.kind.as_str() && name == p.name,
                None => *wanted == p.name,
            })
        };
        self.policy.as_ref().is_none_or(policy)
            && self.outcome.is_none_or(|wanted| wanted == event.outcome)
            && self.to.is_none_or(|to| to.ip() == event.to.address && to.port() == event.to.port)
    }
}

/// The whole query.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query {
    /// Wait for events that are to come, instead of listing the last ones.
    pub follow: bool,
    /// End after this many events.
    pub limit: Option<u64>,
    /// Events a second at the most; what exceeds it is counted as lost.
    pub rate: Option<u32>,
    /// Which events.
    pub filter: Filter,
}

/// A parameter of the query is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct FilterError {
    /// Name of the parameter.
    pub parameter: String,
    /// What is wrong.
    pub message: String,
}

/// Names of the outcomes, as documents spell them.
const OUTCOMES: [(&str, EventOutcome); 7] = [
    ("redirect", EventOutcome::Redirect),
    ("balance", EventOutcome::Balance),
    ("service", EventOutcome::Service),
    ("qosDrop", EventOutcome::QosDrop),
    ("fallback", EventOutcome::Fallback),
    ("refuse", EventOutcome::Refuse),
    ("failure", EventOutcome::Failure),
];

impl Query {
    /// Reads the decoded pairs of the query.
    ///
    /// # Errors
    /// A parameter that is unknown, comes twice, or has no valid value: a filter that is not understood must not show
    /// everything.
    pub fn from_pairs<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self, FilterError> {
        let mut query = Self::default();
        let mut seen: Vec<&str> = Vec::new();
        for (name, value) in pairs {
            let error = |message: &str| FilterError {
                parameter: name.to_owned(),
                message: format!("{value:?}: {message}"),
            };
            if seen.contains(&name) {
                return Err(error("given twice"));
            }
            seen.push(name);
            match name {
                "follow" => {
                    query.follow = match value {
                        "true" | "1" | "" => true,
                        "false" | "0" => false,
                        _ => return Err(error("expected true or false")),
                    }
                }
                "limit" => query.limit = Some(value.parse().map_err(|_| error("expected a whole number"))?),
                "rate" => {
                    let rate = value.parse().ok().filter(|n| *n > 0);
                    query.rate = Some(rate.ok_or_else(|| error("expected a whole number above 0"))?);
                }
                "policy" if value.is_empty() => return Err(error("expected the name of a policy")),
                "policy" => query.filter.policy = Some(value.to_owned()),
                "outcome" => {
                    let known = OUTCOMES.iter().find(|(name, _)| *name == value);
                    let (_, outcome) = known.ok_or_else(|| {
                        error("expected redirect, balance, service, qosDrop, fallback, refuse or failure")
                    })?;
                    query.filter.outcome = Some(*outcome);
                }
                "to" => {
                    let to: SocketAddr = value
                        .parse()
                        .map_err(|_| error("expected ADDRESS:PORT, an IPv6 address in brackets"))?;
                    query.filter.to = Some(SocketAddr::new(to.ip().to_canonical(), to.port()));
                }
                _ => {
                    let message = "unknown parameter; there are follow, policy, outcome, to, limit and rate";
                    return Err(FilterError { parameter: name.to_owned(), message: message.to_owned() });
                }
            }
        }
        Ok(query)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries() {
        let query = |pairs: &[(&str, &str)]| Query::from_pairs(pairs.iter().copied()).unwrap();
        assert_eq!(query(&[]), Query::default());
        let all = [
            ("follow", "true"),
            ("policy", "LocalRedirectPolicy/x"),
            ("outcome", "qosDrop"),
            ("to", "[::ffff:10.0.0.1]:53"),
            ("limit", "0"),
            ("rate", "10"),
        ];
        let filter = Filter {
            policy: Some("LocalRedirectPolicy/x".to_owned()),
            outcome: Some(EventOutcome::QosDrop),
            to: Some("10.0.0.1:53".parse().unwrap()),
        };
        assert_eq!(query(&all), Query { follow: true, limit: Some(0), rate: Some(10), filter });
        assert!(!query(&[("follow", "false")]).follow);
        let error = Query::from_pairs([("to", "10.0.0.1")]).unwrap_err();
        assert_eq!(error.to_string(), "\"10.0.0.1\": expected ADDRESS:PORT, an IPv6 address in brackets");
    }

    #[test]
    fn outcomes_are_spelled_as_in_documents() {
        for (name, outcome) in OUTCOMES {
            assert_eq!(serde_json::to_value(outcome).unwrap(), name);
        }
    }
}
