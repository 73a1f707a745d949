//! What a viewer asks for.

use balancing_api::{
    agent::ErrorDetail,
    policy::{PolicyKind, PolicyRef},
    stream::{DEFAULT_INTERVAL, DEFAULT_LIMIT, LARGEST_LIMIT, SHORTEST_INTERVAL},
};

/// The longest interval.
const LONGEST_INTERVAL: u64 = 60_000;

/// The query of `GET /v1/observe`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Query {
    /// Milliseconds between two frames.
    pub(super) interval: u64,
    /// Nodes that are told one by one.
    pub(super) limit: usize,
    /// This node alone.
    pub(super) node: Option<String>,
    /// This policy alone.
    pub(super) policy: Option<PolicyRef>,
}

impl Default for Query {
    fn default() -> Self {
        Self { interval: DEFAULT_INTERVAL, limit: DEFAULT_LIMIT, node: None, policy: None }
    }
}

fn invalid(field: &str, message: String) -> ErrorDetail {
    ErrorDetail { code: "InvalidField".to_owned(), field: field.to_owned(), message }
}

impl Query {
    /// Reads the pairs of a query. An interval or a limit beyond what is allowed becomes the nearest that is.
    pub(super) fn from_pairs(pairs: &[(String, String)]) -> Result<Self, ErrorDetail> {
        let mut query = Self::default();
        for (name, value) in pairs {
            match name.as_str() {
                "interval" => query.interval = interval(value)?.clamp(SHORTEST_INTERVAL, LONGEST_INTERVAL),
                "limit" => {
                    let limit: usize = value
                        .parse()
                        .map_err(|_| invalid("limit", format!("{value:?}: expected a number of nodes")))?;
                    query.limit = limit.clamp(1, LARGEST_LIMIT);
                }
                "node" => query.node = Some(value.clone()),
                "policy" => query.policy = Some(policy(value)?),
                _ => {
                    let message = "unknown parameter; there are interval, limit, node, policy".to_owned();
                    return Err(invalid(name, message));
                }
            }
        }
        Ok(query)
    }
}

/// `2s`, `1500ms`
fn interval(text: &str) -> Result<u64, ErrorDetail> {
    let number = |digits: &str, unit: u64| digits.parse::<u64>().ok()?.checked_mul(unit);
    match (text.strip_suffix("ms"), text.strip_suffix('s')) {
        (Some(digits), _) => number(digits, 1),
        (None, Some(digits)) => number(digits, 1000),
        (None, None) => None,
    }
    .ok_or_else(|| invalid("interval", format!("{text:?}: expected a duration such as 2s or 1500ms")))
}

fn policy(text: &str) -> Result<PolicyRef, ErrorDetail> {
    let found = text.split_once('/').and_then(|(kind, name)| {
        let kind = [PolicyKind::LocalRedirectPolicy, PolicyKind::BalancingPolicy]
            .into_iter()
            .find(|k| k.as_str() == kind)?;
        (!name.is_empty()).then(|| PolicyRef::new(kind, name))
    });
    found.ok_or_else(|| {
        invalid("policy", format!("{text:?}: expected LocalRedirectPolicy/NAME or BalancingPolicy/NAME"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Query, String> {
        let pairs: Vec<_> = pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        Query::from_pairs(&pairs).map_err(|e| e.field)
    }

    #[test]
    fn queries() {
        assert_eq!(read(&[]), Ok(Query::default()));
        let all =
            read(&[("interval", "5s"), ("limit", "7"), ("node", "n1"), ("policy", "BalancingPolicy/x")]);
        let policy = Some(PolicyRef::new(PolicyKind::BalancingPolicy, "x"));
        assert_eq!(all, Ok(Query { interval: 5000, limit: 7, node: Some("n1".to_owned()), policy }));
        let clamped = |pairs: &[(&str, &str)]| read(pairs).map(|q| (q.interval, q.limit));
        assert_eq!(clamped(&[("interval", "1ms"), ("limit", "0")]), Ok((1000, 1)));
        assert_eq!(clamped(&[("interval", "9000s"), ("limit", "9000")]), Ok((60_000, 500)));
        for (name, value) in [
            ("interval", "soon"),
            ("interval", "s"),
            ("interval", "18446744073709551615s"),
            ("limit", "-1"),
            ("policy", "x"),
            ("policy", "Pod/x"),
            ("policy", "BalancingPolicy/"),
            ("colour", "red"),
        ] {
            assert_eq!(read(&[(name, value)]), Err(name.to_owned()), "{value}");
        }
    }
}
