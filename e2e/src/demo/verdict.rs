//! What must be true: who answers, what the counters say, what the plugin explains.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Result, bail};
use balancing_api::cli::{PolicyTopItem, Top};
use serde_json::Value;

use super::say;
use crate::protocol::{Answered, Steady, TrafficKind};

/// A policy of the examples.
pub(super) struct Policy {
    /// Its name.
    pub(super) name: &'static str,
    /// Its address and ports.
    address: [u8; 4],
    ports: &'static [u16],
    protocols: &'static [&'static str],
    /// Who answers when it redirects, and who when it does not.
    local: &'static str,
    next: &'static str,
}

/// The policies of the examples.
pub(super) const POLICIES: &[Policy] = &[
    Policy {
        name: "node-local-dns",
        address: [10, 96, 0, 10],
        ports: &[53],
        protocols: &["UDP", "TCP"],
        local: "node-local cache",
        next: "CoreDNS",
    },
    Policy {
        name: "test-service",
        address: [10, 96, 0, 80],
        ports: &[8080, 80],
        protocols: &["TCP"],
        local: "web-cache",
        next: "web",
    },
    Policy {
        name: "test-addr",
        address: [169, 254, 0, 90],
        ports: &[8080, 80],
        protocols: &["TCP"],
        local: "web-cache",
        next: "",
    },
    Policy {
        name: "test",
        address: [10, 96, 0, 1],
        ports: &[443],
        protocols: &["TCP"],
        local: "api-proxy",
        next: "apiserver",
    },
    Policy {
        name: "shop",
        address: [10, 96, 0, 90],
        ports: &[80, 443],
        protocols: &["TCP"],
        local: "shop-cache",
        next: "shop",
    },
];

/// The steady traffic of the client pod.
pub(super) const TRAFFIC: [Steady; 9] = [
    stream(TrafficKind::Dns, [10, 96, 0, 10], 53, 400),
    stream(TrafficKind::Http, [10, 96, 0, 80], 8080, 20),
    stream(TrafficKind::Http, [10, 96, 0, 80], 80, 20),
    stream(TrafficKind::Http, [10, 96, 0, 80], 9153, 5),
    stream(TrafficKind::Http, [169, 254, 0, 90], 8080, 20),
    stream(TrafficKind::Http, [169, 254, 0, 90], 80, 20),
    stream(TrafficKind::Http, [10, 96, 0, 1], 443, 10),
    stream(TrafficKind::Http, [10, 96, 0, 90], 80, 15),
    stream(TrafficKind::Http, [10, 96, 0, 90], 443, 15),
];

const fn stream(kind: TrafficKind, address: [u8; 4], port: u16, per_second: u32) -> Steady {
    let [a, b, c, d] = address;
    Steady { kind, to: SocketAddr::new(IpAddr::V4(Ipv4Addr::new(a, b, c, d)), port), per_second }
}

impl Policy {
    /// How often clients that dialled its frontends were answered by `who`.
    fn answered_by(&self, who: &str, answered: &[Answered]) -> u64 {
        let mine =
            |a: &&Answered| a.to.ip() == IpAddr::from(self.address) && self.ports.contains(&a.to.port());
        answered.iter().filter(mine).filter(|a| a.who == who).map(|a| a.times).sum()
    }
}

/// Who was asked, who answered, how often.
pub(super) fn table(answered: &[Answered]) -> String {
    let lines =
        answered.iter().map(|a| format!("  {:<20} {:<18} {:>6} times", a.to.to_string(), a.who, a.times));
    lines.collect::<Vec<_>>().join("\n")
}

/// What was checked.
#[derive(Default)]
pub(super) struct Checks {
    passed: u32,
    failed: Vec<String>,
}

impl Checks {
    /// A check, and what to say if it fails. Tells whether it failed.
    pub(super) fn that(&mut self, holds: bool, otherwise: impl Fn() -> String) -> bool {
        if holds {
            self.passed += 1;
        } else {
            say(&format!("  WRONG: {}", otherwise()));
            self.failed.push(otherwise());
        }
        !holds
    }

    /// Every client got an answer. Tells whether one did not.
    pub(super) fn nobody_failed(&mut self, answered: &[Answered]) -> bool {
        let failures: Vec<_> = answered.iter().filter(|a| a.who.starts_with("error")).collect();
        self.that(failures.is_empty(), || format!("clients failed: {failures:?}"))
    }

    /// What `top` counted between two tables is what the clients saw in between. Tells whether something failed.
    pub(super) fn counters_agree(
        &mut self,
        before: &Top<PolicyTopItem>,
        after: &Top<PolicyTopItem>,
        answered: &[Answered],
    ) -> bool {
        let mut failed = self.nobody_failed(answered);
        let counts = |top: &Top<PolicyTopItem>| -> BTreeMap<String, (u64, u64)> {
            top.items.iter().map(|i| (i.policy.name.clone(), (i.redirects, i.qos_drops))).collect()
        };
        let (before, after) = (counts(before), counts(after));
        for policy in POLICIES {
            let seen =
                (policy.answered_by(policy.local, answered), policy.answered_by(policy.next, answered));
            let zero = (0, 0);
            let (old, new) =
                (before.get(policy.name).unwrap_or(&zero), after.get(policy.name).unwrap_or(&zero));
            let told = (new.0.wrapping_sub(old.0), new.1.wrapping_sub(old.1));
            failed |= self.that(told == seen, || {
                format!(
                    "{}: top counted {} redirects and {} QoS drops, clients saw {} and {}",
                    policy.name, told.0, told.1, seen.0, seen.1
                )
            });
            failed |= self.that(seen.0 > 0, || format!("{}: nothing was redirected", policy.name));
        }
        failed
    }

    /// What exceeded the limit of the DNS policy went on to CoreDNS. Tells whether that is not so.
    pub(super) fn limit_held(&mut self, took: Duration, answered: &[Answered]) -> bool {
        let dns = &POLICIES[0];
        let (limited, more) = (dns.answered_by(dns.local, answered), dns.answered_by(dns.next, answered));
        // That many seconds touch at most one more second of the kernel's clock at each end.
        let most = 100 * (took.as_secs() + 2);
        self.that(more > 0 && limited <= most, || {
            format!("the limit: {limited} redirected in {} s, {more} not", took.as_secs_f32())
        })
    }

    /// `explain policy -o json` says that the policy is effective, and on which frontends.
    pub(super) fn explanation(&mut self, policy: &Policy, document: &Value) {
        let effective = document["effective"].as_str().unwrap_or("nothing");
        self.that(effective == "Yes", || format!("explain policy {}: effective is {effective}", policy.name));
        let text = document["frontends"].to_string();
        let address = IpAddr::from(policy.address).to_string();
        for port in policy.ports {
            for protocol in policy.protocols {
                let named = document["frontends"].as_array().is_some_and(|all| {
                    all.iter().any(|f| {
                        f["address"] == address.as_str() && f["port"] == *port && f["protocol"] == *protocol
                    })
                });
                self.that(named, || {
                    format!("explain policy {}: {address}:{port}/{protocol} is not in {text}", policy.name)
                });
            }
        }
    }

    /// `validate -o json` finds nothing wrong with the examples.
    pub(super) fn validation(&mut self, document: &Value) {
        let (summary, items) = (&document["summary"], &document["items"]);
        self.that(summary["errors"] == 0, || format!("validate finds errors in the examples: {items}"));
        self.that(summary["objects"].as_u64().is_some_and(|n| n >= 5), || {
            format!("validate read too little: {summary}")
        });
    }

    /// Says how it went.
    pub(super) fn conclude(self) -> Result<()> {
        if self.failed.is_empty() {
            say(&format!("{} checks: what was shown is what the clients saw.", self.passed));
            return Ok(());
        }
        bail!(
            "{} of {} checks failed:\n  {}",
            self.failed.len(),
            self.passed as usize + self.failed.len(),
            self.failed.join("\n  ")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policys_answers_are_those_of_its_own_frontends() {
        let answered = |ip: [u8; 4], port, who: &str, times| Answered {
            to: SocketAddr::from((ip, port)),
            who: who.to_owned(),
            times,
        };
        let all = [
            answered([10, 96, 0, 80], 80, "web-cache", 3),
            answered([10, 96, 0, 80], 8080, "web-cache", 4),
            answered([10, 96, 0, 80], 9153, "web", 5),
            answered([169, 254, 0, 90], 80, "web-cache", 6),
        ];
        let service = POLICIES.iter().find(|p| p.name == "test-service").unwrap();
        assert_eq!((service.answered_by("web-cache", &all), service.answered_by("web", &all)), (7, 0));
    }
}
