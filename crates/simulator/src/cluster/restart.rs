//! Replicas crash and start again from what their disks give back.

use super::{Cluster, core_id, id, replica_setup};
use crate::disk::Restored;
use crate::event::{Event, Life};
use crate::network::{ConnectionId, Side};
use crate::oracle::durability::{Fact, Restart};
use crate::oracle::{Finding, Violation};
use crate::trace::Detail;
use quorate_journal::Record;
use quorate_replica::{Core, Recovery};
use quorate_types::{JournalId, Lsn, Nanoseconds, ReplicaId};

use super::Route;

/// A replica that is to crash does so in the middle of one of its next steps, if there is one within this time.
const CRASH_TIME: Nanoseconds = Nanoseconds::from_millis(20);
/// The effects after which it crashes, at most.
const CRASH_EFFECTS_MAX: u64 = 200;

impl Cluster {
    /// Lets a replica crash after one of its next effects, or after a while without so many.
    pub(super) fn crash_soon(&mut self, replica: ReplicaId) {
        let effects = self.crash_random.magnitude(1, CRASH_EFFECTS_MAX);
        let host = self.host(replica);
        host.downs += 1;
        if host.is_up() && host.crashes_after.is_none() {
            host.crashes_after = Some(effects);
            let life = host.life;
            let at = self.now.plus(self.crash_random.below(CRASH_TIME.0));
            self.queue.push(at, Event::Crash { life });
        }
    }

    pub(super) fn on_crash_due(&mut self, life: Life) {
        if self.lives(life) {
            self.crash(life.replica);
        }
    }

    /// Counts an effect; says whether the replica has crashed after it.
    pub(super) fn crashes_now(&mut self, replica: ReplicaId) -> bool {
        let host = self.host(replica);
        let Some(left) = &mut host.crashes_after else { return false };
        *left -= 1;
        if *left > 0 {
            return false;
        }
        self.crash(replica);
        true
    }

    pub(super) fn crash(&mut self, replica: ReplicaId) {
        if !self.host(replica).is_up() {
            return;
        }
        self.trace.note(self.now, Detail::Readable, &[17, id(replica)], || format!("r{replica} crashes"));
        // The disk judges by that what its last steps remove.
        self.note_certified(replica);
        self.oracles.fairness.on_end(replica);
        let host = &mut self.hosts[replica.index()];
        host.crash();
        host.disk.crash(&mut self.crash_random);
        self.oracles.durability.on_crash(replica);
        for (connection, side) in self.ends_of(replica) {
            self.network.fall(self.now, connection, side, &mut self.queue);
        }
        for route in &mut self.routes {
            if let Route::Client { replica: other, there, .. } = route
                && *other == replica
            {
                *there = None;
            }
        }
    }

    /// A fault that kept a replica down is over; it starts if it was the last.
    pub(super) fn end_down(&mut self, replica: ReplicaId) -> Result<(), Finding> {
        // It had no time to crash by itself.
        self.crash(replica);
        self.host(replica).downs -= 1;
        if self.host(replica).downs > 0 {
            return Ok(());
        }
        self.start(replica).map_err(|violation| self.finding(Some(replica), violation))
    }

    fn start(&mut self, replica: ReplicaId) -> Result<(), Violation> {
        let host = &mut self.hosts[replica.index()];
        let was_learner = host.disk.learner.is_some();
        let Restored { found, executed, checkpoint, damage } = host.disk.restore(&mut self.crash_random);
        self.watch_removals(replica)?;
        let records = found.records.len() + executed.len();
        self.trace.note(self.now, Detail::Readable, &[18, id(replica), records as u64], || {
            let position = checkpoint.map(|(position, _)| position.seq);
            let broken = found.broken.as_ref().map(|broken| broken.position.seq);
            let learner = found.learner.as_deref().unwrap_or("a voter");
            format!("r{replica} starts with {records} records and the state after {position:?}, that after {broken:?} broken; {learner}; {damage}")
        });
        if found.learner.is_some() && !was_learner && !self.plan.may_forget(replica) {
            let text =
                format!("comes back as a learner, though there were copies of all that was bad: {damage}");
            return Err(Violation::new("voters stay voters", text));
        }
        self.watch_restart(replica, &found, &executed, checkpoint.map(|(position, _)| position))?;
        if let Some((position, root)) = checkpoint {
            let judged = self.oracles.agreement.on_root(replica, position.seq, root);
            self.excused(replica, judged)?;
        }
        let setup = replica_setup(&self.plan, &self.config, replica);
        let recovery = Recovery::of(&setup, found);
        let mut recovery =
            recovery.map_err(|error| Violation::new("restart", format!("cannot recover: {error}")))?;
        let cores: Vec<Core> =
            (0..self.plan.cores).map(|core| Core::recover(&setup, core_id(core), &mut recovery)).collect();
        self.host(replica).restart(cores);
        for (connection, side) in self.ends_of(replica) {
            self.network.rise(connection, side);
        }
        for core in 0..self.plan.cores {
            self.wake(replica, core_id(core));
            self.pump(replica, core_id(core));
        }
        if self.host(replica).fills > 0 {
            self.tell_of_room(replica);
        }
        Ok(())
    }

    /// What the oracles make of what a disk gives back.
    fn watch_restart(
        &mut self,
        replica: ReplicaId,
        found: &quorate_replica::Found,
        executed: &[(JournalId, Lsn, Record)],
        checkpoint: Option<quorate_wire::Position>,
    ) -> Result<(), Violation> {
        self.broken += u64::from(found.broken.is_some());
        let oracles = &mut self.oracles;
        let mut facts = Vec::with_capacity(found.records.len() + executed.len());
        for (journal, lsn, record) in found.records.iter().chain(executed) {
            facts.push((*journal, *lsn, Fact::of(record, &mut oracles.ledger)?));
        }
        if found.learner.is_some() {
            oracles.votes.on_learner(replica);
            oracles.durability.on_learner(replica);
        }
        let damaged = std::mem::take(&mut self.hosts[replica.index()].damaged);
        let broken = found.broken.as_ref().map(|broken| broken.position);
        let keeps_votes = !self.plan.may_forget(replica);
        let rotten = self.hosts[replica.index()].disk.rotten.clone();
        let ends = found.ends.clone();
        let restart = Restart { facts, ends, checkpoint, broken, damaged, keeps_votes, rotten };
        let facts = oracles.durability.on_restart(&oracles.ledger, replica, restart);
        if self.agents.contains_key(&replica) {
            return Ok(());
        }
        let facts = facts?;
        oracles.agreement.on_restart(replica);
        oracles.work.on_restart(replica);
        oracles.votes.on_restart(replica);
        self.note_entries(replica, &facts)
    }

    /// Views that are entered durably begin where everybody else lets them begin.
    pub(super) fn note_entries(&mut self, replica: ReplicaId, facts: &[Fact]) -> Result<(), Violation> {
        for fact in facts {
            if let Fact::EnterView(view, head) = fact {
                self.oracles.votes.on_enter(replica, self.config.primary(*view), *view, *head)?;
            }
        }
        Ok(())
    }

    /// The disk of a replica that is down is gone for good.
    pub(super) fn lose_disk(&mut self, replica: ReplicaId) {
        self.crash(replica);
        self.host(replica).disk.lose();
        self.oracles.durability.on_loss(replica);
    }

    /// What a replica that is down has on disk is damaged.
    pub(super) fn corrupt_disk(&mut self, replica: ReplicaId) {
        self.crash(replica);
        let host = &mut self.hosts[replica.index()];
        host.damaged = true;
        let what = host.disk.corrupt(&mut self.crash_random);
        self.trace
            .note(self.now, Detail::Readable, &[19, id(replica)], || format!("r{replica} damaged: {what}"));
    }

    /// Blocks of what a replica that is down has on disk are bad, of which there are copies.
    pub(super) fn rot_disk(&mut self, replica: ReplicaId) {
        self.crash(replica);
        let replicas = self.plan.replicas;
        let host = &mut self.hosts[replica.index()];
        host.damaged = true;
        let what = host.disk.rot(&mut self.crash_random, replicas);
        self.trace
            .note(self.now, Detail::Readable, &[23, id(replica)], || format!("r{replica} rots: {what}"));
    }

    /// The ends of all connections that are a replica's.
    fn ends_of(&self, replica: ReplicaId) -> Vec<(ConnectionId, Side)> {
        let end = |(index, route): (usize, &Route)| {
            let side = match route {
                Route::Peers { ends, .. } if ends[0] == replica => Side::Dialer,
                Route::Peers { ends, .. } if ends[1] == replica => Side::Listener,
                Route::Client { replica: other, .. } if *other == replica => Side::Listener,
                _ => return None,
            };
            Some((ConnectionId(index), side))
        };
        self.routes.iter().enumerate().filter_map(end).collect()
    }
}
