//! Listeners on each kind of address that a world has.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::address::Address;
use crate::boxed::{Boxed, BoxedListener};
use crate::verdict::Broken;
use crate::world::World;

/// A listener and its addresses.
pub(super) struct Bound {
    pub(super) listener: BoxedListener,
    /// The address to which it is bound.
    pub(super) address: Address,
    /// The address to which a client connects, which is the local address of its connection.
    pub(super) called: Address,
}

impl Bound {
    /// Returns whether it is bound to all addresses of the host.
    pub(super) fn is_wildcard(&self) -> bool {
        self.address != self.called
    }
}

const FOUR: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::LOCALHOST),
    IpAddr::V4(Ipv4Addr::UNSPECIFIED),
];
const SIX: [IpAddr; 2] = [
    IpAddr::V6(Ipv6Addr::LOCALHOST),
    IpAddr::V6(Ipv6Addr::UNSPECIFIED),
];

/// Binds listeners: on any address, and in a world of IP on each loopback and wildcard address.
/// IPv6 may be unavailable.
pub(super) fn listeners(world: &Boxed) -> Result<Vec<Bound>, Broken> {
    let failed = |error: std::io::Error| Broken::new("a listener is bound", error.to_string());
    let (listener, address) = world.listen().map_err(failed)?;
    if address.socket().is_none() {
        return Ok(vec![Bound {
            listener,
            address,
            called: address,
        }]);
    }
    drop(listener);
    let mut listeners = Vec::new();
    let on = |ip| world.listen_on(SocketAddr::new(ip, 0).into());
    let six = on(SIX[0]).is_ok().then_some(SIX);
    for [loopback, wildcard] in [FOUR].into_iter().chain(six) {
        for ip in [loopback, wildcard] {
            let (listener, address) = on(ip).map_err(failed)?;
            let port = address.socket().map_or(0, |address| address.port());
            listeners.push(Bound {
                listener,
                address,
                called: SocketAddr::new(loopback, port).into(),
            });
        }
    }
    Ok(listeners)
}
