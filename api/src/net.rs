//! Addresses, ports and protocols as the product's documents spell them.

use std::{fmt, net::IpAddr, str::FromStr};

use serde::{Deserialize, Serialize};

/// A transport protocol that the data path translates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// Transmission Control Protocol.
    Tcp,
    /// User Datagram Protocol.
    Udp,
}

impl Protocol {
    /// The spelling of Kubernetes: `TCP` or `UDP`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        }
    }

    /// The number of the protocol in an IP header (IANA).
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }

    /// The protocol with that IANA number, if the data path translates it.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            6 => Some(Self::Tcp),
            17 => Some(Self::Udp),
            _ => None,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The text is neither `TCP` nor `UDP`, in any case.
#[derive(Debug, thiserror::Error)]
#[error("protocol {0:?} is not TCP or UDP")]
pub struct ParseProtocolError(String);

impl FromStr for Protocol {
    type Err = ParseProtocolError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        if s.eq_ignore_ascii_case("tcp") {
            Ok(Self::Tcp)
        } else if s.eq_ignore_ascii_case("udp") {
            Ok(Self::Udp)
        } else {
            Err(ParseProtocolError(s.to_owned()))
        }
    }
}

/// What a client dials: an address, a port and a protocol. An IPv4-mapped address is IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Frontend {
    /// The dialled address, in RFC 5952 form.
    pub address: IpAddr,
    /// The dialled port, in host byte order.
    pub port: u16,
    /// The transport protocol.
    pub protocol: Protocol,
}

impl Frontend {
    /// A frontend; an IPv4-mapped IPv6 address becomes the IPv4 address it stands for.
    #[must_use]
    pub fn new(address: IpAddr, port: u16, protocol: Protocol) -> Self {
        Self { address: address.to_canonical(), port, protocol }
    }
}

impl fmt::Display for Frontend {
    /// `10.96.0.10:53/UDP`, `[fd00::1]:53/UDP`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", std::net::SocketAddr::new(self.address, self.port), self.protocol)
    }
}
