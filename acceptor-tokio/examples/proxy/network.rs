//! Networks of trusted peers.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// A network in CIDR notation, `10.0.0.0/8` or `2001:db8::/32`, or a single address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Network {
    address: IpAddr,
    prefix: u32,
}

impl Network {
    /// Whether the address is in the network. A dual-stack listener reports IPv4 peers as IPv4-mapped IPv6 addresses: they
    /// count as IPv4.
    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        let same = match (self.address, address.to_canonical()) {
            (IpAddr::V4(one), IpAddr::V4(other)) => {
                (one.to_bits() ^ other.to_bits()).leading_zeros()
            }
            (IpAddr::V6(one), IpAddr::V6(other)) => {
                (one.to_bits() ^ other.to_bits()).leading_zeros()
            }
            _ => return false,
        };
        same >= self.prefix
    }
}

/// A network could not be parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ParseNetworkError {
    value: String,
    reason: &'static str,
}

impl fmt::Display for ParseNetworkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { value, reason } = self;
        write!(
            f,
            "network {value:?} {reason}: give ADDRESS or ADDRESS/PREFIX, as in 10.0.0.0/8 or 2001:db8::/32"
        )
    }
}

impl std::error::Error for ParseNetworkError {}

impl FromStr for Network {
    type Err = ParseNetworkError;

    fn from_str(value: &str) -> Result<Self, ParseNetworkError> {
        let error = |reason| ParseNetworkError {
            value: value.into(),
            reason,
        };
        let (address, prefix) = value
            .split_once('/')
            .map_or((value, None), |(a, b)| (a, Some(b)));
        let address: IpAddr = address.parse().map_err(|_| error("has no IP address"))?;
        if address.to_canonical() != address {
            // Peers are compared unmapped: it would never match.
            return Err(error("is an IPv4-mapped IPv6 address"));
        }
        let most = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.map_or(Ok(most), |bits| {
            bits.parse()
                .map_err(|_| error("has an invalid prefix length"))
        })?;
        if prefix > most {
            return Err(error("has a prefix longer than its address"));
        }
        let trailing = match address {
            IpAddr::V4(address) => address.to_bits().trailing_zeros(),
            IpAddr::V6(address) => address.to_bits().trailing_zeros(),
        };
        // 10.1.0.0/8 may be a slip for 10.1.0.0/16, and would trust too many peers.
        if trailing < most - prefix {
            return Err(error("has address bits set beyond its prefix"));
        }
        Ok(Self { address, prefix })
    }
}
