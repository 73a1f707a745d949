//! Network namespaces joined by one bridge, with an identity server in each and no way out.
//!
//! ```text
//! n1  host of node n1     l1 l2 l3  its pods    mark  the pod of settling markers
//! n2  host of node n2     r1 r2     its pods    farm  forty more pod addresses
//! c1  c2  client pods     ext  a machine outside the cluster    raw  owner of VIPs that exist on the network
//! ```

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Mutex, PoisonError},
};

use anyhow::{Context, Result};

use crate::{
    client::Server,
    protocol::{Outcome, ServeSpec},
    run,
};

/// Namespaces of the tests' network and their last two bytes: 10.10.x.y and fd00:10::x:y.
const NAMES: [(&str, u8, u8); 13] = [
    ("n1", 1, 1),
    ("l1", 1, 11),
    ("l2", 1, 12),
    ("l3", 1, 13),
    ("mark", 1, 14),
    ("c1", 1, 21),
    ("c2", 1, 22),
    ("n2", 2, 1),
    ("r1", 2, 11),
    ("r2", 2, 12),
    ("ext", 8, 1),
    ("raw", 9, 1),
    ("farm", 3, 1),
];
/// Ports that are open in every namespace, so that a refusal never comes from a closed port.
pub const PORTS: [u16; 12] = [53, 80, 81, 82, 443, 5353, 6443, 8080, 8081, 8443, 9153, 60500];
/// Addresses nobody has: ClusterIPs and VIPs. They fail at once where they are not translated.
const DEAD: [&str; 5] = ["10.96.0.0/16", "198.51.100.0/24", "10.10.7.0/24", "fd00:96::/64", "fd00:51::/64"];
/// VIPs that exist on the network; `raw` has them.
const RAW: [&str; 5] = ["169.254.0.90", "169.254.0.91", "169.254.0.92", "203.0.113.90", "fd00:169::90"];
/// How many more addresses the farm has, and its TCP ports beside [`PORTS`].
const FARM: (u8, u16) = (40, 100);
/// First of the farm's own ports.
pub const FARM_PORT: u16 = 7000;

/// The namespaces of a run. Tests share them and change nothing in them.
#[derive(Debug)]
pub struct Network {
    spaces: BTreeMap<String, Namespace>,
}

/// A namespace.
#[derive(Debug)]
struct Namespace {
    addresses: Vec<IpAddr>,
    server: Mutex<Server>,
}

/// What is to be in a namespace.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// Its addresses; the first of each family is its own, the others come in addition.
    pub addresses: Vec<IpAddr>,
    /// Ports of an identity server, TCP and UDP, on every address.
    pub ports: Vec<u16>,
    /// More ports, TCP alone.
    pub tcp_ports: Vec<u16>,
    /// `ip route add ...` lines.
    pub routes: Vec<String>,
}

impl Network {
    /// The network of the tests.
    ///
    /// # Errors
    /// A namespace or server cannot be made.
    pub fn standard() -> Result<Self> {
        let addresses = |name: &str| {
            NAMES.iter().find(|n| n.0 == name).map(|(_, x, y)| {
                [IpAddr::from([10, 10, *x, *y]), IpAddr::from([0xfd00, 0x10, 0, 0, 0, 0, hex(*x), hex(*y)])]
            })
        };
        let raw = addresses("raw").context("no namespace raw")?;
        let plans = NAMES.iter().filter_map(|(name, ..)| {
            let mut plan = Plan {
                addresses: addresses(name)?.to_vec(),
                ports: PORTS.to_vec(),
                routes: DEAD.iter().map(|d| format!("unreachable {d}")).collect(),
                ..Plan::default()
            };
            match *name {
                "raw" => plan.addresses.extend(RAW.iter().filter_map(|a| a.parse::<IpAddr>().ok())),
                _ => plan.routes.extend(RAW.iter().filter_map(|a| {
                    let a: IpAddr = a.parse().ok()?;
                    Some(format!("{a} via {}", raw[usize::from(a.is_ipv6())]))
                })),
            }
            if *name == "farm" {
                plan.addresses.extend((0..FARM.0).map(|i| IpAddr::from(farm(i))));
                plan.tcp_ports.extend(FARM_PORT..FARM_PORT + FARM.1);
            }
            Some(((*name).to_owned(), plan))
        });
        Self::build(plans.collect())
    }

    /// Makes the namespaces, joins them by a bridge and starts the servers.
    ///
    /// # Errors
    /// A namespace or server cannot be made.
    pub fn build(plans: BTreeMap<String, Plan>) -> Result<Self> {
        let fabric = run::name("fab");
        let mut lines = vec![format!("netns add {fabric}")];
        lines.extend(plans.keys().map(|n| format!("netns add {}", run::name(n))));
        // From here on the namespaces exist: whatever fails, they go with this value.
        let mut network = Self { spaces: BTreeMap::new() };
        run::ip_batch(None, &lines)?;
        let mut lines = vec!["link add br0 type bridge".to_owned(), "link set br0 up".to_owned()];
        for (n, name) in plans.keys().enumerate() {
            lines.push(format!("link add v{n} type veth peer name eth0 netns {}", run::name(name)));
            lines.push(format!("link set v{n} master br0 up"));
        }
        run::ip_batch(Some(&fabric), &lines)?;
        for (name, plan) in plans {
            network.settle_in(&name, plan).with_context(|| format!("namespace {name}"))?;
        }
        Ok(network)
    }

    fn settle_in(&mut self, name: &str, plan: Plan) -> Result<()> {
        let netns = run::name(name);
        let mut lines = vec!["link set lo up".to_owned(), "link set eth0 up".to_owned()];
        let mut seen = [false; 2];
        for a in &plan.addresses {
            // The first address of a family has the whole network on its link.
            let first = !std::mem::replace(&mut seen[usize::from(a.is_ipv6())], true);
            let (network, alone, flags) = if a.is_ipv4() { (16, 32, "") } else { (64, 128, " nodad") };
            lines.push(format!("addr add {a}/{} dev eth0{flags}", if first { network } else { alone }));
        }
        lines.extend(plan.routes.iter().map(|r| format!("route add {r}")));
        run::ip_batch(Some(&netns), &lines)?;
        let udp = plan.addresses.iter().flat_map(|a| plan.ports.iter().map(|p| SocketAddr::new(*a, *p)));
        let spec = ServeSpec {
            tcp: plan.ports.iter().chain(&plan.tcp_ports).copied().collect(),
            udp: udp.collect(),
            sysctls: vec![
                ("net/ipv4/ip_local_port_range".to_owned(), "10240 65000".to_owned()),
                ("net/ipv4/ip_local_reserved_ports".to_owned(), "60500".to_owned()),
                ("net/ipv4/tcp_syn_retries".to_owned(), "1".to_owned()),
            ],
        };
        let server = Server::start(&netns, &spec)?;
        self.spaces
            .insert(name.to_owned(), Namespace { addresses: plan.addresses, server: Mutex::new(server) });
        Ok(())
    }

    /// The name of a namespace on the machine.
    #[must_use]
    pub fn netns(&self, name: &str) -> String {
        run::name(name)
    }

    /// The IPv4 address of a namespace.
    ///
    /// # Panics
    /// There is no such namespace: the test is wrong.
    #[must_use]
    pub fn v4(&self, name: &str) -> IpAddr {
        self.address(name, false)
    }

    /// The IPv6 address of a namespace.
    ///
    /// # Panics
    /// There is no such namespace: the test is wrong.
    #[must_use]
    pub fn v6(&self, name: &str) -> IpAddr {
        self.address(name, true)
    }

    #[expect(clippy::panic, reason = "a name that is not there is a mistake in the test itself")]
    fn address(&self, name: &str, v6: bool) -> IpAddr {
        let address = self.spaces.get(name).and_then(|s| s.addresses.iter().find(|a| a.is_ipv6() == v6));
        *address.unwrap_or_else(|| panic!("no namespace {name:?} with such an address"))
    }

    /// `l1:81` for where a dial ended, `raw:80` where a VIP of the network answered for itself, or the errno's name.
    #[must_use]
    pub fn label(&self, outcome: &Outcome) -> String {
        match (outcome.at, &outcome.error) {
            (Some(at), _) => self.name(at),
            (None, Some(error)) => error.clone(),
            (None, None) => "nothing".to_owned(),
        }
    }

    /// `l1:81` for an address of this network; one of the farm's own stays as it is.
    #[must_use]
    pub fn name(&self, at: SocketAddr) -> String {
        let own = |(name, s): (&String, &Namespace)| {
            let mine = if name == "raw" {
                s.addresses.contains(&at.ip())
            } else {
                s.addresses.iter().take(2).any(|a| *a == at.ip())
            };
            mine.then(|| format!("{name}:{}", at.port()))
        };
        self.spaces.iter().find_map(own).unwrap_or_else(|| at.to_string())
    }

    /// How often the server of a namespace was reached at its IPv4 address, on a port.
    ///
    /// # Errors
    /// The server is gone, or there is no such namespace.
    pub fn served(&self, name: &str, port: u16, udp: bool) -> Result<u64> {
        let at = SocketAddr::new(self.v4(name), port);
        let space = self.spaces.get(name).with_context(|| format!("no namespace {name}"))?;
        let mut server = space.server.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(server.counts()?.get(&(at, udp)).copied().unwrap_or_default())
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // Servers first: a namespace is only gone when nobody is in it.
        let names: Vec<String> = self.spaces.keys().cloned().chain(["fab".to_owned()]).collect();
        self.spaces.clear();
        for name in names {
            run::remove_netns(&run::netns_path(&run::name(&name)));
        }
    }
}

/// An address of the farm, 0 to 39.
#[must_use]
pub fn farm(index: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 10, 3, 10 + index)
}

/// The number whose hexadecimal spelling looks like this decimal one, so that 10.10.1.11 goes with fd00:10::1:11.
fn hex(decimal: u8) -> u16 {
    u16::from(decimal / 100) * 256 + u16::from(decimal / 10 % 10) * 16 + u16::from(decimal % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_families_spell_alike() {
        assert_eq!((hex(1), hex(11), hex(22), hex(110)), (0x1, 0x11, 0x22, 0x110));
    }
}
