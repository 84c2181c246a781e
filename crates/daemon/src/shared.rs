//! What the cores of one replica share: counters and flags, each written by one core and read by any.

use crate::clock::Clock;
use crate::space::{ReadOnly, Shortage};
use hdrhistogram::Histogram;
use quorate_replica::{Intake, Reject};
use quorate_telemetry::{CoreCounters, CoreHistograms, Counter, Counters, Histograms, Measure};
use quorate_types::{ClusterConfig, LinkId, Nanoseconds, ReplicaId};
use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::thread::Thread;

/// What one link to a peer is like, as bits of one cell.
const CONNECTED: u64 = 1;
const LAGGING: u64 = 2;

/// The reasons for refusing writes, and what is taken for all that, as both are stored.
const READ_ONLY: [ReadOnly; 3] = [ReadOnly::Journal, ReadOnly::Disk, ReadOnly::Checkpoint];
const INTAKES: [Intake; 3] = [Intake::Reads, Intake::Endings, Intake::Nothing];

/// Shared by the cores of one replica.
#[derive(Debug)]
pub(crate) struct Shared {
    counters: Counters,
    histograms: Histograms,
    /// Rejects by core and label.
    rejects: Vec<Vec<AtomicU64>>,
    /// By link and peer: flags in the low bits, queued bytes above.
    links: Vec<Vec<AtomicU64>>,
    /// By link and peer: how often it was banned, and until when it is.
    bans: Vec<Vec<(AtomicU64, AtomicU64)>>,
    /// Connected clients by core.
    clients: Vec<AtomicU64>,
    /// By core, what of its log is needed, in bytes.
    log_bytes: Vec<AtomicU64>,
    /// By core, whether what is to be written to its log waits for a segment.
    log_stands: Vec<AtomicBool>,
    /// Whether a segment waits for room on the disk.
    segment_waits: AtomicBool,
    /// What is free on the disk, once it was looked at; all bits before.
    disk_free_bytes: AtomicU64,
    /// What there is no room for: the place in [`READ_ONLY`] times as many as [`INTAKES`] are, with the place there,
    /// counted from 1, or 0.
    shortage: AtomicU8,
    /// Whether a checkpoint waits for room on the disk.
    checkpoint_waits: AtomicBool,
    stop: AtomicBool,
    /// Whether histograms are to be dumped, and the thread that does it.
    dump: AtomicBool,
    dumper: OnceLock<Thread>,
    halted: OnceLock<String>,
    pub(crate) clock: Clock,
}

fn cells(count: usize) -> Vec<AtomicU64> {
    std::iter::repeat_with(AtomicU64::default).take(count).collect()
}

impl Shared {
    pub(crate) fn new(config: &ClusterConfig, cores: usize) -> Self {
        let replicas = config.members().len();
        Self {
            counters: Counters::new(cores),
            histograms: Histograms::new(cores),
            rejects: (0..cores).map(|_| cells(Reject::LABELS.len())).collect(),
            links: config.link_ids().map(|_| cells(replicas)).collect(),
            bans: config
                .link_ids()
                .map(|_| cells(replicas).into_iter().zip(cells(replicas)).collect())
                .collect(),
            clients: cells(cores),
            log_bytes: cells(cores),
            log_stands: std::iter::repeat_with(AtomicBool::default).take(cores).collect(),
            segment_waits: AtomicBool::new(false),
            disk_free_bytes: AtomicU64::new(u64::MAX),
            shortage: AtomicU8::new(0),
            checkpoint_waits: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            dump: AtomicBool::new(false),
            dumper: OnceLock::new(),
            halted: OnceLock::new(),
            clock: Clock::start(),
        }
    }

    pub(crate) fn core(&self, core: usize) -> &CoreCounters {
        self.counters.core(core).expect("invariant: one set of counters per core")
    }

    pub(crate) fn histograms(&self, core: usize) -> &CoreHistograms {
        self.histograms.core(core).expect("invariant: one set of histograms per core")
    }

    /// What all cores have recorded so far.
    pub(crate) fn histogram(&self, measure: Measure) -> Histogram<u64> {
        self.histograms.read(measure)
    }

    pub(crate) fn sum(&self, counter: Counter) -> u64 {
        self.counters.sum(counter)
    }

    /// Counts a reject. For the owning core alone.
    pub(crate) fn count_reject(&self, core: usize, reject: Reject) {
        let label = reject.label();
        if let Some(index) = Reject::LABELS.iter().position(|known| *known == label) {
            let cell = &self.rejects[core][index];
            cell.store(cell.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        }
    }

    /// All rejects by label, those that never happened left out.
    pub(crate) fn rejects(&self) -> BTreeMap<String, u64> {
        let sum = |index: usize| self.rejects.iter().map(|core| core[index].load(Ordering::Relaxed)).sum();
        Reject::LABELS
            .iter()
            .enumerate()
            .map(|(index, label)| ((*label).to_owned(), sum(index)))
            .filter(|(_, count)| *count > 0)
            .collect()
    }

    pub(crate) fn set_link(
        &self,
        link: LinkId,
        peer: ReplicaId,
        connected: bool,
        lagging: bool,
        queued: usize,
    ) {
        let flags = if connected { CONNECTED } else { 0 } | if lagging { LAGGING } else { 0 };
        self.links[link.index()][peer.index()].store((queued as u64) << 2 | flags, Ordering::Relaxed);
    }

    /// Whether all links to a peer stand, whether any lags, and the bytes queued for it.
    pub(crate) fn peer(&self, peer: ReplicaId) -> (bool, bool, u64) {
        let cells = || self.links.iter().map(|link| link[peer.index()].load(Ordering::Relaxed));
        let connected = cells().all(|cell| cell & CONNECTED != 0);
        let lagging = cells().any(|cell| cell & LAGGING != 0);
        (connected, lagging, cells().map(|cell| cell >> 2).sum())
    }

    /// Notes that a peer is kept out of a link for a while, and how often it was. For the core of the link alone.
    pub(crate) fn set_ban(&self, link: LinkId, peer: ReplicaId, count: u64, until: Nanoseconds) {
        let (counted, ends) = &self.bans[link.index()][peer.index()];
        counted.store(count, Ordering::Relaxed);
        ends.store(until.0, Ordering::Relaxed);
    }

    /// How often a peer was banned, and for how long it still is on some link.
    pub(crate) fn bans(&self, peer: ReplicaId) -> (u64, Nanoseconds) {
        let cells = || self.bans.iter().map(|link| &link[peer.index()]);
        let ends = cells().map(|(_, until)| until.load(Ordering::Relaxed)).max().unwrap_or(0);
        let count = cells().map(|(count, _)| count.load(Ordering::Relaxed)).sum();
        (count, Nanoseconds(Nanoseconds(ends).since(self.clock.now())))
    }

    pub(crate) fn set_clients(&self, core: usize, clients: usize) {
        self.clients[core].store(clients as u64, Ordering::Relaxed);
    }

    pub(crate) fn clients(&self) -> u64 {
        self.clients.iter().map(|cell| cell.load(Ordering::Relaxed)).sum()
    }

    pub(crate) fn set_log_bytes(&self, core: usize, needed: u64) {
        self.log_bytes[core].store(needed, Ordering::Relaxed);
    }

    /// What of all logs is needed, in bytes.
    pub(crate) fn log_bytes(&self) -> u64 {
        self.log_bytes.iter().map(|cell| cell.load(Ordering::Relaxed)).sum()
    }

    pub(crate) fn set_log_stands(&self, core: usize, stands: bool) {
        self.log_stands[core].store(stands, Ordering::Relaxed);
    }

    /// For the thread that makes segments.
    pub(crate) fn set_segment_waits(&self, waits: bool) {
        self.segment_waits.store(waits, Ordering::Relaxed);
    }

    /// Whether a log stands still for want of room on the disk.
    pub(crate) fn log_lacks_room(&self) -> bool {
        self.segment_waits.load(Ordering::Relaxed)
            && self.log_stands.iter().any(|cell| cell.load(Ordering::Relaxed))
    }

    /// For the thread that watches the disk.
    pub(crate) fn set_disk_free_bytes(&self, free: u64) {
        self.disk_free_bytes.store(free, Ordering::Relaxed);
    }

    /// What is free on the disk, if that is known.
    pub(crate) fn disk_free_bytes(&self) -> Option<u64> {
        Some(self.disk_free_bytes.load(Ordering::Relaxed)).filter(|free| *free < u64::MAX)
    }

    /// For the thread that watches the disk.
    pub(crate) fn set_shortage(&self, shortage: Option<Shortage>) {
        let place = shortage.map(|Shortage { why, intake }| {
            let why = READ_ONLY.iter().position(|known| *known == why).unwrap_or_default();
            let intake = INTAKES.iter().position(|known| *known == intake).unwrap_or_default();
            why * INTAKES.len() + intake + 1
        });
        let number = place.map_or(0, |place| u8::try_from(place).unwrap_or(1));
        self.shortage.store(number, Ordering::Relaxed);
    }

    /// What there is no room for, if there is something.
    pub(crate) fn shortage(&self) -> Option<Shortage> {
        let place = usize::from(self.shortage.load(Ordering::Relaxed)).checked_sub(1)?;
        let why = *READ_ONLY.get(place / INTAKES.len())?;
        Some(Shortage { why, intake: INTAKES[place % INTAKES.len()] })
    }

    /// Notes whether a checkpoint waits for room on the disk; returns whether one did before. For the execution core.
    pub(crate) fn set_checkpoint_waits(&self, waits: bool) -> bool {
        self.checkpoint_waits.swap(waits, Ordering::Relaxed)
    }

    pub(crate) fn checkpoint_waits(&self) -> bool {
        self.checkpoint_waits.load(Ordering::Relaxed)
    }

    pub(crate) fn set_dumper(&self, dumper: Thread) {
        let _ = self.dumper.set(dumper);
    }

    /// Has the histograms dumped. Does not wait for it, so that a core may ask.
    pub(crate) fn request_dump(&self) {
        self.dump.store(true, Ordering::Release);
        if let Some(dumper) = self.dumper.get() {
            dumper.unpark();
        }
    }

    pub(crate) fn take_dump_request(&self) -> bool {
        self.dump.swap(false, Ordering::AcqRel)
    }

    pub(crate) fn request_stop(&self) {
        self.stop.store(true, Ordering::Release);
    }

    pub(crate) fn should_stop(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// Going on would not be safe; the first reason stands.
    pub(crate) fn halt(&self, reason: String) {
        let _ = self.halted.set(reason);
        self.request_stop();
    }

    pub(crate) fn halted(&self) -> Option<&str> {
        self.halted.get().map(String::as_str)
    }
}
