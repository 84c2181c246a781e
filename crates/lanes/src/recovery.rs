//! Lanes that are found again in the journal, lanes of a state that came from others, and the own lanes of a replica
//! that was restarted: what it has sent before and not found again, its peers may hold (DESIGN section 5).

use crate::batch::Batch;
use crate::fetch::Search;
use crate::lane::{Found, Lane};
use crate::lanes::{Lanes, Output};
use quorate_types::{ClusterConfig, JournalId, LaneId, LinkId, Lsn, Mark, ReplicaId, ReplicaSet, Why};
use quorate_wire::{Frame, Kind, LaneTip};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What a replica has of its lanes after a restart.
#[derive(Debug)]
pub struct Recovered {
    /// The last position of the journal; all up to it is durable.
    pub last_lsn: Lsn,
    /// The executed tips in the state, of the lanes that have moved.
    pub tips: Vec<LaneTip>,
    /// The batches in the journal with their positions and why they were held, in its order.
    pub batches: Vec<(Lsn, Frame, Why)>,
    /// What the journal names and cannot give back, with its positions and why it was held.
    pub lost: Vec<(Lsn, LaneTip, Why)>,
}

/// An own lane of a restarted replica, before it seals.
///
/// The longest chain that f+1 others have acknowledged is adopted: this replica may have sent it before it was durable
/// here. It seals when it has heard n − f replicas, itself included, and holds what f+1 of them have acknowledged; what fewer
/// of them say delays nothing. What it has acknowledged itself and lost, be it held by one of them alone, it asks all of them
/// for once before it seals beside that. What a quorum has acknowledged might still be missed, if those who say so are slow and others
/// lie: then that is committed, and what was sealed beside it is sealed again behind it.
#[derive(Debug, Default)]
pub(crate) struct Adoption {
    /// The peers that have shown their frontier.
    pub(crate) heard: ReplicaSet,
    pub(crate) search: OwnSearch,
}

/// Whether those that were heard were asked for all that was lost of the own lane.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum OwnSearch {
    /// Too few were heard.
    #[default]
    Due,
    Begun,
    Over,
}

impl Lanes {
    /// The lanes of `links` as they were when this replica stopped, above what is executed in its state.
    ///
    /// The caller's watermark of `journal` stands at [`Recovered::last_lsn`]. Batches that connect to an executed tip are put
    /// out as [`Output::Held`], with the verdicts on their signatures, in the first ticks. Those behind a lost one are kept,
    /// and served, until that is fetched again; then they are held, too. What is no batch is dropped. Own lanes seal nothing
    /// until peers have shown what they hold of them.
    #[must_use]
    pub fn recover(
        config: Arc<ClusterConfig>,
        me: ReplicaId,
        links: &[LinkId],
        journal: JournalId,
        recovered: Recovered,
    ) -> Self {
        let mut lanes = Self::new(Arc::clone(&config), me, links, journal);
        lanes.last_lsn = recovered.last_lsn;
        let mut of_lane: BTreeMap<LaneId, Vec<Found>> = BTreeMap::new();
        for (lsn, frame, why) in recovered.batches {
            assert!(lsn <= recovered.last_lsn, "a record behind the last one");
            if frame.kind() == Kind::Batch
                && let Ok(batch) = Batch::read(frame)
            {
                of_lane.entry(batch.lane()).or_default().push((lsn, Arc::new(batch), why));
            }
        }
        let mut records = Vec::new();
        for (id, share) in &mut lanes.shares {
            let executed = recovered.tips.iter().find(|tip| tip.lane == *id).map(LaneTip::mark);
            share.lane = Lane::new(*id, me, &config, journal, executed.unwrap_or_default());
            let lost = recovered.lost.iter().filter(|(_, tip, _)| tip.lane == *id);
            let lost = lost.map(|(_, tip, why)| (tip.mark(), *why)).collect();
            share.lane.recover(of_lane.remove(id).unwrap_or_default(), lost);
            share.lane.tell_again();
            records.extend(share.lane.positions());
            for mark in share.lane.held.unexecuted() {
                let why = share.lane.held.get(mark).map_or(Why::Named, |node| node.why);
                lanes.checks.push(LaneTip::at(*id, mark), why);
            }
        }
        records.extend(recovered.lost.iter().map(|(lsn, tip, _)| (*lsn, *tip)));
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
        for (id, share) in &mut self.shares {
            share.lane.tell_again();
            // Those that are still to be checked come with their verdicts.
            let is_checked = |mark: &Mark| !self.checks.contains(LaneTip::at(*id, *mark));
            let checked = share.lane.held.unexecuted().into_iter().filter(is_checked);
            let batches = checked.filter_map(|mark| share.lane.find(mark)).cloned();
            out.extend(batches.map(Output::Held));
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

    /// Whether the own lane waits for nothing but what f+1 others have acknowledged of it.
    pub(crate) fn is_settling(&self, lane: LaneId) -> bool {
        let adoption = self.links.get(&lane.link).and_then(|link| link.adoption.as_ref());
        lane.origin == self.me() && adoption.is_some_and(|adoption| self.has_heard(adoption))
    }

    /// What is lost of the own lane is looked for among those that were heard: all of it from now on, if too few were heard
    /// before.
    pub(crate) fn begin_own_search(&mut self, lane: LaneId) {
        if self.is_settling(lane)
            && let Some(adoption) = self.adoption_mut(lane)
            && adoption.search == OwnSearch::Due
        {
            adoption.search = OwnSearch::Begun;
            if let Some(share) = self.share_mut(lane) {
                share.walks.lost = Search::default();
            }
        }
    }

    /// All that is lost of a lane was looked for once.
    pub(crate) fn end_own_search(&mut self, lane: LaneId) {
        if let Some(adoption) = self.adoption_mut(lane)
            && adoption.search == OwnSearch::Begun
        {
            adoption.search = OwnSearch::Over;
        }
    }

    fn adoption_mut(&mut self, lane: LaneId) -> Option<&mut Adoption> {
        let is_own = lane.origin == self.me();
        self.links.get_mut(&lane.link).filter(|_| is_own)?.adoption.as_mut()
    }

    fn has_heard(&self, adoption: &Adoption) -> bool {
        let quorums = self.config().quorums();
        adoption.heard.len() + 1 >= quorums.replicas - quorums.faults
    }

    /// Whether the chain of an own lane that was recovered is settled.
    fn is_settled(&self, link: LinkId) -> bool {
        let lane = self.own_lane(link);
        let Some(adoption) = self.links.get(&link).and_then(|link| link.adoption.as_ref()) else {
            return false;
        };
        let Some(share) = self.shares.get(&lane) else { return false };
        let is_searched = adoption.search == OwnSearch::Over || share.lane.strays.lost().is_empty();
        self.is_settling(lane) && is_searched && share.lane.acknowledged.lacking(self.me()).is_empty()
    }

    /// Whether [`Lanes::finish_adoptions`] has something to do.
    pub(crate) fn finishes_adoptions(&self) -> bool {
        self.links.keys().any(|link| self.is_settled(*link))
    }

    /// Own lanes whose chain is settled seal again, behind the longest chain that f+1 others have acknowledged.
    pub(crate) fn finish_adoptions(&mut self) {
        let settled: Vec<LinkId> = self.links.keys().copied().filter(|link| self.is_settled(*link)).collect();
        for link in settled {
            let lane = self.own_lane(link);
            if let Some(share) = self.shares.get_mut(&lane)
                && let Some(longest) = share.lane.longest_vouched_for()
            {
                share.lane.held.prefer(longest);
            }
            if let Some(link) = self.links.get_mut(&link) {
                link.adoption = None;
            }
        }
    }
}
