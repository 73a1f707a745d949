//! Which events are shown: `--policy x --not --outcome service ...`.
//!
//! Filters of one kind are alternatives, filters of different kinds must all hold, and what a filter behind `--not` is
//! about is left out.

use std::net::IpAddr;

use balancing_api::{agent::Event, net::Protocol, pattern, policy::PolicyKind};
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches, error::ErrorKind, value_parser};

use crate::{explain::policy::kind_of, text::percent_encoded};

/// What an event is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Test {
    Policy(Option<PolicyKind>, String),
    Outcome(String),
    To(IpAddr, Option<u16>, Option<Protocol>),
    Pod(String),
    Service(String),
    Process(String),
}

impl Test {
    fn holds(&self, event: &Event) -> bool {
        let text = |wanted: &str, is: Option<&str>| is.is_some_and(|is| pattern::matches(wanted, is));
        match self {
            Self::Policy(kind, name) => event
                .policy
                .as_ref()
                .is_some_and(|p| kind.is_none_or(|k| k == p.kind) && pattern::matches(name, &p.name)),
            Self::Outcome(wanted) => event.outcome.as_str().eq_ignore_ascii_case(wanted),
            Self::To(address, port, protocol) => {
                event.to.address == *address
                    && port.is_none_or(|p| p == event.to.port)
                    && protocol.is_none_or(|p| p == event.to.protocol)
            }
            Self::Pod(wanted) => text(wanted, event.pod.as_deref()),
            Self::Service(wanted) => text(wanted, event.service.as_deref()),
            Self::Process(wanted) => text(wanted, Some(&event.process.comm)),
        }
    }

    /// The same as a parameter of `/v1/events`, and whether that is as strict.
    fn pushed(&self) -> Option<(&'static str, String, bool)> {
        match self {
            Self::Policy(_, name) if name.contains('*') => None,
            Self::Policy(None, name) => Some(("policy", name.clone(), true)),
            Self::Policy(Some(kind), name) => Some(("policy", format!("{kind}/{name}"), true)),
            // Agents refuse words they do not know, and spell these so.
            Self::Outcome(wanted) => {
                let known = OUTCOMES.iter().find(|(o, _)| o.eq_ignore_ascii_case(wanted));
                known.map(|(o, _)| ("outcome", (*o).to_owned(), true))
            }
            Self::To(address, Some(port), protocol) => {
                let to = std::net::SocketAddr::new(*address, *port).to_string();
                Some(("to", to, protocol.is_none()))
            }
            Self::To(..) | Self::Pod(_) | Self::Service(_) | Self::Process(_) => None,
        }
    }
}

/// What an event may report, in words.
pub const OUTCOMES: &[(&str, &str)] = &[
    ("redirect", "sent to a local pod by a LocalRedirectPolicy"),
    ("balance", "sent to a backend of a BalancingPolicy"),
    ("service", "sent to an endpoint of the Service"),
    ("qosDrop", "not redirected because the limit was reached; it went on down the ladder"),
    ("fallback", "not redirected for another reason; it went on down the ladder"),
    ("refuse", "the client got an error"),
    ("failure", "the translation could not be recorded"),
];

/// A kind of filter: its flag, what stands for its value, its help, and how its value is read.
struct Kind {
    flag: &'static str,
    value: &'static str,
    help: &'static str,
    parse: fn(&str) -> Result<Test, String>,
}

const KINDS: &[Kind] = &[
    Kind {
        flag: "policy",
        value: "NAME",
        help: "Decisions about frontends of this policy: NAME, lr/NAME or bl/NAME",
        parse: |text| {
            let (kind, name) = match text.split_once('/') {
                None => (None, text),
                Some((kind, name)) => (Some(kind_of(kind)?), name),
            };
            if name.is_empty() {
                Err("the name is missing".to_owned())
            } else {
                Ok(Test::Policy(kind, name.to_owned()))
            }
        },
    },
    Kind {
        flag: "outcome",
        value: "OUTCOME",
        help: "Decisions of this outcome: redirect, balance, service, qosDrop, fallback, refuse or failure",
        parse: outcome,
    },
    Kind {
        flag: "to",
        value: "ADDRESS[:PORT][/tcp|udp]",
        help: "Decisions about calls to this address; IPv6 with a port in brackets",
        parse: to,
    },
    Kind {
        flag: "from-pod",
        value: "NAMESPACE/NAME",
        help: "Decisions about calls of processes in this pod",
        parse: |text| namespaced(text).map(Test::Pod),
    },
    Kind {
        flag: "service",
        value: "NAMESPACE/NAME",
        help: "Decisions about frontends of this Service",
        parse: |text| namespaced(text).map(Test::Service),
    },
    Kind {
        flag: "process",
        value: "NAME",
        help: "Decisions about calls of processes of this name",
        parse: |text| Ok(Test::Process(text.to_owned())),
    },
];

fn outcome(text: &str) -> Result<Test, String> {
    let known: Vec<&str> = OUTCOMES.iter().map(|(o, _)| *o).collect();
    match known.iter().find(|o| o.eq_ignore_ascii_case(text)) {
        Some(outcome) => Ok(Test::Outcome((*outcome).to_owned())),
        None => Err(format!("it is none of {}", known.join(", "))),
    }
}

fn to(text: &str) -> Result<Test, String> {
    let (address, protocol) = match text.rsplit_once('/') {
        Some((address, protocol)) => (address, Some(protocol.parse().map_err(|e| format!("{e}"))?)),
        None => (text, None),
    };
    let test = |ip: IpAddr, port| Test::To(ip.to_canonical(), port, protocol);
    if let Ok(socket) = address.parse::<std::net::SocketAddr>() {
        return Ok(test(socket.ip(), Some(socket.port())));
    }
    let bare = address.strip_prefix('[').and_then(|a| a.strip_suffix(']')).unwrap_or(address);
    match bare.parse() {
        Ok(ip) => Ok(test(ip, None)),
        Err(_) => Err("expected ADDRESS[:PORT][/tcp|udp]; for a Service use --service".to_owned()),
    }
}

fn namespaced(text: &str) -> Result<String, String> {
    match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() => Ok(text.to_owned()),
        _ => Err("expected NAMESPACE/NAME; * stands for any letters, as in default/*".to_owned()),
    }
}

/// The filters of a command line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filters {
    /// By kind: those to show, and those to leave out.
    kinds: Vec<(Vec<Test>, Vec<Test>)>,
}

impl Filters {
    /// Is this event shown?
    #[must_use]
    pub fn wants(&self, event: &Event) -> bool {
        self.kinds.iter().all(|(wanted, unwanted)| {
            (wanted.is_empty() || wanted.iter().any(|t| t.holds(event)))
                && !unwanted.iter().any(|t| t.holds(event))
        })
    }

    /// The policies that are asked for by their whole names.
    pub fn policies(&self) -> impl Iterator<Item = (Option<PolicyKind>, &str)> {
        self.kinds.iter().flat_map(|(wanted, _)| wanted).filter_map(|test| match test {
            Test::Policy(kind, name) if !name.contains('*') => Some((*kind, name.as_str())),
            _ => None,
        })
    }

    /// Is any asked for?
    #[must_use]
    pub fn names_policies(&self) -> bool {
        self.policies().next().is_some()
    }

    /// What of it the agent can do: parameters of `/v1/events`, and whether they are all of it.
    #[must_use]
    pub fn pushed(&self) -> (Vec<(&'static str, String)>, bool) {
        let (mut parameters, mut all) = (Vec::new(), true);
        for (wanted, unwanted) in &self.kinds {
            all &= unwanted.is_empty();
            match wanted.as_slice() {
                [] => {}
                [one] => match one.pushed() {
                    Some((name, value, strict)) => {
                        parameters.push((name, percent_encoded(&value)));
                        all &= strict;
                    }
                    None => all = false,
                },
                _ => all = false,
            }
        }
        (parameters, all)
    }
}

impl FromArgMatches for Filters {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        // A flag and its value each have an index: the `--not` of a value stands two in front of it.
        let mut negations: Vec<usize> = matches.indices_of("not").into_iter().flatten().collect();
        let mut filters = Self::default();
        for kind in KINDS {
            let (mut wanted, mut unwanted) = (Vec::new(), Vec::new());
            let values = matches.get_many::<Test>(kind.flag).into_iter().flatten();
            for (test, index) in values.zip(matches.indices_of(kind.flag).into_iter().flatten()) {
                let negated = negations.iter().position(|n| n + 2 == index);
                match negated.map(|n| negations.remove(n)) {
                    Some(_) => unwanted.push(test.clone()),
                    None => wanted.push(test.clone()),
                }
            }
            filters.kinds.push((wanted, unwanted));
        }
        if negations.is_empty() {
            return Ok(filters);
        }
        let flags: Vec<String> = KINDS.iter().map(|k| format!("--{}", k.flag)).collect();
        let message = format!(
            "--not leaves out what the filter behind it is about, and none is there; filters are {}\n",
            flags.join(", ")
        );
        Err(clap::Error::raw(ErrorKind::MissingRequiredArgument, message))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for Filters {
    fn augment_args(command: Command) -> Command {
        let not = Arg::new("not")
            .long("not")
            .action(ArgAction::Append)
            .num_args(0)
            .default_missing_value("true")
            .value_parser(value_parser!(bool))
            .help("Leave out what the next filter is about: --not --outcome service");
        KINDS
            .iter()
            .fold(command, |command, kind| {
                command.arg(
                    Arg::new(kind.flag)
                        .long(kind.flag)
                        .value_name(kind.value)
                        .help(kind.help)
                        .help_heading("Filters")
                        .action(ArgAction::Append)
                        .value_parser(kind.parse),
                )
            })
            .arg(not.help_heading("Filters"))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::trace::tests::{event, events};

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        filters: Filters,
        #[arg(long)]
        other: Option<String>,
    }

    fn filters(line: &[&str]) -> Filters {
        Line::try_parse_from(std::iter::once(&"trace").chain(line)).unwrap().filters
    }

    /// Which of the events are shown, by their process ids.
    fn shown(line: &[&str]) -> Vec<u32> {
        let filters = filters(line);
        events().iter().filter(|e| filters.wants(e)).map(|e| e.process.pid).collect()
    }

    #[test]
    fn filters_of_a_kind_are_alternatives_and_kinds_must_all_hold() {
        assert_eq!(shown(&[]), [1, 2, 3, 4]);
        assert_eq!(shown(&["--policy", "node-local-dns"]), [1, 2]);
        assert_eq!(shown(&["--policy", "lr/node-*", "--outcome", "qosdrop"]), [2]);
        assert_eq!(shown(&["--outcome", "qosDrop", "--outcome=refuse"]), [2, 4]);
        assert_eq!(shown(&["--policy", "bl/node-local-dns"]), [0_u32; 0]);
        assert_eq!(shown(&["--to", "10.96.0.10"]), [1, 2]);
        assert_eq!(shown(&["--to", "10.96.0.10:53/tcp"]), [2]);
        assert_eq!(shown(&["--to", "[fd00:96::7]:443", "--to", "[fd00:96::1]"]), [3]);
        assert_eq!(shown(&["--from-pod", "default/*"]), [1, 3]);
        assert_eq!(shown(&["--service", "web/gateway", "--process", "cu*"]), [3]);
    }

    #[test]
    fn not_is_about_the_next_filter_alone() {
        assert_eq!(shown(&["--not", "--policy", "node-local-dns"]), [3, 4]);
        assert_eq!(shown(&["--not", "--policy=node-local-dns", "--outcome", "refuse"]), [4]);
        assert_eq!(shown(&["--outcome", "refuse", "--not", "--from-pod", "default/*"]), [4]);
        assert_eq!(shown(&["--other", "x", "--not", "--to", "10.96.0.10", "--to", "[fd00:96::7]:443"]), [3]);
        assert_eq!(shown(&["--not", "--outcome", "refuse", "--not", "--outcome", "redirect"]), [2, 3]);
        for wrong in [&["--not"][..], &["--not", "--other", "x"], &["--not", "--not", "--policy", "x"]] {
            let error = Line::try_parse_from(std::iter::once(&"trace").chain(wrong)).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{wrong:?}");
            assert!(error.to_string().contains("--not leaves out"), "{error}");
        }
    }

    #[test]
    fn values_that_are_none() {
        for wrong in [
            ["--outcome", "drop"],
            ["--to", "kube-dns:53"],
            ["--to", "10.0.0.1:53/sctp"],
            ["--from-pod", "web"],
            ["--policy", "pod/x"],
            ["--policy", "lr/"],
        ] {
            assert!(Line::try_parse_from(["trace"].iter().chain(&wrong)).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn what_the_agent_can_do_is_left_to_it() {
        let pushed = |line: &[&str]| {
            let (parameters, all) = filters(line).pushed();
            let parameters: Vec<String> = parameters.iter().map(|(n, v)| format!("{n}={v}")).collect();
            (parameters.join("&"), all)
        };
        assert_eq!(pushed(&[]), (String::new(), true));
        assert_eq!(
            pushed(&["--policy", "lr/a&b", "--outcome", "QOSDROP", "--to", "[fd00::1]:53"]),
            ("policy=LocalRedirectPolicy/a%26b&outcome=qosDrop&to=%5Bfd00%3A%3A1%5D%3A53".to_owned(), true)
        );
        assert_eq!(pushed(&["--to", "10.0.0.1:53/udp"]), ("to=10.0.0.1%3A53".to_owned(), false));
        for more in [
            &["--policy", "a", "--policy", "b"][..],
            &["--policy", "a*"],
            &["--to", "10.0.0.1"],
            &["--from-pod", "a/b"],
            &["--not", "--policy", "a"],
        ] {
            assert_eq!(pushed(more), (String::new(), false), "{more:?}");
        }
    }

    #[test]
    fn an_event_without_a_pod_is_of_no_pod() {
        let mut host = event(9);
        host.pod = None;
        assert!(!filters(&["--from-pod", "*/*"]).wants(&host));
        assert!(filters(&["--not", "--from-pod", "*/*"]).wants(&host));
    }
}
