//! Free ports for clusters of this machine, and keeping them free while replicas are down.
//!
//! Ports come in blocks. The first port of a block is its *guard*, which no replica uses: whoever listens there has the
//! block, whatever else of it is in use. A block is taken only where all of it is free. So two clusters that look for ports
//! at the same moment, or while a replica of one of them is down, do not meet, as long as both hold their guards.

use crate::failure::Failure;
use std::net::{IpAddr, TcpListener};

/// Free ports are looked for here: above the privileged ones and below those that the kernel gives to outgoing
/// connections, where a port found free may be taken a moment later.
const PORTS: std::ops::Range<u16> = 10_000..32_000;
/// Blocks begin at multiples of this, and are as long, or a multiple of it where that does not suffice.
const BLOCK_PORTS: usize = 64;
const ATTEMPTS: usize = 200;

/// A block of ports that nobody else takes while this is there.
#[derive(Debug)]
pub(crate) struct Reservation {
    first: u16,
    _guard: TcpListener,
}

impl Reservation {
    /// A block for `count` adjacent ports, and its guard before them.
    pub(crate) fn of(host: IpAddr, count: usize) -> Result<Self, Failure> {
        let ports = (count + 1).next_multiple_of(BLOCK_PORTS);
        let blocks = PORTS.len().saturating_sub(ports) / BLOCK_PORTS;
        for _ in 0..ATTEMPTS {
            let block = random()? as usize % (blocks + 1);
            let guard = usize::from(PORTS.start) + block * BLOCK_PORTS;
            let Ok(guard) = u16::try_from(guard) else { continue };
            if let Some(reservation) = Self::at(host, guard, ports) {
                return Ok(reservation);
            }
        }
        Err(Failure::Run(anyhow::anyhow!(
            "found no {count} adjacent free ports on {host} in {} to {}; stop what holds them (ss -ltnp)",
            PORTS.start,
            PORTS.end
        )))
    }

    /// The block with this guard, if all of it is free. The guard comes first: of two that try, one has it.
    fn at(host: IpAddr, guard: u16, ports: usize) -> Option<Self> {
        let last = u16::try_from(usize::from(guard) + ports - 1).ok()?;
        let listen = |port| TcpListener::bind((host, port));
        let own = listen(guard).ok()?;
        let others: Result<Vec<_>, _> = (guard + 1..=last).map(listen).collect();
        others.is_ok().then_some(Self { first: guard + 1, _guard: own })
    }

    /// The first port behind the guard.
    pub(crate) fn first(&self) -> u16 {
        self.first
    }
}

fn random() -> Result<u32, Failure> {
    let mut bytes = [0; 4];
    getrandom::fill(&mut bytes)
        .map_err(|error| anyhow::anyhow!("the system's random source failed: {error}"))?;
    Ok(u32::from_le_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nobody else looks for ports there.
    const HOST: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 77, 1));

    #[test]
    fn a_block_that_is_reserved_is_nobody_elses_though_nothing_listens_in_it() {
        let own = Reservation::of(HOST, 8).unwrap();
        let guard = own.first() - 1;
        assert_eq!((usize::from(guard) - usize::from(PORTS.start)) % BLOCK_PORTS, 0);
        for port in own.first()..own.first() + 8 {
            TcpListener::bind((HOST, port)).unwrap();
        }
        assert!(Reservation::at(HOST, guard, BLOCK_PORTS).is_none());
        drop(own);
        let own = Reservation::at(HOST, guard, BLOCK_PORTS).unwrap();
        drop(own);
        // Any port of it that is in use is enough.
        let _listens = TcpListener::bind((HOST, guard + 63)).unwrap();
        assert!(Reservation::at(HOST, guard, BLOCK_PORTS).is_none());
    }

    #[test]
    fn more_ports_than_a_block_has_take_several() {
        let host = IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 77, 2));
        let guard = PORTS.start + 64;
        let _listens = TcpListener::bind((host, guard + 127)).unwrap();
        assert!(Reservation::at(host, guard, 64).is_some());
        assert!(Reservation::at(host, guard, 128).is_none());
        for _ in 0..20 {
            let first = Reservation::of(host, 64).unwrap().first();
            assert!(first != guard + 1 && first != guard + 65, "its ports go on where one is in use");
        }
    }
}
