//! kube-proxy's rules, as its nftables and iptables modes write them, for Services of one endpoint or more.

use std::{fmt::Write as _, path::PathBuf};

use anyhow::{Context, Result};
use balancing_e2e::run;

use crate::plan::{PORT, VIP_PORT, backend, vip};

/// Which mode of kube-proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `nft -f`.
    Nftables,
    /// `iptables-restore`, of the variant without nftables beneath.
    Iptables,
}

impl Kind {
    /// The program that loads the rules.
    #[must_use]
    pub const fn program(self) -> &'static str {
        match self {
            Self::Nftables => "nft",
            Self::Iptables => "iptables-legacy-restore",
        }
    }

    /// Is it there?
    #[must_use]
    pub fn is_installed(self) -> bool {
        std::env::var_os("PATH").is_some_and(|path| {
            std::env::split_paths(&path)
                .chain(["/usr/sbin".into(), "/sbin".into()])
                .any(|dir| dir.join(self.program()).exists())
        })
    }
}

/// A file of this run with rules.
fn file(kind: Kind, services: u32, endpoints: u32) -> Result<PathBuf> {
    let path = std::env::temp_dir().join(run::name(&format!("{}-{services}-{endpoints}", kind.program())));
    std::fs::write(&path, rules(kind, services, endpoints)).context("failed to write rules")?;
    Ok(path)
}

/// Shell commands for a namespace: an address and a route, without which no packet comes as far as the rules, and the rules.
pub fn setup(kind: Kind, services: u32) -> Result<String> {
    let load = load(kind, services, 10)?;
    Ok(format!("ip addr add 10.9.9.9/32 dev lo; ip route add 172.16.0.0/12 dev lo; {load};"))
}

/// The shell command that loads the rules.
pub fn load(kind: Kind, services: u32, endpoints: u32) -> Result<String> {
    let file = file(kind, services, endpoints)?;
    Ok(match kind {
        Kind::Nftables => format!("nft -f {}", file.display()),
        Kind::Iptables => format!("iptables-legacy-restore < {}", file.display()),
    })
}

fn rules(kind: Kind, services: u32, endpoints: u32) -> String {
    match kind {
        Kind::Nftables => nftables(services, endpoints),
        Kind::Iptables => iptables(services, endpoints),
    }
}

// Writing to a String cannot fail: the results below are dropped.

/// One verdict map of (address, protocol, port), a chain a Service with a map of random numbers, a chain an endpoint.
fn nftables(services: u32, endpoints: u32) -> String {
    let mut text = String::from("table ip kube-proxy {\n");
    text += "chain mark-for-masquerade { meta mark set meta mark or 0x4000; }\n";
    for service in 0..services {
        for i in 0..endpoints {
            let to = backend(service, i);
            let _ = writeln!(
                text,
                "chain endpoint-{service}-{i} {{ ip saddr {to} jump mark-for-masquerade; meta l4proto tcp dnat to {to}:{PORT}; }}"
            );
        }
        let choices: Vec<String> =
            (0..endpoints).map(|i| format!("{i} : goto endpoint-{service}-{i}")).collect();
        let _ = writeln!(
            text,
            "chain service-{service} {{ ip daddr {} tcp dport {VIP_PORT} ip saddr != 10.0.0.0/8 jump mark-for-masquerade; numgen random mod {endpoints} vmap {{ {} }}; }}",
            vip(service),
            choices.join(", ")
        );
    }
    text += "map service-ips { type ipv4_addr . inet_proto . inet_service : verdict; elements = {\n";
    for service in 0..services {
        let _ = writeln!(text, "{} . tcp . {VIP_PORT} : goto service-{service},", vip(service));
    }
    text += "} }\n";
    text += "chain services { ip daddr . meta l4proto . th dport vmap @service-ips; }\n";
    text += "chain nat-output { type nat hook output priority -100; policy accept; jump services; }\n";
    text += "chain masquerading { meta mark & 0x4000 == 0 return; meta mark set meta mark xor 0x4000; masquerade fully-random; }\n";
    text += "chain nat-postrouting { type nat hook postrouting priority 100; policy accept; jump masquerading; }\n";
    text + "}\n"
}

/// A rule a Service in one chain, a chain a Service with a rule of some probability an endpoint, a chain an endpoint.
fn iptables(services: u32, endpoints: u32) -> String {
    let mut chains = String::from(
        "*nat\n:PREROUTING ACCEPT [0:0]\n:INPUT ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n\
         :KUBE-SERVICES - [0:0]\n:KUBE-MARK-MASQ - [0:0]\n:KUBE-POSTROUTING - [0:0]\n",
    );
    let mut text = String::from(
        "-A OUTPUT -j KUBE-SERVICES\n-A POSTROUTING -j KUBE-POSTROUTING\n\
         -A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000\n\
         -A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN\n\
         -A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0\n\
         -A KUBE-POSTROUTING -j MASQUERADE --random-fully\n",
    );
    for service in 0..services {
        let _ = writeln!(chains, ":KUBE-SVC-{service:08} - [0:0]");
        let address = vip(service);
        let _ = writeln!(
            text,
            "-A KUBE-SERVICES -d {address}/32 -p tcp -m tcp --dport {VIP_PORT} -j KUBE-SVC-{service:08}"
        );
        let _ = writeln!(
            text,
            "-A KUBE-SVC-{service:08} ! -s 10.0.0.0/8 -d {address}/32 -p tcp -m tcp --dport {VIP_PORT} -j KUBE-MARK-MASQ"
        );
        for i in 0..endpoints {
            let to = backend(service, i);
            let _ = writeln!(chains, ":KUBE-SEP-{service:08}-{i} - [0:0]");
            let chance = match endpoints - i {
                1 => String::new(),
                left => format!(" -m statistic --mode random --probability {:.10}", 1.0 / f64::from(left)),
            };
            let _ = writeln!(text, "-A KUBE-SVC-{service:08}{chance} -j KUBE-SEP-{service:08}-{i}");
            let _ = writeln!(text, "-A KUBE-SEP-{service:08}-{i} -s {to}/32 -j KUBE-MARK-MASQ");
            let _ = writeln!(
                text,
                "-A KUBE-SEP-{service:08}-{i} -p tcp -m tcp -j DNAT --to-destination {to}:{PORT}"
            );
        }
    }
    chains + &text + "COMMIT\n"
}
