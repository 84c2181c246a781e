//! The clients that are connected to one core, and who gives way when there is no room (DESIGN section 7, "after somebody is
//! known").
//!
//! The account is per key: whoever has most connections gives way first, with the one that has been silent for longest, both ways. So no
//! key, however many connections it opens, keeps another one out.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// A connection on which something went within so long is not idle: its own key's newer connections wait.
const IDLE: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug)]
struct Client<I> {
    id: I,
    key: [u8; 32],
}

/// What becomes of a client that comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Welcome<I> {
    /// There is room.
    Room,
    /// There is room when this one is gone.
    Instead(I),
    /// All places of its key are in use; that may pass.
    Full,
}

/// Connected clients by their numbers.
#[derive(Debug)]
pub(crate) struct Clients<I> {
    max: usize,
    clients: BTreeMap<u64, Client<I>>,
    per_key: BTreeMap<[u8; 32], usize>,
}

impl<I: Copy> Clients<I> {
    pub(crate) fn new(max: usize) -> Self {
        Self { max, clients: BTreeMap::new(), per_key: BTreeMap::new() }
    }

    pub(crate) fn len(&self) -> usize {
        self.clients.len()
    }

    pub(crate) fn get(&self, number: u64) -> Option<I> {
        self.clients.get(&number).map(|client| client.id)
    }

    /// Whether one more connection of this key may come. `heard` says when something went on a connection last.
    pub(crate) fn welcome(
        &self,
        key: &[u8; 32],
        now: Instant,
        heard: impl Fn(I) -> Option<Instant>,
    ) -> Welcome<I> {
        if self.clients.len() < self.max {
            return Welcome::Room;
        }
        let own = self.per_key.get(key).copied().unwrap_or(0);
        let most =
            self.per_key.iter().max_by_key(|(_, count)| **count).filter(|(_, count)| **count > own + 1);
        // Where no key has more than its part, one that is idle gives way: of the same key, or to a key that has none.
        let may_go = |client: &&Client<I>| match most {
            Some((crowd, _)) => client.key == *crowd,
            None => own == 0 || client.key == *key,
        };
        let times =
            self.clients.values().filter(may_go).filter_map(|client| Some((heard(client.id)?, client.id)));
        match times.min_by_key(|(at, _)| *at) {
            Some((at, id)) if most.is_some() || now.saturating_duration_since(at) >= IDLE => {
                Welcome::Instead(id)
            }
            _ => Welcome::Full,
        }
    }

    pub(crate) fn insert(&mut self, number: u64, id: I, key: [u8; 32]) {
        *self.per_key.entry(key).or_default() += 1;
        self.clients.insert(number, Client { id, key });
    }

    pub(crate) fn remove(&mut self, number: u64) {
        let Some(Client { key, .. }) = self.clients.remove(&number) else { return };
        if let Some(count) = self.per_key.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                self.per_key.remove(&key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: [u8; 32] = [1; 32];
    const B: [u8; 32] = [2; 32];

    #[test]
    fn the_key_with_most_connections_gives_way_with_its_quietest() {
        let start = Instant::now();
        // The one with the highest id has said nothing for longest.
        let heard = |id: u64| Some(start + Duration::from_secs(3 - id));
        let mut clients = Clients::new(4);
        for id in 0..4 {
            assert_eq!(clients.welcome(&A, start, heard), Welcome::Room);
            clients.insert(id, id, A);
        }
        assert_eq!(clients.welcome(&B, start, heard), Welcome::Instead(3), "however busy it is");
        assert_eq!(clients.welcome(&A, start + Duration::from_secs(9), heard), Welcome::Full);
        assert_eq!(clients.welcome(&A, start + IDLE, heard), Welcome::Instead(3));

        clients.remove(3);
        clients.insert(4, 3, B);
        clients.remove(2);
        clients.insert(5, 2, B);
        assert_eq!(clients.welcome(&B, start, heard), Welcome::Full, "equal parts");
        let other = [3; 32];
        assert!(matches!(clients.welcome(&other, start, heard), Welcome::Instead(_)));
        for (number, key) in [(0, [7; 32]), (1, [8; 32]), (4, [9; 32])] {
            let id = clients.get(number).unwrap();
            clients.remove(number);
            clients.insert(number, id, key);
        }
        assert_eq!(
            clients.welcome(&other, start, heard),
            Welcome::Full,
            "as many keys as places, all in use"
        );
        assert_eq!(clients.welcome(&other, start + IDLE, heard), Welcome::Instead(3), "an idle one");
        (0..6).for_each(|number| clients.remove(number));
        assert_eq!((clients.len(), clients.per_key.len()), (0, 0));
    }
}
