//! What the cases dial and what they are sent to: the addresses that workers, ideal maps and product share.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use balancing_agent::desired::{
    Backend, Changes, Ladder, Otherwise, PolicyRung, PolicySettings, ServicePort, ServiceRung,
};
use balancing_api::{
    net::{Frontend, Protocol},
    policy::{PolicyKind, PolicyRef},
};
use serde::{Deserialize, Serialize};

/// Port of every Service.
pub const VIP_PORT: u16 = 80;
/// Port of every backend.
pub const PORT: u16 = 8080;
/// Port that no Service has.
pub const OTHER_PORT: u16 = 9;

/// Address of a Service.
#[must_use]
pub fn vip(service: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(172, 16, 0, 1).to_bits() + service)
}

/// Where all backends are; each worker's namespace has it as its own.
pub const BACKENDS: &str = "10.128.0.0/9";

/// A backend of a Service. Those of Service 0 have servers.
#[must_use]
pub fn backend(service: u32, index: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(10, 128, 0, 1).to_bits() + (service << 8) + index)
}

/// Address of a Service of IPv6.
pub const VIP6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0, 1);

/// A backend of the IPv6 Service; each namespace has them on its loopback.
#[must_use]
pub const fn backend6(index: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0x10, 0, 0, 0, 0, 0, index + 1)
}

/// What the product is filled with.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Plan {
    /// Number of Services.
    pub services: u32,
    /// Backends of each.
    pub backends: u32,
    /// First backend of each: another value is another, disjoint set.
    pub first: u32,
    /// A rung of a LocalRedirectPolicy in each.
    pub policy: bool,
    /// A rung of the Service in each.
    pub service: bool,
    /// The policy's limit.
    pub limit: u32,
    /// The policy has an exempt caller (a cgroup that nobody is in).
    pub exempt: bool,
    /// Session affinity.
    pub affinity: bool,
    /// Of IPv6.
    pub six: bool,
    /// UDP as well as TCP.
    pub both: bool,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            services: 1,
            backends: 10,
            first: 0,
            policy: false,
            service: true,
            limit: 0,
            exempt: false,
            affinity: false,
            six: false,
            both: true,
        }
    }
}

/// The policy of every frontend that has one.
#[must_use]
pub fn policy() -> PolicyRef {
    PolicyRef::new(PolicyKind::LocalRedirectPolicy, "bench")
}

impl Plan {
    /// Frontends and backends that it has.
    #[must_use]
    pub fn need(&self) -> (u32, u32) {
        let frontends = self.services * if self.both { 2 } else { 1 };
        (frontends, frontends * self.backends * (u32::from(self.policy) + u32::from(self.service)))
    }

    /// The plan as changes of an empty desired state.
    #[must_use]
    pub fn changes(&self) -> Changes {
        let protocols: &[Protocol] =
            if self.both { &[Protocol::Tcp, Protocol::Udp] } else { &[Protocol::Udp] };
        let frontends = (0..self.services)
            .flat_map(|service| {
                protocols
                    .iter()
                    .map(move |protocol| (self.frontend(service, *protocol), Some(self.ladder(service))))
            })
            .collect();
        let settings = PolicySettings {
            redirects_per_second: self.limit,
            // Inode 1 is the root's; no process of the bench is below an inode this high.
            callers: self.exempt.then_some(u64::from(u32::MAX)).into_iter().collect(),
        };
        Changes { frontends, policies: self.policy.then(|| (policy(), Some(settings))).into_iter().collect() }
    }

    fn frontend(&self, service: u32, protocol: Protocol) -> Frontend {
        let address = if self.six { IpAddr::V6(VIP6) } else { IpAddr::V4(vip(service)) };
        Frontend::new(address, VIP_PORT, protocol)
    }

    fn backends(&self, service: u32) -> Vec<Backend> {
        (self.first..self.first + self.backends)
            .map(|index| {
                let address =
                    if self.six { backend6(index as u16).into() } else { backend(service, index).into() };
                Backend { address, port: PORT }
            })
            .collect()
    }

    fn ladder(&self, service: u32) -> Ladder {
        let affinity_seconds = self.affinity.then_some(10_800);
        Ladder {
            policy: self.policy.then(|| PolicyRung {
                policy: policy(),
                backends: self.backends(service).into(),
                affinity_seconds,
            }),
            service: self.service.then(|| ServiceRung {
                service: ServicePort {
                    namespace: "bench".into(),
                    name: format!("s{service}").into(),
                    port: "http".into(),
                },
                backends: self.backends(service).into(),
                affinity_seconds,
            }),
            otherwise: Otherwise::Untouched,
        }
    }
}

/// Service 0, as clients dial it.
#[must_use]
pub fn service() -> SocketAddr {
    (vip(0), VIP_PORT).into()
}

/// The IPv6 Service.
#[must_use]
pub fn service6() -> SocketAddr {
    (VIP6, VIP_PORT).into()
}

/// A backend itself: what a client dials where there is no program.
#[must_use]
pub fn direct() -> SocketAddr {
    (backend(0, 0), PORT).into()
}

/// A destination that no program translates.
#[must_use]
pub fn other() -> SocketAddr {
    (backend(0, 0), OTHER_PORT).into()
}
