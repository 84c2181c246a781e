//! The links of one core to the other replicas: who dials whom, and when to try again.

use crate::ban::Ban;
use quorate_reactor::ConnectionId;
use quorate_replica::Answered;
use quorate_types::{ClusterConfig, Credit, LinkId, ReplicaId, ReplicaSet};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const BACKOFF_FIRST: Duration = Duration::from_millis(10);
const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// A link that stood for less than this counts as a failed attempt: a peer that lets in and hangs up at once must
/// not have this replica shake hands a hundred times a second.
const STANDS_AFTER: Duration = BACKOFF_MAX;

/// One link to one peer.
#[derive(Debug)]
pub(crate) struct PeerLink {
    pub(crate) connection: Option<ConnectionId>,
    /// Since when the connection stands.
    since: Option<Instant>,
    /// Frames were dropped because the queue was full.
    pub(crate) lagging: bool,
    /// When to dial; none while a connection or an attempt is there, or when the peer dials.
    pub(crate) dial_at: Option<Instant>,
    backoff: Duration,
    ban: Ban,
    /// What ticks have taken of connections that are held back; it outlasts them.
    pub(crate) credit: Credit,
}

/// An answer that a connection has not taken yet.
#[derive(Debug)]
pub(crate) struct Untaken {
    pub(crate) connection: ConnectionId,
    /// It is taken when the connection has taken so many bytes.
    pub(crate) upto: u64,
    pub(crate) peer: ReplicaId,
    pub(crate) link: LinkId,
    pub(crate) answered: Answered,
}

/// The links of one core.
#[derive(Debug)]
pub(crate) struct Peers {
    links: BTreeMap<(ReplicaId, LinkId), PeerLink>,
    me: ReplicaId,
    /// A few of each link.
    pub(crate) untaken: Vec<Untaken>,
}

impl Peers {
    /// The links of replica `me` on `links`; those it dials are due at `now`.
    pub(crate) fn new(config: &ClusterConfig, me: ReplicaId, links: &[LinkId], now: Instant) -> Self {
        let peers = config.replica_ids().filter(|peer| *peer != me);
        let all = peers.flat_map(|peer| links.iter().map(move |link| (peer, *link)));
        let new = |peer: ReplicaId| PeerLink {
            connection: None,
            since: None,
            lagging: false,
            dial_at: dials(me, peer).then_some(now),
            backoff: BACKOFF_FIRST,
            ban: Ban::default(),
            credit: Credit::default(),
        };
        Self { links: all.map(|(peer, link)| ((peer, link), new(peer))).collect(), me, untaken: Vec::new() }
    }

    pub(crate) fn get_mut(&mut self, peer: ReplicaId, link: LinkId) -> Option<&mut PeerLink> {
        self.links.get_mut(&(peer, link))
    }

    /// The links that are to be dialed now; each is marked as being tried.
    pub(crate) fn take_due(&mut self, now: Instant) -> Vec<(ReplicaId, LinkId)> {
        let mut due = Vec::new();
        for (key, link) in &mut self.links {
            if link.dial_at.is_some_and(|at| at <= now) {
                link.dial_at = None;
                due.push(*key);
            }
        }
        due
    }

    pub(crate) fn next_dial(&self) -> Option<Instant> {
        self.links.values().filter_map(|link| link.dial_at).min()
    }

    /// The peer has sent what no honest replica sends: until when it is kept out, and how often it was.
    pub(crate) fn condemn(&mut self, peer: ReplicaId, link: LinkId, now: Instant) -> Option<(Duration, u64)> {
        let ban = &mut self.links.get_mut(&(peer, link))?.ban;
        Some((ban.condemn(now), ban.count()))
    }

    /// The peers that are kept out of a link.
    pub(crate) fn banned(&self, link: LinkId, now: Instant) -> ReplicaSet {
        let mut banned = ReplicaSet::EMPTY;
        for ((peer, _), _) in
            self.links.iter().filter(|((_, of), state)| *of == link && state.ban.until(now).is_some())
        {
            banned.insert(*peer);
        }
        banned
    }

    /// The connection stands; returns the one that it replaces.
    pub(crate) fn establish(
        &mut self,
        peer: ReplicaId,
        link: LinkId,
        connection: ConnectionId,
        now: Instant,
    ) -> Option<ConnectionId> {
        let state = self.links.get_mut(&(peer, link))?;
        state.since = Some(now);
        state.lagging = false;
        state.dial_at = None;
        state.connection.replace(connection)
    }

    /// An attempt or a connection has ended: the side that dials tries again, later each time in a row.
    /// `slowly` when trying again soon is of no use. Says whether an established link was lost.
    pub(crate) fn on_closed(
        &mut self,
        peer: ReplicaId,
        link: LinkId,
        connection: ConnectionId,
        slowly: bool,
        now: Instant,
    ) -> bool {
        let me = self.me;
        let Some(state) = self.links.get_mut(&(peer, link)) else { return false };
        let lost = state.connection == Some(connection);
        if lost {
            state.connection = None;
            state.lagging = false;
            if state.since.take().is_some_and(|since| now.saturating_duration_since(since) >= STANDS_AFTER) {
                state.backoff = BACKOFF_FIRST;
            }
        }
        if state.connection.is_none() && dials(me, peer) {
            let backoff = if slowly { 10 * BACKOFF_MAX } else { state.backoff };
            let due = now + backoff;
            state.dial_at = Some(state.ban.until(now).map_or(due, |until| until.max(due)));
            state.backoff = (2 * state.backoff).min(BACKOFF_MAX);
        }
        lost
    }
}

/// Between two replicas the one with the higher id dials.
fn dials(me: ReplicaId, peer: ReplicaId) -> bool {
    me > peer
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: ReplicaId = ReplicaId(0);
    const LINK: LinkId = LinkId(0);

    /// A connection of a peer that this replica dials, let in and lost again after `stood`; returns the wait.
    fn wait_after(peers: &mut Peers, id: ConnectionId, stood: Duration) -> Duration {
        let now = Instant::now();
        assert_eq!(peers.establish(PEER, LINK, id, now), None);
        assert!(peers.on_closed(PEER, LINK, id, false, now + stood));
        peers.next_dial().unwrap() - (now + stood)
    }

    #[test]
    fn a_peer_that_hangs_up_at_once_is_dialed_ever_more_slowly() {
        // Ids are made by a reactor alone; nobody listens at the address.
        let mut reactor = quorate_reactor::Reactor::new(&quorate_reactor::ReactorOptions::default()).unwrap();
        let id = reactor.connect("127.0.0.1:9".parse().unwrap()).unwrap();
        let link = PeerLink {
            connection: None,
            since: None,
            lagging: false,
            dial_at: None,
            backoff: BACKOFF_FIRST,
            ban: Ban::default(),
            credit: Credit::default(),
        };
        let mut peers =
            Peers { links: BTreeMap::from([((PEER, LINK), link)]), me: ReplicaId(1), untaken: Vec::new() };
        let waits: Vec<u128> =
            (0..9).map(|_| wait_after(&mut peers, id, Duration::from_millis(1)).as_millis()).collect();
        assert_eq!(waits, [10, 20, 40, 80, 160, 320, 640, 1000, 1000]);
        assert_eq!(wait_after(&mut peers, id, STANDS_AFTER), BACKOFF_FIRST);
    }

    #[test]
    fn a_condemned_peer_is_neither_dialed_nor_let_in_for_a_while() {
        let mut reactor = quorate_reactor::Reactor::new(&quorate_reactor::ReactorOptions::default()).unwrap();
        let id = reactor.connect("127.0.0.1:9".parse().unwrap()).unwrap();
        let config = quorate_wire::testing::config(4);
        let now = Instant::now();
        let mut peers = Peers::new(&config, ReplicaId(1), &[LINK], now);
        assert_eq!(peers.take_due(now), [(PEER, LINK)]);
        assert_eq!(peers.establish(PEER, LINK, id, now), None);
        let (time, count) = peers.condemn(PEER, LINK, now).unwrap();
        assert_eq!((time, count), (Duration::from_secs(1), 1));
        assert!(peers.on_closed(PEER, LINK, id, false, now));
        assert_eq!(peers.next_dial(), Some(now + time), "not after the first pause of ten milliseconds");
        assert!(peers.banned(LINK, now).contains(PEER) && !peers.banned(LINK, now).contains(ReplicaId(2)));
        assert!(!peers.banned(LINK, now + time).contains(PEER));
        assert_eq!(peers.condemn(PEER, LinkId(9), now), None);
    }
}
