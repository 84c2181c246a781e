//! Disks at work: groups leave as a driver lets them, segments are made ahead, checkpoints are written beside.

use super::{Cluster, core_id};
use crate::disk::pages::{Contents, Job, Written};
use crate::event::{Event, Life};
use crate::host::{Arrival, Stalled};
use crate::oracle::{Finding, Violation};
use crate::trace::Detail;
use quorate_journal::WriteId;
use quorate_replica::Intake;
use quorate_types::{CoreId, JournalId, Lsn, Nanoseconds, ReplicaId, Seq};

/// The longest that writing a checkpoint takes.
const PAGES_TIME_MAX: Nanoseconds = Nanoseconds::from_millis(50);
/// The longest from when a batch goes bad to when that is found.
const SCRUB_TIME: Nanoseconds = Nanoseconds::from_millis(50);
/// After how much quiet a log confirms its last group.
const QUIET: Nanoseconds = Nanoseconds::from_millis(30);

impl Cluster {
    /// Lets everything begin that is worth beginning in the log of a core.
    pub(super) fn pump(&mut self, replica: ReplicaId, core: CoreId) {
        let life = self.hosts[replica.index()].life;
        loop {
            if self.host(replica).disk.logs[core.index()].begin_action() {
                let delay = 2 * self.write_delay();
                self.queue.push(self.now.plus(delay), Event::SegmentMade { life, core });
            }
            let Some((write, _)) = self.host(replica).disk.logs[core.index()].begin_write() else { return };
            let delay = self.write_delay();
            if delay > 0 || self.host(replica).stalls > 0 {
                self.queue.push(self.now.plus(delay), Event::Written { life, core, write });
            } else {
                self.end_write(replica, core, write);
            }
        }
    }

    fn write_delay(&mut self) -> u64 {
        let plan = self.plan.disk;
        let delay = self.disk_random.between(plan.write_min.0, plan.write_max.0);
        if self.disk_random.permille(plan.stall_permille) { 20 * delay } else { delay }
    }

    /// Whether a replica is in the life in which something was begun.
    pub(super) fn lives(&self, life: Life) -> bool {
        let host = &self.hosts[life.replica.index()];
        host.life == life && host.is_up()
    }

    pub(super) fn on_written(&mut self, life: Life, core: CoreId, write: WriteId) {
        if !self.lives(life) {
            return;
        }
        let host = self.host(life.replica);
        if host.stalls > 0 {
            host.stalled.push(Stalled::Write(core, write));
            return;
        }
        self.end_write(life.replica, core, write);
        self.pump(life.replica, core);
    }

    fn end_write(&mut self, replica: ReplicaId, core: CoreId, write: WriteId) {
        let mut durable = Vec::new();
        let host = self.host(replica);
        let log = &mut host.disk.logs[core.index()];
        log.end_write(write, &mut durable);
        if log.is_idle() {
            let (life, since) = (host.life, log.activity());
            self.queue.push(self.now.plus(QUIET.0), Event::Quiet { life, core, since });
        }
        for (journal, upto) in durable {
            self.deliver(replica, core, Arrival::Durable(journal, upto));
        }
    }

    pub(super) fn on_quiet(&mut self, life: Life, core: CoreId, since: u64) {
        if !self.lives(life) {
            return;
        }
        let log = &mut self.host(life.replica).disk.logs[core.index()];
        if log.is_idle() && log.activity() == since {
            log.confirm();
            self.pump(life.replica, core);
        }
    }

    pub(super) fn on_segment_made(&mut self, life: Life, core: CoreId) {
        if !self.lives(life) {
            return;
        }
        let host = self.host(life.replica);
        if host.stalls > 0 || host.fills > 0 {
            host.stalled.push(Stalled::Segment(core));
            return;
        }
        host.disk.logs[core.index()].end_action();
        self.pump(life.replica, core);
    }

    /// A record is to be read back.
    pub(super) fn read_back(&mut self, replica: ReplicaId, core: CoreId, journal: JournalId, lsn: Lsn) {
        let life = self.host(replica).life;
        let at = self.now.plus(1 + self.write_delay());
        self.queue.push(at, Event::ReadBack { life, core, journal, lsn });
    }

    pub(super) fn on_read_back(&mut self, life: Life, core: CoreId, journal: JournalId, lsn: Lsn) {
        if !self.lives(life) {
            return;
        }
        let host = self.host(life.replica);
        if host.stalls > 0 {
            host.stalled.push(Stalled::Read(core, journal, lsn));
            return;
        }
        let record = host.disk.logs[core.index()].read_back(journal, lsn);
        self.deliver(life.replica, core, Arrival::ReadBack(journal, lsn, record));
    }

    /// Batches in the logs of a replica that runs go bad, and its slow reading comes past them.
    pub(super) fn decay(&mut self, replica: ReplicaId) {
        let replicas = self.plan.replicas;
        let host = &mut self.hosts[replica.index()];
        if !host.is_up() {
            return;
        }
        let life = host.life;
        host.damaged = true;
        let mut found = 0;
        for core in 0..self.plan.cores {
            for (journal, lsn) in host.disk.decay(&mut self.crash_random, core, replicas) {
                found += 1;
                let at = self.now.plus(1 + self.crash_random.below(SCRUB_TIME.0));
                self.queue.push(at, Event::Lost { life, core: core_id(core), journal, lsn });
            }
        }
        self.trace.note(self.now, Detail::Readable, &[24, super::id(replica), found], || {
            format!("r{replica}: {found} batches go bad")
        });
    }

    pub(super) fn on_lost(&mut self, life: Life, core: CoreId, journal: JournalId, lsn: Lsn) {
        if self.lives(life) && self.host(life.replica).disk.logs[core.index()].needs(journal, lsn) {
            self.deliver(life.replica, core, Arrival::Lost(journal, lsn));
        }
    }

    /// A state is to be written beside everything else.
    pub(super) fn write_pages(&mut self, replica: ReplicaId, job: Job) {
        if self.host(replica).disk.pages.add(job) {
            self.schedule_pages(replica);
        }
    }

    fn schedule_pages(&mut self, replica: ReplicaId) {
        let delay = self.disk_random.between(0, PAGES_TIME_MAX.0);
        let life = self.host(replica).life;
        self.queue.push(self.now.plus(delay), Event::PagesWritten { life });
    }

    pub(super) fn on_pages_written(&mut self, life: Life) -> Result<(), Finding> {
        if !self.lives(life) {
            return Ok(());
        }
        let replica = life.replica;
        self.note_certified(replica);
        let host = self.host(replica);
        if host.stalls > 0 || host.fills > 0 {
            host.stalled.push(Stalled::Pages);
            return Ok(());
        }
        let (Written { position, root, complete }, more) = host.disk.pages.end();
        let kept = self.watch_removals(replica);
        kept.map_err(|violation| self.finding(Some(replica), violation))?;
        if complete {
            let core = core_id(self.plan.cores - 1);
            self.deliver(replica, core, Arrival::Checkpointed(position, root));
        }
        self.trace.note(self.now, Detail::Readable, &[20, super::id(replica), position.seq.0], || {
            let what = if complete { "state" } else { "part of the state" };
            format!("r{replica} has the {what} after {:?} on disk", position.seq)
        });
        if more {
            self.schedule_pages(replica);
        }
        Ok(())
    }

    /// Of the states that are durable, only those after these slots are needed.
    pub(super) fn keep_states(&mut self, replica: ReplicaId, needed: &[Seq]) -> Result<(), Violation> {
        self.oracles.durability.on_states_needed(replica, needed);
        self.note_certified(replica);
        self.host(replica).disk.pages.keep_states(needed);
        self.watch_removals(replica)
    }

    /// Lets the disk know what is certified durably, for its own judgement.
    pub(super) fn note_certified(&mut self, replica: ReplicaId) {
        let stable = self.oracles.durability.stable(replica);
        self.host(replica).disk.pages.note_certified(stable);
    }

    /// What cannot be read of checkpoints, or was voted for, is not removed before something takes its place.
    pub(super) fn watch_removals(&mut self, replica: ReplicaId) -> Result<(), Violation> {
        match self.host(replica).disk.pages.removed_too_early() {
            None => Ok(()),
            Some((oracle, text)) => Err(Violation::new(oracle, text)),
        }
    }

    /// A stall or a full disk is over: if nothing else holds the disk up, what fell due meanwhile happens.
    pub(super) fn resume_disk(&mut self, replica: ReplicaId) {
        let host = self.host(replica);
        if host.stalls > 0 {
            return;
        }
        let life = host.life;
        for stalled in std::mem::take(&mut host.stalled) {
            let at = self.now.plus(1 + self.disk_random.below(1_000_000));
            let event = match stalled {
                Stalled::Write(core, write) => Event::Written { life, core, write },
                Stalled::Segment(core) => Event::SegmentMade { life, core },
                Stalled::Read(core, journal, lsn) => Event::ReadBack { life, core, journal, lsn },
                Stalled::Pages => Event::PagesWritten { life },
            };
            self.queue.push(at, event);
        }
    }

    /// Tells every core how full the disk is.
    pub(super) fn tell_of_room(&mut self, replica: ReplicaId) {
        let host = self.host(replica);
        let intake = match (host.fills, host.filled) {
            (0, _) => Intake::All,
            (_, 0) => Intake::Reads,
            (_, 1) => Intake::Endings,
            (_, _) => Intake::Nothing,
        };
        for core in 0..self.plan.cores {
            self.deliver(replica, core_id(core), Arrival::Intake(intake));
        }
    }
}

/// What an effect asks to be written.
pub(super) fn job(position: quorate_wire::Position, timestamp: Nanoseconds, contents: Contents) -> Job {
    Job { position, timestamp, contents }
}
