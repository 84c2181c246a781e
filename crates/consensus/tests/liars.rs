//! Random histories in which f replicas sign anything: each works as an honest one would, and beside that signs with the same
//! key whatever may hurt, made of what it has seen, and gives it to whom the dice say. Nobody honest may break a promise,
//! contradict what is committed, or halt.

mod cluster;

use cluster::{Cluster, Growth, batch_chain};
use quorate_consensus::{Keyring, Outgoing, Voting};
use quorate_types::{
    JournalId, LaneId, LaneNumber, LinkId, Nanoseconds, ReplicaId, Seq, Signature, Tuning, View,
};
use quorate_wire::message::{
    Commit, FetchedHeaders, NewView, PrePrepare, Prepare, Status, Suspect, ViewChange,
};
use quorate_wire::{
    Header, LaneTip, Position, PreparedCertificate, SuspectReason, ViewChangeSummary, header, testing,
};
use std::collections::BTreeMap;
use std::sync::Arc;

const STEPS: usize = 400;
const WALKS: u64 = 40;
const UNSIGNED: Signature = Signature([0; 64]);

/// Dice that fall the same way for the same seed.
struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Self {
        let mut dice = Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        for _ in 0..8 {
            dice.below(2);
        }
        dice
    }

    /// A number below a bound, which is at least 1.
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from((self.0 >> 11) % bound.max(1) as u64).expect("below a usize")
    }

    fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        from.get(self.below(from.len()))
    }

    /// One of the last few.
    fn pick_recent<'a, T>(&mut self, from: &'a [T], count: usize) -> Option<&'a T> {
        self.pick(&from[from.len().saturating_sub(count)..])
    }
}

/// What liars have seen and made.
#[derive(Default)]
struct Seen {
    headers: Vec<Header>,
    proposals: Vec<PrePrepare>,
    changes: BTreeMap<View, Vec<(ReplicaId, ViewChange)>>,
    certificates: Vec<PreparedCertificate>,
}

impl Seen {
    fn look(&mut self, cluster: &Cluster, honest: &[ReplicaId]) {
        for flight in cluster.pool.iter().rev().take(24) {
            match &flight.message {
                Outgoing::ViewChange(change) => {
                    let of_view = self.changes.entry(change.new_view).or_default();
                    if !of_view.iter().any(|(_, known)| known.signature == change.signature) {
                        of_view.push((flight.from, ViewChange::clone(change)));
                    }
                }
                Outgoing::PrePrepare(proposal) => {
                    if !self.headers.contains(&proposal.header) {
                        self.headers.push(proposal.header.clone());
                    }
                    if !self.proposals.contains(proposal) {
                        self.proposals.push(PrePrepare::clone(proposal));
                    }
                }
                _ => {}
            }
        }
        let certificates = honest.iter().filter_map(|id| cluster.node(*id).consensus.prepared_certificate());
        for found in certificates {
            let rank = |known: &PreparedCertificate| (known.view, known.position);
            if !self.certificates.iter().any(|known| rank(known) == rank(&found)) {
                self.certificates.push(found);
            }
        }
    }

    fn position(&self, dice: &mut Dice, genesis: Position) -> Position {
        let header = dice.pick_recent(&self.headers, 12);
        header.map_or(genesis, |header| Position { seq: header.seq, digest: header.digest() })
    }

    /// A certificate of a lower view, or none.
    fn certificate_below(&self, dice: &mut Dice, view: View) -> Option<PreparedCertificate> {
        let fits: Vec<&PreparedCertificate> =
            self.certificates.iter().filter(|found| found.view < view).collect();
        if dice.one_in(2) { None } else { dice.pick(&fits).map(|found| PreparedCertificate::clone(found)) }
    }
}

/// One history.
struct Walk {
    cluster: Cluster,
    dice: Dice,
    honest: Vec<ReplicaId>,
    liars: Vec<ReplicaId>,
    lanes: Vec<(LaneId, u64)>,
    seen: Seen,
    genesis: Position,
}

fn tune(tuning: &mut Tuning) {
    tuning.window = 24;
    tuning.checkpoint_interval = 4;
    tuning.proposals_max = 4;
    tuning.headers_kept_max = 100;
    tuning.fetch_headers_max = 3;
    tuning.view_timeout = Nanoseconds::from_millis(100);
    tuning.pipeline_bytes = 1;
}

impl Walk {
    fn new(seed: u64, replicas: u8) -> Self {
        let mut dice = Dice::new(seed);
        let mut cluster = Cluster::new(replicas, tune);
        let faults = (replicas - 1) / 3;
        let has_slow_disks = dice.one_in(3);
        for node in &mut cluster.nodes {
            node.slow = has_slow_disks && dice.one_in(2);
        }
        let lane = |id| (LaneId { origin: ReplicaId(id), link: LinkId(0) }, 0);
        Self {
            dice,
            honest: (0..replicas - faults).map(ReplicaId).collect(),
            liars: (replicas - faults..replicas).map(ReplicaId).collect(),
            lanes: (0..replicas).map(lane).collect(),
            seen: Seen::default(),
            genesis: header::genesis(cluster.config.digest()),
            cluster,
        }
    }

    /// Something that may happen with nobody lying.
    fn happen(&mut self) {
        match self.dice.below(20) {
            0..=8 => {
                for _ in 0..=self.dice.below(12) {
                    self.deliver();
                }
            }
            9..=10 => {
                let passed = [1, 10, 60, 120][self.dice.below(4)];
                self.cluster.now = self.cluster.now.plus(Nanoseconds::from_millis(passed).0);
                self.tick_all();
            }
            11..=13 => {
                let at = self.dice.below(self.lanes.len());
                self.lanes[at].1 += 1;
                let ((lane, upto), all) = (self.lanes[at], self.cluster.ids());
                let growth = Growth {
                    holders: all.clone(),
                    ackers: all,
                    bytes: 300_000,
                    journal: JournalId(1),
                    fork: None,
                };
                self.cluster.grow_lane(lane, upto, &growth);
                self.tick_all();
            }
            14..=15 => {
                let all = self.cluster.ids();
                self.cluster.make_durable(all[self.dice.below(all.len())], None);
            }
            16 if self.dice.one_in(6) => {
                let id = self.honest[self.dice.below(self.honest.len())];
                self.cluster.restart(id, Voting::Voter);
            }
            17 if !self.cluster.pool.is_empty() => {
                let at = self.dice.below(self.cluster.pool.len());
                self.cluster.pool.remove(at);
            }
            _ => {}
        }
        let surplus = self.cluster.pool.len().saturating_sub(600);
        self.cluster.pool.drain(..surplus);
    }

    fn deliver(&mut self) {
        let flying = self.cluster.pool.len();
        if flying == 0 {
            return;
        }
        let at = if self.dice.one_in(3) { self.dice.below(flying) } else { 0 };
        let flight = self.cluster.pool.remove(at);
        self.cluster.receive(flight.from, flight.to, &flight.message);
        self.cluster.tick(flight.to);
    }

    fn tick_all(&mut self) {
        for id in self.cluster.ids() {
            self.cluster.tick(id);
        }
    }

    fn key(&self, liar: ReplicaId) -> Keyring {
        Keyring::new(Arc::clone(&self.cluster.config), liar, testing::replica_key(liar.0))
    }

    /// A liar's turn.
    fn lie(&mut self) {
        let liar = self.liars[self.dice.below(self.liars.len())];
        let Some(message) = self.make_up(liar) else { return };
        for _ in 0..=self.dice.below(2) {
            let to = self.honest[self.dice.below(self.honest.len())];
            self.cluster.receive(liar, to, &message);
            self.cluster.tick(to);
            // It votes for what it has just proposed.
            if let Outgoing::PrePrepare(proposal) = &message {
                let (lo, digests) = (proposal.header.seq, vec![proposal.header.digest()]);
                let vote = Prepare { view: proposal.view, lo, digests, signature: UNSIGNED };
                let vote = Outgoing::Prepare(Arc::new(self.key(liar).sign_prepare(vote).into_message()));
                self.cluster.receive(liar, to, &vote);
                self.cluster.tick(to);
            }
        }
    }

    fn make_up(&mut self, liar: ReplicaId) -> Option<Outgoing> {
        let views: Vec<View> = self.honest.iter().map(|id| self.cluster.node(*id).consensus.view()).collect();
        let view = *self.dice.pick(&views)?;
        let at = self.seen.position(&mut self.dice, self.genesis);
        let later = View(view.0 + self.dice.below(2) as u64);
        let key = self.key(liar);
        match self.dice.below(9) {
            0 => {
                let vote = Prepare { view, lo: at.seq, digests: vec![at.digest], signature: UNSIGNED };
                Some(Outgoing::Prepare(Arc::new(key.sign_prepare(vote).into_message())))
            }
            1 => Some(Outgoing::Commit(Commit { view, position: at })),
            2 => {
                let (stable, entered) = (self.genesis, self.dice.one_in(2));
                let [accepted, prepared, committed] = [at; 3];
                let executed = stable;
                Some(Outgoing::Status(Status {
                    view,
                    entered,
                    stable,
                    accepted,
                    prepared,
                    committed,
                    executed,
                }))
            }
            3 => {
                let wish = Suspect { view: later, reason: SuspectReason::Unnamed, signature: UNSIGNED };
                Some(Outgoing::Suspect(key.sign_suspect(wish).into_message()))
            }
            4 => Some(Outgoing::ViewChange(Arc::new(self.view_change(liar, later)))),
            5 | 6 => self.new_view(liar, *views.iter().min()?),
            7 => self.proposal(liar, view, at),
            _ if self.dice.one_in(2) => {
                let headers = vec![self.dice.pick(&self.seen.headers)?.clone()];
                Some(Outgoing::FetchedHeaders(FetchedHeaders { headers }))
            }
            _ => {
                let proposal = self.dice.pick_recent(&self.seen.proposals, 8)?;
                Some(Outgoing::PrePrepare(Arc::new(proposal.clone())))
            }
        }
    }

    /// A view change that claims less than the liar has prepared, or something else.
    fn view_change(&mut self, liar: ReplicaId, view: View) -> ViewChange {
        let prepared = self.seen.certificate_below(&mut self.dice, view);
        let (stable, suspects, proposals) = (None, Vec::new(), Vec::new());
        let message =
            ViewChange { new_view: view, stable, prepared, suspects, proposals, signature: UNSIGNED };
        let message = self.key(liar).sign_view_change(message).into_message();
        self.seen.changes.entry(view).or_default().push((liar, message.clone()));
        message
    }

    /// A new view of the liar's own, from whichever view changes it likes, its own made to measure.
    fn new_view(&mut self, liar: ReplicaId, lowest: View) -> Option<Outgoing> {
        let config = Arc::clone(&self.cluster.config);
        let leads = |view: &&View| config.primary(**view) == liar && **view >= lowest;
        let candidates: Vec<View> = self.seen.changes.keys().filter(leads).copied().collect();
        let view = *self.dice.pick(&candidates)?;
        for accomplice in self.liars.clone() {
            self.view_change(accomplice, view);
        }
        let quorum = config.quorums().quorum;
        let known = &self.seen.changes[&view];
        let mut chosen: BTreeMap<ReplicaId, &ViewChange> = BTreeMap::new();
        for _ in 0..60 {
            let (signer, change) = self.dice.pick(known)?;
            if chosen.len() < quorum || chosen.contains_key(signer) {
                chosen.insert(*signer, change);
            }
        }
        if chosen.len() != quorum {
            return None;
        }
        let summaries: Vec<(ReplicaId, ViewChangeSummary)> =
            chosen.iter().map(|(signer, change)| (*signer, change.summary(self.genesis))).collect();
        let certificates = || chosen.values().filter_map(|change| change.prepared.as_ref());
        let highest = certificates().max_by_key(|found| (found.view, found.position.seq));
        // Sometimes not the highest.
        let prepared = if self.dice.one_in(4) { certificates().next() } else { highest }.cloned();
        let stables = chosen.values().filter_map(|change| change.stable.as_ref());
        let stable = stables.max_by_key(|found| found.position.seq).cloned();
        let message = NewView { view, summaries, prepared, stable, signature: UNSIGNED };
        Some(Outgoing::NewView(Arc::new(self.key(liar).sign_new_view(message).into_message())))
    }

    /// Another proposal behind a header, in a view that the liar leads.
    fn proposal(&mut self, liar: ReplicaId, view: View, parent: Position) -> Option<Outgoing> {
        if self.cluster.config.primary(view) != liar {
            return None;
        }
        let find = |digest| self.seen.headers.iter().find(|header| header.digest() == digest);
        let mut marks: BTreeMap<LaneId, u64> = BTreeMap::new();
        let mut next = find(parent.digest);
        let floor = next.map_or(self.cluster.now, |header| header.timestamp);
        while let Some(header) = next {
            for tip in &header.cut {
                let mark = marks.entry(tip.lane).or_default();
                *mark = (*mark).max(tip.upto.0);
            }
            next = find(header.parent);
        }
        let mark = |lane: LaneId| marks.get(&lane).copied().unwrap_or(0);
        let open: Vec<(LaneId, u64)> =
            self.lanes.iter().copied().filter(|(lane, upto)| mark(*lane) < *upto).collect();
        let (lane, upto) = *self.dice.pick(&open)?;
        let more = self.dice.below(usize::try_from(upto - mark(lane)).expect("a short lane"));
        let upto = mark(lane) + 1 + more as u64;
        let cut = vec![LaneTip { lane, upto: LaneNumber(upto), chain: batch_chain(lane, upto, "") }];
        let timestamp = floor.plus(1 + self.dice.below(1_000) as u64);
        let (epoch, seq) = (self.cluster.config.epoch(), parent.seq.next());
        let header = Header { epoch, seq, parent: parent.digest, timestamp, cut };
        self.seen.headers.push(header.clone());
        let proposal = PrePrepare { view, header, signature: UNSIGNED };
        let proposal = self.key(liar).sign_pre_prepare(proposal).into_message();
        self.seen.proposals.push(proposal.clone());
        Some(Outgoing::PrePrepare(Arc::new(proposal)))
    }

    fn assert_honest(&self, seed: u64) {
        let is_liars = |text: &&String| self.liars.iter().any(|liar| text.starts_with(&format!("r{liar} ")));
        let broken: Vec<&String> = self.cluster.violations.iter().filter(|text| !is_liars(text)).collect();
        assert!(broken.is_empty(), "seed {seed}: {broken:?}");
        let halted = self.honest.iter().find(|id| self.cluster.node(**id).halted);
        let why = || self.cluster.log.iter().rev().find(|(_, text)| text.starts_with("halts"));
        assert!(halted.is_none(), "seed {seed}: {:?}", why());
    }

    /// The highest slot that an honest replica has committed.
    fn committed(&self) -> Seq {
        let committed = |id: &ReplicaId| self.cluster.node(*id).consensus.positions().committed.seq;
        self.honest.iter().map(committed).max().expect("some are honest")
    }
}

#[test]
fn whatever_f_replicas_sign_nobody_else_breaks_a_promise() {
    let mut committed = 0;
    for seed in 1..=WALKS {
        let replicas = *Dice::new(seed ^ 0xABCD).pick(&[4, 4, 4, 7, 5, 6]).expect("six of them");
        let mut walk = Walk::new(seed, replicas);
        let candour = [2, 4, 10][walk.dice.below(3)];
        for _ in 0..STEPS {
            walk.seen.look(&walk.cluster, &walk.honest);
            walk.happen();
            if walk.dice.one_in(candour) {
                walk.lie();
            }
            walk.assert_honest(seed);
            let surplus = walk.cluster.log.len().saturating_sub(1_000);
            walk.cluster.log.drain(..surplus);
        }
        committed += walk.committed().0;
    }
    assert!(committed > WALKS, "{committed}: the histories order something");
}
