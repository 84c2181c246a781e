//! Lanes that are found again in the journal, lanes of a state that came from others, and the own lanes of a replica
//! that was restarted: what it has sent before and not found again, its peers may hold (DESIGN section 5).

use crate::batch::Batch;
use crate::fetch::Fetches;
use crate::lanes::{Lanes, Output};
use quorate_types::{
    ClusterConfig, Digest, JournalId, LaneId, LaneNumber, LinkId, Lsn, ReplicaId, ReplicaSet,
};
use quorate_wire::{Frame, Kind, LaneTip};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What a replica has of its lanes after a restart.
#[derive(Debug)]
pub struct Recovered {
    /// The last position of the journal; all up to it is durable.
    pub last_lsn: Lsn,
    /// The executed tips in the state, of the lanes that have moved.
    pub tips: Vec<LaneTip>,
    /// The batches in the journal with their positions, in its order.
    pub batches: Vec<(Lsn, Frame)>,
}

/// An own lane of a restarted replica, before it seals.
///
/// A chain longer than the own one is adopted as far as f+1 peers report it: this replica may have sent it before it
/// was durable here. It seals when it has heard n − f replicas, itself included, and fewer than f+1 report more
/// whose chain it does not know. What a quorum has acknowledged might still be missed, if those who report it are slow
/// and others lie: then that is committed, and what was sealed beside it is sealed again behind it.
#[derive(Debug, Default)]
pub(crate) struct Adoption {
    /// The peers that have shown their frontier.
    pub(crate) heard: ReplicaSet,
    /// What peers report whose chain was fetched: it was adopted as far as f+1 reported it then.
    known: BTreeMap<ReplicaId, (LaneNumber, Digest)>,
}

impl Lanes {
    /// The lanes of `links` as they were when this replica stopped, above what is executed in its state.
    ///
    /// The caller's watermark of `journal` stands at [`Recovered::last_lsn`]. Batches that do not connect to an executed
    /// tip, or are none, are dropped: they are fetched again. The others are put out as [`Output::Held`], with the
    /// verdicts on their signatures, in the first ticks. Own lanes seal nothing until peers have shown what they hold of
    /// them.
    #[must_use]
    pub fn recover(
        config: Arc<ClusterConfig>,
        me: ReplicaId,
        links: &[LinkId],
        journal: JournalId,
        recovered: Recovered,
    ) -> Self {
        let mut lanes = Self::new(config, me, links, journal);
        lanes.last_lsn = recovered.last_lsn;
        let mut of_lane: BTreeMap<LaneId, Vec<(Lsn, Arc<Batch>)>> = BTreeMap::new();
        for (lsn, frame) in recovered.batches {
            assert!(lsn <= recovered.last_lsn, "a record behind the last one");
            if frame.kind() == Kind::Batch
                && let Ok(batch) = Batch::read(frame)
            {
                of_lane.entry(batch.lane()).or_default().push((lsn, Arc::new(batch)));
            }
        }
        let mut records = Vec::new();
        let replicas = lanes.config().members().len();
        for (id, share) in &mut lanes.shares {
            let start = LaneTip { lane: *id, upto: LaneNumber(0), chain: Digest::ZERO };
            let tip = recovered.tips.iter().find(|tip| tip.lane == *id).unwrap_or(&start);
            let lane = crate::lane::Lane::new(*id, replicas, journal);
            share.lane = lane.recover(tip, of_lane.remove(id).unwrap_or_default());
            records.extend(share.lane.positions());
            lanes.unchecked.extend(share.lane.unexecuted().into_iter().map(|batch| batch.tip()));
        }
        records.sort_by_key(|(lsn, _)| *lsn);
        lanes.records.recover(recovered.last_lsn, records);
        lanes.links.values_mut().for_each(|link| link.adoption = Some(Adoption::default()));
        lanes
    }

    /// A state that came from others takes the place of the own one: each lane goes on from its tip in there, with what
    /// is held above it and descends from it. That is reported, held and acknowledged anew.
    ///
    /// The state must be durable, as its tips are acknowledged.
    pub fn install(&mut self, tips: &[LaneTip], out: &mut Vec<Output>) {
        self.on_executed(tips);
        for share in self.shares.values_mut() {
            share.fetches = Fetches::default();
            share.lane.report_again();
            // Those that are still to be checked come with their verdicts.
            let of_lane = self.unchecked.iter().filter(|tip| tip.lane == share.lane.id);
            let unchecked: BTreeSet<(LaneNumber, Digest)> =
                of_lane.map(|tip| (tip.upto, tip.chain)).collect();
            let is_checked = |batch: &&Arc<Batch>| !unchecked.contains(&(batch.number(), batch.chain()));
            let checked = share.lane.unexecuted().into_iter().filter(is_checked);
            out.extend(checked.map(|batch| Output::Held(Arc::clone(batch))));
        }
        let links: Vec<LinkId> = self.links.keys().copied().collect();
        for link in links {
            self.connected_peers(link).for_each(|peer| self.greet(peer, link));
        }
    }

    /// Whether the own lane of some link waits for what peers hold of it and seals nothing.
    #[must_use]
    pub fn is_adopting(&self) -> bool {
        self.links.values().any(|link| link.adoption.is_some())
    }

    /// Of what peers report above the own tip of an own lane, that whose chain is not known. Nothing before enough of
    /// them were heard, and once the lane seals.
    pub(crate) fn unknown_claims(
        &self,
        lane: LaneId,
        mut claims: Vec<(ReplicaId, LaneNumber, Digest)>,
    ) -> Vec<(ReplicaId, LaneNumber, Digest)> {
        let adoption = self.links.get(&lane.link).and_then(|link| link.adoption.as_ref());
        let Some(adoption) = adoption.filter(|adoption| self.has_heard(adoption)) else { return Vec::new() };
        claims.retain(|(replica, upto, chain)| adoption.known.get(replica) != Some(&(*upto, *chain)));
        claims
    }

    /// The chains up to these claims are known.
    pub(crate) fn note_known_claims(&mut self, lane: LaneId, claims: &[(ReplicaId, LaneNumber, Digest)]) {
        let own = lane.origin == self.me();
        let Some(link) = self.links.get_mut(&lane.link).filter(|_| own) else { return };
        if let Some(adoption) = &mut link.adoption {
            let known = claims.iter().map(|(replica, upto, chain)| (*replica, (*upto, *chain)));
            adoption.known.extend(known);
        }
    }

    fn has_heard(&self, adoption: &Adoption) -> bool {
        let quorums = self.config().quorums();
        adoption.heard.len() + 1 >= quorums.replicas - quorums.faults
    }

    /// Own lanes whose chain is settled seal again.
    pub(crate) fn finish_adoptions(&mut self) {
        let links: Vec<LinkId> = self.links.keys().copied().collect();
        for link in links {
            let (lane, me) = (self.own_lane(link), self.me());
            let adoption = self.links.get(&link).and_then(|link| link.adoption.as_ref());
            let Some(adoption) = adoption else { continue };
            let Some(share) = self.shares.get(&lane) else { continue };
            let ahead = share.lane.acknowledgements.ahead_of(share.lane.tip().upto, me);
            if self.has_heard(adoption)
                && self.unknown_claims(lane, ahead).len() < self.weak()
                && let Some(link) = self.links.get_mut(&link)
            {
                link.adoption = None;
            }
        }
    }
}
