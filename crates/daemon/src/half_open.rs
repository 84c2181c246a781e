//! Accepted connections whose handshake is not complete (DESIGN section 7, "before anybody is known").
//!
//! Nobody is turned away here. Whoever comes when all places are taken, or all that its address may have, takes that of the
//! oldest: a handshake takes milliseconds, and what is open for longer is idle, slow or hostile. So a crowd from one address
//! costs others nothing, and idle connections, however many, cost newcomers nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};

/// How many may be open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HalfOpenLimits {
    pub(crate) all: usize,
    pub(crate) per_source: usize,
}

/// The half-open connections at one door.
#[derive(Debug)]
pub(crate) struct HalfOpen<I> {
    limits: HalfOpenLimits,
    /// In the order in which they came.
    open: BTreeMap<u64, (I, IpAddr)>,
    places: BTreeMap<I, u64>,
    by_source: BTreeMap<IpAddr, BTreeSet<u64>>,
    count: u64,
}

impl<I: Copy + Ord> HalfOpen<I> {
    pub(crate) fn new(limits: HalfOpenLimits) -> Self {
        assert!(limits.per_source > 0 && limits.all > 0, "a door lets somebody in");
        let (open, places, by_source) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { limits, open, places, by_source, count: 0 }
    }

    /// A connection came. Returns the one that gives way to it: the oldest of its source, or of all.
    pub(crate) fn begin(&mut self, id: I, address: IpAddr) -> Option<I> {
        let source = source(address);
        let of_source = self.by_source.get(&source);
        let oldest =
            of_source.filter(|places| places.len() >= self.limits.per_source).and_then(BTreeSet::first);
        let is_full = self.open.len() >= self.limits.all;
        let gives_way = oldest.copied().or_else(|| self.open.keys().next().copied().filter(|_| is_full));
        let gone = gives_way.and_then(|place| self.open.get(&place)).map(|(id, _)| *id);
        if let Some(gone) = gone {
            self.end(gone);
        }
        self.count += 1;
        self.open.insert(self.count, (id, source));
        self.places.insert(id, self.count);
        self.by_source.entry(source).or_default().insert(self.count);
        gone
    }

    /// A connection is not half open any more; nothing happens if it was not.
    pub(crate) fn end(&mut self, id: I) {
        let Some(place) = self.places.remove(&id) else { return };
        let Some((_, source)) = self.open.remove(&place) else { return };
        if let Some(places) = self.by_source.get_mut(&source) {
            places.remove(&place);
            if places.is_empty() {
                self.by_source.remove(&source);
            }
        }
    }
}

/// Who counts as one: an IPv4 address, or the network of 64 bits that one host is given in IPv6.
fn source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn host(last: u8) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(192, 0, 2, last))
    }

    #[test]
    fn the_oldest_gives_way_and_one_source_takes_no_place_of_others() {
        let mut open = HalfOpen::new(HalfOpenLimits { all: 4, per_source: 2 });
        assert_eq!(open.begin(0, host(9)), None);
        assert_eq!(open.begin(1, host(1)), None);
        assert_eq!(open.begin(2, host(1)), None);
        assert_eq!(open.begin(3, host(1)), Some(1), "the oldest of its source");
        assert_eq!(open.begin(4, host(2)), None);
        assert_eq!(open.begin(5, host(3)), Some(0), "the oldest of all");
        assert_eq!(open.open.len(), 4);
        (0..6).for_each(|id| open.end(id));
        assert_eq!((open.open.len(), open.by_source.len(), open.places.len()), (0, 0, 0));
    }

    #[test]
    fn a_network_of_one_host_is_one_source() {
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(source(address("2001:db8::1")), source(address("2001:db8::ffff:1")));
        assert_ne!(source(address("2001:db8::1")), source(address("2001:db8:0:1::1")));
        assert_eq!(source(address("::ffff:192.0.2.1")), host(1));
    }
}
