//! The votes of every replica, this one included, in the present view.

use quorate_types::mistakes::is_made;
use quorate_types::{Digest, Mistake, Nanoseconds, ReplicaId, ReplicaSet, Seq, View, nth_highest};
use quorate_wire::Position;
use quorate_wire::message::{Prepare, Status};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What one replica has said.
#[derive(Debug, Default)]
pub(crate) struct Peer {
    pub(crate) connected: bool,
    /// Its PREPAREs by slot, above the committed slot and within the window.
    prepares: BTreeMap<Seq, (Digest, Arc<Prepare>)>,
    /// Whether it is known to have voted twice for one slot of the view. What else contradicts is no news any more.
    has_contradicted: bool,
    /// Its highest COMMIT of the view.
    commit: Option<Position>,
    /// The highest slot of the own chain that its COMMITs are known to cover.
    covered: Seq,
    /// The highest slot that it claims to have committed.
    pub(crate) claim: Position,
    /// Before this time it is not helped into a view once more: its Status is small and the answer is large.
    pub(crate) helped_until: Nanoseconds,
    /// Its last Status.
    pub(crate) status: Option<Status>,
}

impl Peer {
    /// Its PREPARE for exactly this slot and digest.
    fn vote_for(&self, position: Position) -> Option<&Arc<Prepare>> {
        let own = self.prepares.get(&position.seq).filter(|(digest, _)| *digest == position.digest);
        if own.is_none() && is_made(Mistake::CountsDescendants) {
            return self.prepares.range(position.seq..).next().map(|(_, (_, prepare))| prepare);
        }
        own.map(|(_, prepare)| prepare)
    }
}

/// The votes of all replicas.
#[derive(Debug)]
pub(crate) struct Votes {
    view: View,
    peers: Vec<Peer>,
}

impl Votes {
    pub(crate) fn new(view: View, replicas: usize) -> Self {
        Self { view, peers: (0..replicas).map(|_| Peer::default()).collect() }
    }

    pub(crate) fn peer(&self, replica: ReplicaId) -> &Peer {
        &self.peers[replica.index()]
    }

    pub(crate) fn peer_mut(&mut self, replica: ReplicaId) -> &mut Peer {
        &mut self.peers[replica.index()]
    }

    pub(crate) fn peers(&self) -> impl Iterator<Item = (ReplicaId, &Peer)> {
        (0u8..).map(ReplicaId).zip(&self.peers)
    }

    /// Whether this PREPARE would add a vote above `above` and up to `upto`, or is the first to contradict one.
    pub(crate) fn is_news(&self, signer: ReplicaId, prepare: &Prepare, above: Seq, upto: Seq) -> bool {
        let peer = self.peer(signer);
        let is_news = |(seq, digest): (Seq, Digest)| match peer.prepares.get(&seq) {
            _ if seq <= above || seq > upto => false,
            None => true,
            Some((known, _)) => *known != digest && !peer.has_contradicted,
        };
        prepare.view == self.view && slots(prepare).any(is_news)
    }

    /// Takes a PREPARE of the view: a vote for exactly the slots it names. False when it is the first to contradict an
    /// earlier vote of the same replica, which then stands.
    pub(crate) fn on_prepare(
        &mut self,
        signer: ReplicaId,
        prepare: &Arc<Prepare>,
        above: Seq,
        upto: Seq,
    ) -> bool {
        assert_eq!(prepare.view, self.view, "votes are never counted across views");
        let peer = &mut self.peers[signer.index()];
        let votes = &mut peer.prepares;
        let mut consistent = true;
        for (seq, digest) in slots(prepare) {
            if seq <= above || seq > upto {
                continue;
            }
            let (first, _) = votes.entry(seq).or_insert_with(|| (digest, Arc::clone(prepare)));
            consistent &= *first == digest;
        }
        consistent || std::mem::replace(&mut peer.has_contradicted, true)
    }

    /// The PREPAREs for exactly this slot and digest, signers ascending.
    pub(crate) fn prepares(&self, position: Position) -> Vec<(ReplicaId, Arc<Prepare>)> {
        self.peers()
            .filter_map(|(replica, peer)| {
                peer.vote_for(position).map(|prepare| (replica, Arc::clone(prepare)))
            })
            .collect()
    }

    /// The replicas that voted PREPARE for exactly this slot and digest.
    pub(crate) fn voters(&self, position: Position) -> ReplicaSet {
        let mut voters = ReplicaSet::EMPTY;
        for (replica, peer) in self.peers() {
            if peer.vote_for(position).is_some() {
                voters.insert(replica);
            }
        }
        voters
    }

    /// The number of PREPAREs for exactly this slot and digest.
    pub(crate) fn count_prepares(&self, position: Position) -> usize {
        self.voters(position).len()
    }

    /// Takes a COMMIT of the view; an older one of the same replica says nothing new.
    pub(crate) fn on_commit(&mut self, from: ReplicaId, position: Position) {
        let peer = &mut self.peers[from.index()];
        if peer.commit.is_none_or(|commit| commit.seq < position.seq) {
            peer.commit = Some(position);
        }
    }

    /// The highest slot that COMMITs of `quorum` replicas cover. `contains` says whether a position is on the
    /// own chain: a COMMIT counts for its slot and every ancestor, and for nothing on another chain. A claim to
    /// have committed counts as a COMMIT: an honest one says more, a false one no more.
    pub(crate) fn committed(&mut self, quorum: usize, contains: impl Fn(Position) -> bool) -> Seq {
        for peer in &mut self.peers {
            for position in peer.commit.into_iter().chain([peer.claim]) {
                if position.seq > peer.covered && contains(position) {
                    peer.covered = position.seq;
                }
            }
        }
        nth_highest(self.peers.iter().map(|peer| peer.covered), quorum)
    }

    /// The view in which votes are counted is another one: what was voted in the one before counts no longer, but
    /// claims to have committed stay true.
    pub(crate) fn enter(&mut self, view: View) {
        assert!(view > self.view, "views do not go back");
        self.view = view;
        for peer in &mut self.peers {
            if peer.prepares.is_empty() || !is_made(Mistake::CountsAcrossViews) {
                peer.prepares.clear();
            }
            peer.has_contradicted = false;
            peer.commit = None;
            peer.covered = Seq(0);
        }
    }

    /// There is something new that helps others into a view.
    pub(crate) fn help_anew(&mut self) {
        for peer in &mut self.peers {
            peer.helped_until = Nanoseconds(0);
        }
    }

    /// The own chain was replaced above `seq`: what COMMITs cover there is to be found out anew.
    pub(crate) fn uncover(&mut self, seq: Seq) {
        for peer in &mut self.peers {
            peer.covered = peer.covered.min(seq);
        }
    }

    /// Forgets PREPAREs up to a committed slot.
    pub(crate) fn forget(&mut self, upto: Seq) {
        for peer in &mut self.peers {
            peer.prepares = peer.prepares.split_off(&upto.next());
        }
    }

    /// The number of votes kept, for audits.
    pub(crate) fn len(&self) -> usize {
        self.peers.iter().map(|peer| peer.prepares.len()).sum()
    }
}

/// The digest for which a PREPARE votes at `seq`, if it names that slot.
pub(crate) fn voted(prepare: &Prepare, seq: Seq) -> Option<Digest> {
    let offset = seq.0.checked_sub(prepare.lo.0)?;
    prepare.digests.get(usize::try_from(offset).ok()?).copied()
}

/// The slots that a PREPARE names, with their digests; never one outside [lo, hi].
fn slots(prepare: &Prepare) -> impl Iterator<Item = (Seq, Digest)> {
    let lo = prepare.lo;
    prepare.digests.iter().enumerate().map(move |(offset, digest)| (lo.plus(offset as u64), *digest))
}
