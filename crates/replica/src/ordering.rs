//! The ordering role: consensus, with its messages decoded and verified.

use crate::checks::{CheckAccounts, Checks};
use crate::interface::Reject;
use crate::recovery::Recovery;
use crate::report::OrderingReport;
use crate::timeline::Timeline;
use quorate_consensus::{Consensus, Outgoing, Output};
use quorate_journal::CONSENSUS_JOURNAL;
use quorate_types::{ClusterConfig, Credit, Nanoseconds, ReplicaId, ReplicaSet, SigningKey, limits, time_of};
use quorate_wire::message::{
    Checkpoint, CheckpointCertificate, Commit, FetchHeaders, FetchedHeaders, Message, NewView, PrePrepare,
    Prepare, Status, Suspect, ViewChange,
};
use quorate_wire::{Claims, DecodeError, FrameRef, Kind, LaneTip, Position, Verdicts};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The proposals, and the PREPAREs, of one peer that wait for their verdicts. An honest peer seldom has more under way,
/// and sends again what is dropped; a liar costs no more than so many checks before its connection is closed.
const WAITING_MAX: usize = 16;

/// Of the questions of one peer that others have taken the place of in one tick, so many are answered with nothing: an honest
/// one asks for few purposes at a time.
const REPLACED_MAX: usize = 4;

/// The ordering role of a replica.
#[derive(Debug)]
pub(crate) struct OrderingRole {
    config: Arc<ClusterConfig>,
    me: ReplicaId,
    pub(crate) consensus: Consensus,
    /// Proposals of this tick that are still to be verified, with their senders.
    proposals: Vec<(ReplicaId, PrePrepare)>,
    /// PREPAREs that are still to be verified. They wait until they would complete a certificate.
    prepares: Vec<(ReplicaId, Prepare)>,
    /// Whether the PREPAREs are verified at the end of this tick.
    prepares_due: bool,
    pub(crate) timeline: Timeline,
    /// The newest Status of each peer in this tick.
    statuses: BTreeMap<ReplicaId, Status>,
    /// The peers that have shown what they lack and were sent nothing for it yet. A Status is small and this is large: it
    /// waits for their credit.
    lacking: ReplicaSet,
    /// The last question of each peer that waits for its credit, and how many others it has taken the place of, each of
    /// which is answered with nothing: answers are counted.
    questions: BTreeMap<ReplicaId, (FetchHeaders, usize)>,
    /// What is sent to each replica for its questions, and what is sent again. It outlasts connections.
    credits: Vec<Credits>,
    /// How often that has used a credit up since it was told.
    credits_used_up: u64,
    /// The highest wish and the newest view change of each peer that are still to be verified: they wait for the end of
    /// the tick, and for their sender's credit.
    suspects: BTreeMap<ReplicaId, Suspect>,
    changes: BTreeMap<ReplicaId, ViewChange>,
    /// What checks each peer may cause.
    checks: CheckAccounts,
}

/// The credit of one peer.
#[derive(Clone, Copy, Debug, Default)]
struct Credits {
    headers: Credit,
    resent: Credit,
}

impl OrderingRole {
    pub(crate) fn new(config: Arc<ClusterConfig>, me: ReplicaId, key: SigningKey) -> Self {
        let consensus = Consensus::new(Arc::clone(&config), me, key, CONSENSUS_JOURNAL);
        Self::over(config, me, consensus)
    }

    /// The role as it was when the replica stopped.
    pub(crate) fn recover(
        config: Arc<ClusterConfig>,
        me: ReplicaId,
        key: SigningKey,
        recovery: &mut Recovery,
    ) -> Self {
        let found = recovery.consensus.take().expect("invariant: one core has the ordering role");
        let (last, voting) = (recovery.end(CONSENSUS_JOURNAL), recovery.voting);
        let consensus =
            Consensus::recover(Arc::clone(&config), me, key, CONSENSUS_JOURNAL, found, last, voting);
        let mut role = Self::over(config, me, consensus);
        role.timeline = Timeline::starting_at(role.consensus.positions().committed.seq);
        role
    }

    /// A certified state that came from others is durable: goes on from its slot.
    pub(crate) fn install(&mut self, position: Position, timestamp: Nanoseconds, tips: &[LaneTip]) {
        self.consensus.install(position, timestamp, tips.iter().copied());
        self.consensus.on_executed(position);
        self.timeline = Timeline::starting_at(self.consensus.positions().committed.seq);
    }

    fn over(config: Arc<ClusterConfig>, me: ReplicaId, consensus: Consensus) -> Self {
        Self {
            checks: CheckAccounts::new(config.members().len()),
            credits: vec![Credits::default(); config.members().len()],
            credits_used_up: 0,
            config,
            me,
            consensus,
            proposals: Vec::new(),
            prepares: Vec::new(),
            prepares_due: false,
            timeline: Timeline::default(),
            statuses: BTreeMap::new(),
            lacking: ReplicaSet::EMPTY,
            questions: BTreeMap::new(),
            suspects: BTreeMap::new(),
            changes: BTreeMap::new(),
        }
    }

    /// Takes a consensus frame of a peer: decoded, asked for whether it says anything new, and only then
    /// verified, within its sender's credit. What is not covered is sent again by whoever means it. Proposals, votes,
    /// wishes and view changes wait for that until the end of the tick.
    pub(crate) fn on_frame(
        &mut self,
        now: Nanoseconds,
        from: ReplicaId,
        frame: FrameRef<'_>,
        out: &mut Vec<Output>,
    ) -> Result<(), Reject> {
        let (consensus, checks) = (&mut self.consensus, &mut self.checks);
        match frame.kind {
            Kind::PrePrepare => {
                let message = PrePrepare::from_frame(frame)?;
                let mut is_covered = || match consensus.distrusts_proposals() {
                    true => checks.charge(now, from, 1),
                    false => checks.note(from),
                };
                if consensus.wants_pre_prepare(&message) && is_covered() {
                    self.add_proposal(from, message);
                }
            }
            Kind::Prepare => {
                let message = Prepare::from_frame(frame)?;
                if consensus.wants_prepare(from, &message) {
                    self.add_prepare(from, message);
                }
            }
            Kind::Commit => consensus.on_commit(from, &Commit::from_frame(frame)?, out),
            Kind::Checkpoint => {
                let message = Checkpoint::from_frame(frame)?;
                if consensus.wants_checkpoint(from, &message) && checks.charge(now, from, 1) {
                    let verified = consensus.keyring().checkpoint(from, message);
                    consensus.on_checkpoint(verified.ok_or(Reject::ConsensusSignature)?, out);
                }
            }
            Kind::CheckpointCertificate => {
                let message = CheckpointCertificate::from_frame(frame)?;
                let signatures = message.signatures.len();
                if consensus.wants_certificate(&message) && checks.charge(now, from, signatures) {
                    let verified = consensus.keyring().certificate(message);
                    consensus.on_certificate(verified.ok_or(Reject::ConsensusSignature)?, out);
                }
            }
            Kind::Status => {
                self.statuses.insert(from, Status::from_frame(frame)?);
            }
            Kind::FetchHeaders => {
                let question = FetchHeaders::from_frame(frame)?;
                let replaced =
                    self.questions.get(&from).map_or(0, |(_, replaced)| (replaced + 1).min(REPLACED_MAX));
                self.questions.insert(from, (question, replaced));
            }
            Kind::FetchedHeaders if !consensus.expects_headers(from) => return Err(Reject::Unasked),
            Kind::FetchedHeaders => {
                consensus.on_fetched_headers(now, from, FetchedHeaders::from_frame(frame)?, out)?;
            }
            Kind::Suspect => {
                let message = Suspect::from_frame(frame)?;
                let waits = self.suspects.get(&from).is_some_and(|known| known.view >= message.view);
                if consensus.wants_suspect(from, &message) && !waits {
                    self.suspects.insert(from, message);
                }
            }
            Kind::ViewChange => {
                let message = ViewChange::from_frame(frame)?;
                if let Some(news) = consensus.news_of_view_change(from, message) {
                    self.changes.insert(from, news);
                }
            }
            Kind::NewView => {
                let message = NewView::from_frame(frame)?;
                if consensus.wants_new_view(&message) && checks.charge(now, from, signatures_of(&message)) {
                    let verified = consensus.keyring().new_view(message);
                    consensus.on_new_view(verified.ok_or(Reject::ConsensusSignature)?, out);
                }
            }
            other => return Err(DecodeError::Misplaced(other).into()),
        }
        Ok(())
    }

    fn add_proposal(&mut self, from: ReplicaId, message: PrePrepare) {
        let same = self.proposals.iter().any(|(_, known)| *known == message);
        let many = self.proposals.iter().filter(|(sender, _)| *sender == from).count() >= WAITING_MAX;
        if !same && !many {
            self.proposals.push((from, message));
        }
    }

    fn add_prepare(&mut self, from: ReplicaId, message: Prepare) {
        let mut others = self.prepares.iter().filter(|(sender, _)| *sender == from).map(|(_, known)| known);
        if others.clone().any(|known| *known == message) {
            return;
        }
        if others.clone().count() >= WAITING_MAX {
            // What it sends again may be what others wait for: those that are there make room.
            self.prepares_due = true;
            return;
        }
        // Two votes of one replica for one slot: which of them is genuine is to be known, and who forges, stopped.
        self.prepares_due |= others.any(|known| overlap(known, &message));
        self.prepares.push((from, message));
    }

    /// Whether the PREPAREs that wait would complete a certificate.
    pub(crate) fn completes_a_certificate(&self) -> bool {
        self.consensus.would_prepare(&self.prepares)
    }

    /// The burst of inputs is over: asks for the verdicts on what is to be verified. They must be given to
    /// [`OrderingRole::settle`] before anything else happens.
    pub(crate) fn claim(&mut self, claims: &mut Claims<'_>) {
        let consensus = &self.consensus;
        self.prepares.retain(|(from, message)| consensus.wants_prepare(*from, message));
        self.prepares_due |= consensus.would_prepare(&self.prepares);
        for (_, message) in &self.proposals {
            consensus.keyring().claim_pre_prepare(message, claims);
        }
        if self.prepares_due {
            for (from, message) in &self.prepares {
                self.checks.note(*from);
                consensus.keyring().claim_prepare(*from, message, claims);
            }
        }
    }

    /// Takes the verdicts that [`OrderingRole::claim`] has asked for. Returns the peers that sent what nobody signed.
    pub(crate) fn settle(&mut self, verdicts: &mut Verdicts, out: &mut Vec<Output>) -> ReplicaSet {
        let mut liars = ReplicaSet::EMPTY;
        let consensus = &mut self.consensus;
        for ((from, message), verdict) in self.proposals.drain(..).zip(verdicts.by_ref()) {
            match consensus.keyring().judged_pre_prepare(message, verdict) {
                Some(verified) => consensus.on_pre_prepare(verified, out),
                None => drop(liars.insert(from)),
            }
        }
        if std::mem::take(&mut self.prepares_due) {
            for ((from, message), verdict) in self.prepares.drain(..).zip(verdicts) {
                match consensus.keyring().judged_prepare(from, message, verdict) {
                    Some(verified) => consensus.on_prepare(verified, out),
                    None => drop(liars.insert(from)),
                }
            }
        }
        liars
    }

    /// The burst of inputs is over: verifies and takes the wishes and view changes that have come, as far as their
    /// senders' credit goes; the others wait. Returns the peers that sent what nobody signed.
    pub(crate) fn take_view_changes(&mut self, now: Nanoseconds) -> ReplicaSet {
        let mut liars = ReplicaSet::EMPTY;
        let (consensus, checks) = (&mut self.consensus, &mut self.checks);
        self.suspects.retain(|from, message| {
            if !consensus.wants_suspect(*from, message) {
                return false;
            }
            if !checks.charge(now, *from, 1) {
                return true;
            }
            match consensus.keyring().suspect(*from, message.clone()) {
                Some(verified) => consensus.on_suspect(verified),
                None => drop(liars.insert(*from)),
            }
            false
        });
        for (from, message) in std::mem::take(&mut self.changes) {
            // The ones before may have brought the same reasons.
            let Some(news) = consensus.news_of_view_change(from, message) else { continue };
            if !checks.charge(now, from, 1 + news.suspects.len() + news.proposals.len()) {
                self.changes.insert(from, news);
                continue;
            }
            match consensus.keyring().view_change(from, news) {
                Some(verified) => consensus.on_view_change(verified),
                None => drop(liars.insert(from)),
            }
        }
        liars
    }

    /// Whether wishes or view changes wait for their senders' credit.
    pub(crate) fn has_unchecked(&self) -> bool {
        !self.suspects.is_empty() || !self.changes.is_empty()
    }

    /// The burst of inputs is over: answers what peers have shown and asked, as far as their credit goes. An honest peer
    /// that is over it is answered late, and none is refused.
    pub(crate) fn answer(&mut self, now: Nanoseconds, out: &mut Vec<Output>) {
        let (cost, burst) = self.resend_credit();
        let waiting = self.lacking;
        for (from, status) in std::mem::take(&mut self.statuses) {
            self.consensus.on_status(from, status, out);
            self.lacking.insert(from);
            self.send_again(now, from, (cost, burst), out);
        }
        for from in waiting.iter().filter(|from| self.lacking.contains(*from)).collect::<Vec<_>>() {
            self.send_again(now, from, (cost, burst), out);
        }
        let Self { consensus, questions, credits, credits_used_up, .. } = self;
        questions.retain(|from, (question, replaced)| {
            (0..std::mem::take(replaced)).for_each(|_| consensus.answer_nothing(*from, out));
            let Some(credit) = credits.get_mut(from.index()).map(|credits| &mut credits.headers) else {
                return false;
            };
            if !credit.covers(now, limits::HEADERS_ANSWER_BURST.0) {
                return true;
            }
            let bytes = consensus.on_fetch_headers(*from, question, out);
            credit.spend(now, limits::HEADERS_ANSWER_TIME.0.max(time_of(bytes)));
            *credits_used_up += u64::from(!credit.covers(now, limits::HEADERS_ANSWER_BURST.0));
            false
        });
    }

    fn send_again(
        &mut self,
        now: Nanoseconds,
        to: ReplicaId,
        (cost, burst): (u64, u64),
        out: &mut Vec<Output>,
    ) {
        let Some(credit) = self.credits.get_mut(to.index()).map(|credits| &mut credits.resent) else {
            return;
        };
        if credit.covers(now, burst) {
            self.lacking.remove(to);
            let bytes = self.consensus.send_again(to, out);
            credit.spend(now, cost.max(time_of(bytes)));
            self.credits_used_up += u64::from(!credit.covers(now, burst));
        }
    }

    /// What it costs to be sent what is missing, and the burst.
    fn resend_credit(&self) -> (u64, u64) {
        let cost = self.config.tuning().retransmit.0 / limits::RESEND_PARTS;
        (cost, limits::RESEND_BURST * cost)
    }

    /// The connection to a peer is gone: what it has asked on it needs no answer any more.
    pub(crate) fn on_disconnected(&mut self, peer: ReplicaId) {
        self.statuses.remove(&peer);
        self.lacking.remove(peer);
        self.questions.remove(&peer);
        self.consensus.on_disconnected(peer);
    }

    /// The next time at which there is something to do without any input.
    pub(crate) fn deadline(&self) -> Option<Nanoseconds> {
        let burst = limits::HEADERS_ANSWER_BURST.0;
        let questions = self.questions.keys().map(|from| self.credits[from.index()].headers.due(burst));
        let (_, burst) = self.resend_credit();
        let lacking = self.lacking.iter().map(|from| self.credits[from.index()].resent.due(burst));
        questions.chain(lacking).chain(self.consensus.deadline()).min()
    }

    /// Takes an own message back, now that all it depends on is durable: own votes count like any others.
    pub(crate) fn on_own(&mut self, message: &Outgoing, out: &mut Vec<Output>) {
        let consensus = &mut self.consensus;
        match message {
            Outgoing::Prepare(prepare) => {
                let own = consensus.keyring().own(Prepare::clone(prepare));
                consensus.on_prepare(own, out);
            }
            Outgoing::Commit(commit) => consensus.on_commit(self.me, commit, out),
            Outgoing::Checkpoint(checkpoint) => {
                let own = consensus.keyring().own(checkpoint.clone());
                consensus.on_checkpoint(own, out);
            }
            Outgoing::ViewChange(change) => {
                let own = consensus.keyring().own(ViewChange::clone(change));
                consensus.on_view_change(own);
            }
            Outgoing::Suspect(_)
            | Outgoing::NewView(_)
            | Outgoing::PrePrepare(_)
            | Outgoing::CheckpointCertificate(_)
            | Outgoing::Status(_)
            | Outgoing::FetchHeaders(_)
            | Outgoing::FetchedHeaders(_) => {}
        }
    }

    /// What the accounts of peers have bitten since this was asked last: answers that have used a credit up, and messages that
    /// one of signature checks has not covered.
    pub(crate) fn take_bites(&mut self) -> (u64, u64) {
        (std::mem::take(&mut self.credits_used_up), self.checks.take_uncovered())
    }

    /// The checks that each replica has caused.
    pub(crate) fn checks(&self) -> Vec<Checks> {
        self.config.replica_ids().map(|peer| self.checks.caused(peer)).collect()
    }

    pub(crate) fn report(&self) -> OrderingReport {
        let positions = self.consensus.positions();
        let view = self.consensus.view();
        let peers = self.config.replica_ids().filter(|replica| *replica != self.me);
        OrderingReport {
            view,
            entered: self.consensus.has_entered(),
            primary: self.config.primary(view),
            accepted: positions.accepted,
            prepared: positions.prepared,
            committed: positions.committed,
            stable: positions.stable,
            peers_committed: peers.map(|peer| (peer, self.consensus.claim_of(peer))).collect(),
            fetching_upto: self.consensus.fetching_upto(),
            waiting: self.consensus.waiting(),
        }
    }
}

/// How many signatures a new view brings.
fn signatures_of(message: &NewView) -> usize {
    let prepared = message.prepared.as_ref().map_or(0, |found| found.votes.len());
    let stable = message.stable.as_ref().map_or(0, |found| found.signatures.len());
    1 + message.summaries.len() + prepared + stable
}

/// Whether two PREPAREs of one replica name a slot of one view both.
fn overlap(left: &Prepare, right: &Prepare) -> bool {
    let end = |prepare: &Prepare| prepare.lo.plus(prepare.digests.len() as u64);
    left.view == right.view && left.lo < end(right) && right.lo < end(left)
}
