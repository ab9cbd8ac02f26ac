//! Free ports.

use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::net::{Ipv4Addr, TcpListener};

/// A port of 127.0.0.1 that nobody listens on now; somebody may by the time it is used.
///
/// It is below the range from which the system takes the ports of outgoing connections, as
/// asking for port 0 would not be. From inside it, a client that knocks at a stopped server can be
/// given the server's own port, connect to itself and keep the server from coming back.
pub(super) fn free_port() -> u16 {
    const LOWEST: u16 = 10_000;
    let highest = first_outgoing_port().max(LOWEST + 1_000);
    let span = u64::from(highest - LOWEST);
    for _ in 0..1_000 {
        // Every RandomState has other keys, so that this is a random number.
        let offset = RandomState::new().hash_one(()) % span;
        let port = LOWEST + u16::try_from(offset).expect("the span is that of a u16");
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
    panic!("no free port between {LOWEST} and {highest}");
}

fn first_outgoing_port() -> u16 {
    fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")
        .ok()
        .and_then(|range| range.split_whitespace().next()?.parse().ok())
        .unwrap_or(32_768)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_free_and_not_one_for_outgoing_connections() {
        let ports: Vec<u16> = (0..20).map(|_| free_port()).collect();
        assert!(
            ports
                .iter()
                .all(|port| (10_000..first_outgoing_port().max(11_000)).contains(port))
        );
        assert!(ports.iter().any(|port| *port != ports[0]), "{ports:?}");
    }
}
