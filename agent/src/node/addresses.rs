//! The addresses of the machine, for a node that no object describes.

use std::{
    collections::BTreeSet,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// Addresses of the machine's interfaces, sorted, without those of loopback and link-local ones. What the kernel does not
/// tell is left out.
pub(super) fn own() -> Vec<IpAddr> {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let (v4, v6) = (read("/proc/net/fib_trie"), read("/proc/net/if_inet6"));
    let own = addresses_v4(&v4).map(IpAddr::V4).chain(addresses_v6(&v6).map(IpAddr::V6));
    own.filter(is_of_the_node).collect::<BTreeSet<_>>().into_iter().collect()
}

/// The local routes of `/proc/net/fib_trie`: each address stands in the line before its `/32 host LOCAL`.
fn addresses_v4(fib_trie: &str) -> impl Iterator<Item = Ipv4Addr> {
    let lines = || fib_trie.lines().map(str::trim);
    let local = lines().zip(lines().skip(1)).filter(|(_, next)| next.starts_with("/32 host LOCAL"));
    local.filter_map(|(line, _)| line.strip_prefix("|-- ")?.parse().ok())
}

/// `/proc/net/if_inet6`: each line begins with an address, 32 hexadecimal digits.
fn addresses_v6(if_inet6: &str) -> impl Iterator<Item = Ipv6Addr> {
    let bits = |line: &str| u128::from_str_radix(line.get(..32)?, 16).ok();
    if_inet6.lines().filter_map(move |line| bits(line).map(Ipv6Addr::from_bits))
}

fn is_of_the_node(address: &IpAddr) -> bool {
    let link_local = match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !address.is_loopback() && !link_local
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As a machine with `lo`, an address on `eth0` and its network shows them.
    const FIB_TRIE: &str = "\
Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 192.0.2.0
        /24 link UNICAST
Local:
  +-- 0.0.0.0/0 3 0 5
     +-- 127.0.0.0/8 2 0 2
        |-- 127.0.0.1
           /32 host LOCAL
        |-- 127.255.255.255
           /32 link BROADCAST
     +-- 192.0.2.0/24 2 0 2
        |-- 192.0.2.7
           /32 host LOCAL
        |-- 192.0.2.255
           /32 link BROADCAST
";
    const IF_INET6: &str = "\
00000000000000000000000000000001 01 80 10 80       lo
20010db8000000000000000000000007 02 40 00 80     eth0
fe80000000000000505400fffe123456 02 40 20 80     eth0
too short
";

    #[test]
    fn local_addresses_are_read_from_what_the_kernel_shows() {
        let v4: Vec<_> = addresses_v4(FIB_TRIE).collect();
        assert_eq!(v4, [Ipv4Addr::LOCALHOST, Ipv4Addr::new(192, 0, 2, 7)]);
        let v6: Vec<_> = addresses_v6(IF_INET6).map(|ip| ip.to_string()).collect();
        assert_eq!(v6, ["::1", "2001:db8::7", "fe80::5054:ff:fe12:3456"]);
        assert!(addresses_v4("").next().is_none() && addresses_v6("").next().is_none());
    }

    #[test]
    fn loopback_and_link_local_addresses_are_not_the_nodes() {
        for (address, is) in [
            ("192.0.2.7", true),
            ("2001:db8::7", true),
            ("127.0.0.1", false),
            ("::1", false),
            ("169.254.3.4", false),
            ("fe80::1", false),
        ] {
            assert_eq!(is_of_the_node(&address.parse().unwrap()), is, "{address}");
        }
    }
}
