//! The values of settings, and how they are written.

use std::{fmt, path::PathBuf, str::FromStr, time::Duration};

use tracing_subscriber::{EnvFilter, filter::LevelFilter};

/// Which Services the data path resolves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ServiceResolution {
    /// Every Service.
    #[default]
    All,
    /// Only what a policy names; the rest is left to whatever resolves Services on this node.
    Policies,
    /// None: only policies with an addressMatcher.
    Off,
}

impl FromStr for ServiceResolution {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        match s {
            "all" => Ok(Self::All),
            "policies" => Ok(Self::Policies),
            "off" => Ok(Self::Off),
            _ => Err("expected all, policies or off".to_owned()),
        }
    }
}

/// Shape of a line of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        match s {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err("expected json or text".to_owned()),
        }
    }
}

/// Where the agent API is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// A unix socket, mode 0600.
    Unix(PathBuf),
    /// A host (name or address, IPv6 without brackets) and a port; 0 takes any free one.
    Tcp(String, u16),
}

/// Longest path of a unix socket: `sun_path` without its closing zero (unix(7)).
const MAX_SOCKET_PATH: usize = 107;

impl FromStr for Listen {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        const EXPECTED: &str = "expected unix:PATH or tcp:HOST:PORT (IPv6 in brackets)";
        if let Some(path) = s.strip_prefix("unix:") {
            return match path.len() {
                0 => Err("the path is missing: expected unix:PATH".to_owned()),
                n if n > MAX_SOCKET_PATH => {
                    Err(format!("the path has {n} bytes, and a unix socket's may have {MAX_SOCKET_PATH}"))
                }
                _ => Ok(Self::Unix(path.into())),
            };
        }
        let rest = s.strip_prefix("tcp:").ok_or(EXPECTED)?;
        let (host, port) = rest.rsplit_once(':').ok_or(EXPECTED)?;
        let port = port.parse().map_err(|_| format!("{port:?} is no port"))?;
        let host = match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
            Some(v6) => {
                v6.parse::<std::net::Ipv6Addr>().map_err(|_| format!("{v6:?} is no IPv6 address"))?;
                v6
            }
            None if host.is_empty() => return Err("the host is missing: expected tcp:HOST:PORT".to_owned()),
            None if host.contains(':') => {
                return Err("write an IPv6 address in brackets: tcp:[::1]:5810".to_owned());
            }
            None => host,
        };
        Ok(Self::Tcp(host.to_owned(), port))
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(host, port) if host.contains(':') => write!(f, "tcp:[{host}]:{port}"),
            Self::Tcp(host, port) => write!(f, "tcp:{host}:{port}"),
        }
    }
}

/// A duration: `60s`, `1m30s`, `500ms`, `2h`, or `0`.
pub(super) fn duration(s: &str) -> Result<Duration, String> {
    const EXPECTED: &str = "expected a duration such as 60s, 1m30s or 0";
    if s == "0" {
        return Ok(Duration::ZERO);
    }
    let mut total = Duration::ZERO;
    let mut rest = s;
    if s.is_empty() {
        return Err(EXPECTED.to_owned());
    }
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit())
            .ok_or_else(|| format!("{rest:?} has no unit: {EXPECTED}"))?;
        let number: u64 = rest[..digits].parse().map_err(|_| EXPECTED.to_owned())?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let milliseconds: u64 = match &rest[..unit] {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            other => return Err(format!("unknown unit {other:?} (ms, s, m, h)")),
        };
        rest = &rest[unit..];
        total = number
            .checked_mul(milliseconds)
            .and_then(|n| total.checked_add(Duration::from_millis(n)))
            .ok_or_else(|| "too long".to_owned())?;
    }
    Ok(total)
}

/// The longest lease: the data path counts nanoseconds in 64 bits, and nobody means more than a year.
const MAX_LEASE: Duration = Duration::from_secs(365 * 24 * 3600);
/// The shortest lease: it is renewed once a second, and one late renewal must not end it.
const MIN_LEASE: Duration = Duration::from_secs(3);

/// A lease; 0 is for ever.
pub(super) fn lease(s: &str) -> Result<Option<Duration>, String> {
    match duration(s)? {
        Duration::ZERO => Ok(None),
        short if short < MIN_LEASE => {
            Err("the lease is renewed once a second, so it lasts at least 3s (0 is for ever)".to_owned())
        }
        long if long > MAX_LEASE => Err("longer than a year; 0 is for ever".to_owned()),
        lease => Ok(Some(lease)),
    }
}

/// The largest capacity of a map: more would not fit the kernel's arrays that are sized by it.
const MAX_ENTRIES: u32 = 1 << 22;

/// Capacity of a map.
pub(super) fn capacity(s: &str) -> Result<u32, String> {
    s.parse()
        .ok()
        .filter(|n| (1..=MAX_ENTRIES).contains(n))
        .ok_or_else(|| format!("expected a whole number from 1 to {MAX_ENTRIES}"))
}

/// Redirects a second.
pub(super) fn limit(s: &str) -> Result<u32, String> {
    s.parse().map_err(|_| format!("expected a whole number from 0 (no limit) to {}", u32::MAX))
}

/// A port that can be dialled.
pub(super) fn port(s: &str) -> Result<u16, String> {
    s.parse().ok().filter(|p| *p != 0).ok_or_else(|| "expected a port from 1 to 65535".to_owned())
}

/// `true` or `false`, as variables spell it.
pub(super) fn boolean(s: &str) -> Result<bool, String> {
    match s {
        "1" | "true" => Ok(true),
        "0" | "false" => Ok(false),
        _ => Err("expected true or false".to_owned()),
    }
}

/// A label of a DNS name (RFC 1123).
fn is_label(l: &str) -> bool {
    !l.is_empty()
        && l.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !l.starts_with('-')
        && !l.ends_with('-')
}

/// What Kubernetes allows as a name of most objects (a DNS subdomain, RFC 1123).
fn is_subdomain(s: &str) -> bool {
    s.len() <= 253 && s.split('.').all(is_label)
}

/// A name of a node.
pub(super) fn node_name(s: &str) -> Result<String, String> {
    if is_subdomain(s) {
        Ok(s.to_owned())
    } else {
        Err("a node's name consists of lower-case letters, digits, '-' and '.', as `kubectl get nodes` shows it".to_owned())
    }
}

/// A name of an object.
pub(super) fn object_name(s: &str) -> Result<String, String> {
    let expected = "a name consists of lower-case letters, digits, '-' and '.'";
    is_subdomain(s).then(|| s.to_owned()).ok_or_else(|| expected.to_owned())
}

/// A name of a namespace.
pub(super) fn namespace(s: &str) -> Result<String, String> {
    let expected = "a namespace's name consists of at most 63 lower-case letters, digits and '-'";
    (s.len() <= 63 && is_label(s)).then(|| s.to_owned()).ok_or_else(|| expected.to_owned())
}

/// A path.
pub(super) fn path(s: &str) -> Result<PathBuf, String> {
    if s.is_empty() { Err("the path is empty".to_owned()) } else { Ok(s.into()) }
}

/// A host: a name or an address, IPv6 with or without brackets.
pub(super) fn host(s: &str) -> Result<String, String> {
    let bare = s.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(s);
    let word =
        !bare.is_empty() && !bare.contains(|c: char| c.is_whitespace() || c == '/' || c == '[' || c == ']');
    let v6 = bare.parse::<std::net::Ipv6Addr>().is_ok();
    if word && (v6 || !bare.contains(':')) {
        Ok(bare.to_owned())
    } else {
        Err("expected a host name or an address, without scheme and port".to_owned())
    }
}

/// A filter of the log, as `RUST_LOG` spells it. A lone word has to be a level: as a target it would silence the rest.
pub(super) fn level(s: &str) -> Result<String, String> {
    const EXPECTED: &str = "expected a level (error, warn, info, debug, trace, off) or target=level,...";
    let word = |part: &&str| !part.is_empty() && !part.contains(['=', '[']);
    let mut words = s.split(',').map(str::trim).filter(word);
    if let Some(wrong) = words.find(|word| word.parse::<LevelFilter>().is_err()) {
        return Err(format!("{wrong:?} is no level; {EXPECTED}"));
    }
    EnvFilter::try_new(s).map(|_| s.to_owned()).map_err(|error| format!("{error}; {EXPECTED}"))
}
