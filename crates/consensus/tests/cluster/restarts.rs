//! Replicas that come back from their disks, and journals that go bad: by what is recovered the referee sees whether
//! anything was forgotten.

use super::{Cluster, JOURNAL};
use quorate_consensus::{Consensus, Fact, Recovered, Voting};
use quorate_types::{After, Digest, Domain, Lsn, ReplicaId, Seq};
use quorate_wire::{header, testing};
use std::collections::BTreeMap;
use std::sync::Arc;

impl Cluster {
    /// A replica loses all that is not on its disk, and comes back with the rest. Recovered from its trimmed journal
    /// it is bound by the same as if it never had been trimmed.
    pub(crate) fn restart(&mut self, id: ReplicaId, voting: Voting) {
        let genesis = header::genesis(self.config.digest());
        let log = self.log.len();
        let node = self.node_mut(id);
        let durable = node.durable.get(&JOURNAL).copied().unwrap_or_default();
        for (upto, after) in std::mem::take(&mut node.trims) {
            if node.reached(&after) {
                node.trimmed = node.trimmed.max(upto);
            }
        }
        let trimmed = node.trimmed;
        node.journal.retain(|lsn, _| *lsn <= durable && *lsn > trimmed);
        node.whole.retain(|lsn, _| *lsn <= durable);
        node.appended.clone_from(&node.durable);
        node.held.clear();
        node.to_itself.clear();
        node.stable = Seq(0);
        node.accepted.clear();
        node.ballots.clear();
        node.prepared.clear();
        node.left.clear();
        node.entered.clear();
        let (floor, _, marks) = node.floor.clone();
        let floor = if floor.seq == Seq(0) { genesis } else { floor };
        node.committed.retain(|position| position.seq <= floor.seq);
        node.marks.clone_from(&marks);
        let node = self.node(id);
        let from_trimmed = self.recover(id, &node.journal, voting);
        let from_whole = self.recover(id, &node.whole, voting);
        let promises = (from_trimmed.promises(), from_whole.promises());
        let node = self.node_mut(id);
        node.consensus = from_trimmed;
        node.crashed = false;
        let facts = node.whole.clone();
        let is_damaged = std::mem::take(&mut node.damaged);
        // Below a damaged checkpoint the trimmed journal leads nowhere, while the whole one would.
        if promises.0 != promises.1 && !is_damaged {
            self.violations.push(format!("r{id} is bound by {} where it was {}", promises.0, promises.1));
        }
        for (lsn, fact) in facts {
            self.note(id, lsn, fact);
        }
        self.log.truncate(log);
        self.say(id, format!("comes back: {}", self.node(id).consensus.waiting()));
        self.restore_lanes(id, &marks);
        if floor != genesis {
            // Its vote for the checkpoint may be lost with it.
            let root = Digest::of(Domain::StateRoot, &floor.digest.0);
            self.with(id, |consensus, out| consensus.on_root(floor, root, out));
        }
        for peer in self.ids().into_iter().filter(|peer| *peer != id) {
            self.with(peer, |consensus, out| {
                consensus.on_disconnected(id);
                consensus.on_connected(id, out);
            });
            self.with(id, |consensus, out| consensus.on_connected(peer, out));
        }
        self.tick(id);
    }

    /// All that stands in the journal of a replica goes bad, and it finds that. What it writes again says by itself what
    /// the whole journal has said.
    pub(crate) fn rot(&mut self, id: ReplicaId) {
        self.tick(id);
        if self.node(id).crashed {
            return;
        }
        let mut before = self.node(id).whole.clone();
        let last = self.node(id).appended.get(&JOURNAL).copied().unwrap_or_default();
        self.with(id, |consensus, _| consensus.on_lost(last));
        self.tick(id);
        let node = self.node(id);
        let is_needed = |(upto, _): &(Lsn, After)| *upto >= last;
        if !node.trims.iter().any(is_needed) {
            // It waits for the first certified state.
            if node.consensus.positions().stable.seq >= node.floor.0.seq && node.floor.0.seq > Seq(0) {
                self.violations.push(format!("r{id} goes on needing what went bad"));
            }
            return;
        }
        // The places are bad until they are trimmed, and may be found so again.
        let written = self.node(id).whole.len();
        self.with(id, |consensus, _| consensus.on_lost(last));
        self.tick(id);
        if self.node(id).whole.len() > written {
            self.violations.push(format!("r{id} writes again what it has written again"));
        }
        let node = self.node(id);
        let after: BTreeMap<_, _> =
            node.whole.range(last.next()..).map(|(lsn, fact)| (*lsn, fact.clone())).collect();
        // A certificate for which no COMMIT was sent is not written down before.
        let certificate = |(_, fact): &(Lsn, Fact)| matches!(fact, Fact::Prepared { .. });
        before.extend(after.clone().into_iter().filter(certificate));
        let bound = [&before, &after].map(|facts| self.recover(id, facts, Voting::Voter).promises());
        if bound[0] != bound[1] {
            let [before, after] = bound;
            self.violations.push(format!("r{id} is bound by {after} where it was {before}"));
        }
    }

    /// What a replica would be with these facts in its journal.
    fn recover(&self, id: ReplicaId, facts: &BTreeMap<Lsn, Fact>, voting: Voting) -> Consensus {
        let (floor, timestamp, marks) = &self.node(id).floor;
        let genesis = header::genesis(self.config.digest());
        let floor = if floor.seq == Seq(0) { genesis } else { *floor };
        let mut recovered = Recovered::new(floor, *timestamp, marks.values().copied());
        for (lsn, fact) in facts {
            recovered.fold(*lsn, fact.clone());
        }
        let last = self.node(id).durable.get(&JOURNAL).copied().unwrap_or_default();
        let (config, key) = (Arc::clone(&self.config), testing::replica_key(id.0));
        Consensus::recover(config, id, key, JOURNAL, recovered, last, voting)
    }
}
