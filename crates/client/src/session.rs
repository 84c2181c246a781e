//! One client session as a state machine without I/O (DESIGN section 6).
//!
//! The session registers itself as soon as a quorum is connected and has said how far it is; bundles wait until the
//! registration is complete, as they are signed over the number that it gets from the state. Requests go to one
//! replica, the home; every replica answers. A bundle is complete when f+1 replicas gave the same (number, digest of the
//! request, seq, digest of the results) and the results themselves are here.
//!
//! Bundles of a session execute strictly in order and exactly once, so sending one again is always safe, and
//! whatever is sent again is sent in order from the first that may be missing: a replica skips a bundle
//! whose predecessor it has not seen. The window counts from the first bundle that is not complete, because
//! replicas keep the replies of the last [`limits::REPLIES_KEPT_MAX`] bundles only.
//!
//! A bundle that nobody takes is voided: an empty one with its number is signed, and whichever of both is executed first
//! decides. A number is never signed with other content besides. A session that the state has evicted opens another
//! and goes on with what was surely not executed.
//!
//! Nothing here grows with time: at most [`limits::OPEN_BUNDLES_MAX`] encoded bundles and one body of
//! results each are held. What replicas send is judged and never trusted; it cannot cause a panic.

mod registration;
mod slot;

use self::registration::Registration;
use self::slot::{Slot, Waiting};
use crate::answers::{Answers, Asked, Verdict};
use crate::error::NotDone;
use quorate_types::{
    ArchivedOperationError, ArchivedOperationResult, BundleNumber, ClusterConfig, Nanoseconds, Operation,
    ReplicaId, ReplicaSet, Seq, SessionId, SigningKey, limits,
};
use quorate_wire::message::{Attached, Busy, BusyReason, Message};
use quorate_wire::reply::{ReplyBody, access_results};
use quorate_wire::{DecodeError, Frame, FrameRef, Kind, ReplyView, bundle};
use std::collections::VecDeque;
use std::sync::Arc;
use thiserror::Error;

const _: () = assert!(limits::OPEN_BUNDLES_MAX <= limits::REPLIES_KEPT_MAX);

/// A home is left for those who have declined when patience with it has ended so often.
const SILENCES_MAX: u32 = 2;

/// What the driver must do for the session. Bundles have the numbers that [`Session::submit`] gave them.
#[derive(Clone, Debug)]
pub enum Action {
    /// Send `frame` to `replica`, after everything sent to it before.
    Send {
        /// To whom.
        replica: ReplicaId,
        /// What.
        frame: Frame,
    },
    /// Bundle `number` was executed at `seq`.
    Completed {
        /// The bundle.
        number: BundleNumber,
        /// Where it was executed.
        seq: Seq,
        /// The archive of `Vec<OperationResult>`, checked.
        results: Arc<[u8]>,
    },
    /// Bundle `number` was executed at `seq` or before, but its results are no longer kept.
    ResultsGone {
        /// The bundle.
        number: BundleNumber,
        /// Where it was executed, at the latest.
        seq: Seq,
    },
    /// Bundle `number` was not executed and never will be.
    NotDone {
        /// The bundle.
        number: BundleNumber,
        /// Why.
        reason: NotDone,
    },
    /// The session was evicted, and whether bundle `number` was executed nobody knows any more.
    Unknown {
        /// The bundle.
        number: BundleNumber,
    },
}

/// Why a bundle was not taken. Nothing was sent.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum SubmitError {
    /// As many bundles as allowed are open.
    #[error("{} bundles are open already; wait until one is complete", limits::OPEN_BUNDLES_MAX)]
    WindowFull,
    /// There is nothing to do.
    #[error("a bundle needs at least one operation")]
    Empty,
    /// More operations than a bundle may hold.
    #[error(
        "{operations} operations in one bundle; the limit is {}: split it",
        limits::BUNDLE_OPERATIONS_MAX
    )]
    TooManyOperations {
        /// Their number.
        operations: usize,
    },
    /// More bytes than a bundle may have.
    #[error(
        "the bundle would have at least {bytes} bytes; the limit is {}: split it",
        limits::BUNDLE_BYTES_MAX
    )]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// Sessions register themselves and void their bundles.
    #[error("a session registers itself and voids its own bundles; leave both operations out")]
    Reserved,
}

/// When a session loses patience.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// How long the oldest open bundle may take before the session moves to another home; doubled with each
    /// time-out, halved with each completion. Default 1 s.
    pub patience: Nanoseconds,
    /// The most that patience grows to. Default 8 s.
    pub patience_max: Nanoseconds,
    /// How long the session waits after the first BUSY before it sends again; doubled with each round.
    /// Default 2 ms.
    pub busy: Nanoseconds,
    /// The most that the wait after BUSY grows to. Default 100 ms.
    pub busy_max: Nanoseconds,
    /// How long the session waits for replicas that have too much under way, without any completion, until it goes to
    /// another, and at last has its bundle voided. Default 2 s.
    pub busy_deadline: Nanoseconds,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            patience: Nanoseconds::from_millis(1000),
            patience_max: Nanoseconds::from_millis(8000),
            busy: Nanoseconds::from_millis(2),
            busy_max: Nanoseconds::from_millis(100),
            busy_deadline: Nanoseconds::from_millis(2000),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Nothing is sent until a quorum is connected and has said how far it is, or patience ends: replies go to connections
    /// that are attached when the bundle is executed, and a quorum holds f+1 honest replicas.
    Gathering,
    /// The registration is sent; bundles wait.
    Registering,
    /// Bundles are sent as they come.
    Open,
}

/// What is open from `from` on is sent again at `at`.
#[derive(Clone, Copy, Debug)]
struct Retry {
    from: BundleNumber,
    at: Nanoseconds,
}

/// A client session. See the module for the rules.
#[derive(Debug)]
pub struct Session {
    config: Arc<ClusterConfig>,
    key: SigningKey,
    registration: Registration,
    /// The present session; none while there is none.
    id: SessionId,
    timing: Timing,
    stage: Stage,
    home: ReplicaId,
    /// The home was lost while nobody else was connected: the next connection becomes the home.
    homeless: bool,
    connected: ReplicaSet,
    /// What each replica that declined to be the home said last. Forgotten when a bundle is complete.
    declined: Vec<Option<BusyReason>>,
    /// How often patience with each replica as the home has ended without a word of it. Forgotten when a bundle is complete.
    silences: Vec<u32>,
    /// Bundles `first`, `first` + 1, …; the first one is never complete.
    window: VecDeque<Slot>,
    first: BundleNumber,
    /// How many bundles the sessions before the present one had: by so much its numbers are lower.
    before: u64,
    answers: Answers,
    retry: Option<Retry>,
    busy_wait: Nanoseconds,
    /// Since when replicas have too much under way, without a completion.
    busy_since: Option<Nanoseconds>,
    patience: Nanoseconds,
    /// Since when the first bundle of the window, or the registration, is awaited; nothing while nothing was sent.
    waiting_since: Option<Nanoseconds>,
}

impl Session {
    /// A session of `key` that prefers `home`. `seed` must be random: from it come the nonces that tell its
    /// registrations from those of every other session of the key. Nothing is sent before a connection stands.
    #[must_use]
    pub fn new(config: Arc<ClusterConfig>, key: SigningKey, seed: [u8; 32], home: ReplicaId) -> Self {
        let (timing, replicas) = (Timing::default(), config.members().len());
        Self {
            registration: Registration::new(seed, replicas),
            answers: Answers::new(replicas),
            declined: vec![None; replicas],
            silences: vec![0; replicas],
            config,
            key,
            id: SessionId::NONE,
            timing,
            stage: Stage::Gathering,
            home,
            homeless: false,
            connected: ReplicaSet::EMPTY,
            window: VecDeque::with_capacity(limits::OPEN_BUNDLES_MAX),
            first: BundleNumber(1),
            before: 0,
            retry: None,
            busy_wait: timing.busy,
            busy_since: None,
            patience: timing.patience,
            waiting_since: None,
        }
    }

    /// The same session with another patience.
    #[must_use]
    pub fn with_timing(mut self, timing: Timing) -> Self {
        self.timing = timing;
        self.busy_wait = timing.busy;
        self.patience = timing.patience;
        self
    }

    /// The identity of the present session; none while there is none.
    #[must_use]
    pub fn id(&self) -> SessionId {
        self.id
    }

    /// The number that a bundle of [`Session::submit`] has in the present session.
    #[must_use]
    pub fn number_in_session(&self, number: BundleNumber) -> BundleNumber {
        BundleNumber(number.0.saturating_sub(self.before))
    }

    /// The replica to which requests go now.
    #[must_use]
    pub fn home(&self) -> ReplicaId {
        self.home
    }

    /// Why a replica declined to take this session's bundles, if it did and none was completed there since.
    #[must_use]
    pub fn declined(&self, replica: ReplicaId) -> Option<BusyReason> {
        self.declined.get(replica.index()).copied().flatten()
    }

    /// Whether the cluster has opened the session.
    #[must_use]
    pub fn is_registered(&self) -> bool {
        self.stage == Stage::Open
    }

    /// Whether another bundle may be submitted.
    #[must_use]
    pub fn can_submit(&self) -> bool {
        self.window.len() < limits::OPEN_BUNDLES_MAX
    }

    /// Takes a bundle of `operations`, and signs and sends it to the home once the session is open; returns its number. It
    /// is kept until f+1 replicas have answered alike.
    pub fn submit(
        &mut self,
        now: Nanoseconds,
        operations: &Vec<Operation>,
        out: &mut Vec<Action>,
    ) -> Result<BundleNumber, SubmitError> {
        if !self.can_submit() {
            return Err(SubmitError::WindowFull);
        }
        check_operations(operations)?;
        let number = self.next();
        let waiting = match self.stage {
            Stage::Open => {
                let (id, place) = (self.id, self.number_in_session(number));
                let mut request = quorate_types::Digest::ZERO;
                let frame = Frame::encode(Kind::Bundle, |out| {
                    request = bundle::write(out, &self.config, &self.key, id, place, operations);
                });
                Waiting::signed(frame, request)
            }
            Stage::Gathering | Stage::Registering => Waiting::unsigned(bundle::encode_operations(operations)),
        };
        let bytes = waiting.bundle_bytes();
        if bytes > limits::BUNDLE_BYTES_MAX {
            return Err(SubmitError::TooLong { bytes });
        }
        self.answers.clear(self.number_in_session(number));
        self.window.push_back(Slot::Waiting(waiting));
        // Behind an open registration, or behind bundles that the home did not take, it would be skipped.
        if self.stage == Stage::Open && self.retry.is_none() {
            if self.connected.contains(self.home) {
                self.waiting_since.get_or_insert(now);
            }
            self.send_again(number, out);
        }
        Ok(number)
    }

    /// A connection to `replica` stands, its handshake is complete and nothing was sent on it.
    pub fn on_connected(&mut self, now: Nanoseconds, replica: ReplicaId, out: &mut Vec<Action>) {
        if self.config.member(replica).is_none() {
            return;
        }
        self.connected.insert(replica);
        self.attach(replica, out);
        if self.homeless {
            self.homeless = false;
            self.home = replica;
        }
        if replica == self.home {
            self.send_all_again(now, out);
        } else if self.awaits() {
            // The home may never come: from now on there is somewhere to move to.
            self.waiting_since.get_or_insert(now);
        }
    }

    /// The connection to `replica` is lost, or could not be made.
    pub fn on_disconnected(&mut self, now: Nanoseconds, replica: ReplicaId, out: &mut Vec<Action>) {
        self.connected.remove(replica);
        self.registration.forget_report(replica);
        if replica == self.home {
            self.homeless = self.connected.is_empty();
            self.move_home(now, out);
        }
    }

    /// A frame came from `replica`. An error means that the replica does not speak the protocol: its
    /// connection should be closed. Answers that are merely wrong or late are ignored.
    pub fn on_frame(
        &mut self,
        now: Nanoseconds,
        replica: ReplicaId,
        frame: FrameRef<'_>,
        out: &mut Vec<Action>,
    ) -> Result<(), DecodeError> {
        match frame.kind {
            Kind::Reply => self.on_reply(now, replica, &ReplyView::parse(frame.payload)?, out),
            Kind::Busy => self.on_busy(now, replica, &Busy::from_frame(frame)?, out),
            Kind::Attached => {
                let Attached { executed } = Attached::from_frame(frame)?;
                self.on_attached(now, replica, executed, out);
            }
            other => return Err(DecodeError::Misplaced(other)),
        }
        Ok(())
    }

    /// Time has passed; does nothing before [`Session::deadline`].
    pub fn on_time(&mut self, now: Nanoseconds, out: &mut Vec<Action>) {
        if self.timeout_at().is_some_and(|at| at <= now) {
            self.patience = Nanoseconds((self.patience.0 * 2).min(self.timing.patience_max.0));
            self.waiting_since = Some(now);
            let silences = &mut self.silences[self.home.index()];
            *silences = silences.saturating_add(1);
            if self.stage == Stage::Gathering {
                self.register_with_fewer();
            }
            self.move_home(now, out);
            self.doubt_voids(out);
        }
        if let Some(retry) = self.retry.filter(|retry| retry.at <= now) {
            self.retry = None;
            self.send_again(retry.from, out);
        }
    }

    /// When [`Session::on_time`] wants to be called next.
    #[must_use]
    pub fn deadline(&self) -> Option<Nanoseconds> {
        let retry = self.retry.map(|retry| retry.at);
        self.timeout_at().into_iter().chain(retry).min()
    }

    /// Without any connection there is nobody to lose patience with.
    fn timeout_at(&self) -> Option<Nanoseconds> {
        let since = self.waiting_since.filter(|_| !self.connected.is_empty())?;
        Some(since.plus(self.patience.0))
    }

    /// Whether anything is awaited of the cluster.
    fn awaits(&self) -> bool {
        self.stage != Stage::Open || !self.window.is_empty()
    }

    /// The number that the next bundle gets.
    fn next(&self) -> BundleNumber {
        self.first.plus(self.window.len() as u64)
    }

    fn waiting(&mut self, number: BundleNumber) -> Option<&mut Waiting> {
        let index = number.0.checked_sub(self.first.0)?;
        match self.window.get_mut(usize::try_from(index).ok()?)? {
            Slot::Waiting(waiting) => Some(waiting),
            Slot::Complete => None,
        }
    }

    /// The number that [`Session::submit`] gave to the bundle that has this one in the present session.
    #[must_use]
    pub fn submitted(&self, session: SessionId, number: BundleNumber) -> Option<BundleNumber> {
        let is_present = self.stage == Stage::Open && session == self.id;
        is_present.then(|| number.0.checked_add(self.before).map(BundleNumber)).flatten()
    }

    /// Moves to the next connected replica after the home, which may be the home itself, and sends what is
    /// open. Without any connection the home stays.
    /// Goes to another home, if there is one, first to who has not declined. A home that says nothing at all has not declined
    /// either: it is not waited for any longer than those who have, and who may take the bundles by now.
    fn move_home(&mut self, now: Nanoseconds, out: &mut Vec<Action>) {
        let willing = |replica: &ReplicaId| self.declined[replica.index()].is_none();
        let takes_voids = |replica: &ReplicaId| self.declined[replica.index()] != Some(BusyReason::Following);
        let others = || self.after_home().filter(|replica| !self.is_mute(*replica));
        let next = others().find(willing).or_else(|| others().find(takes_voids));
        if let Some(next) = next.or_else(|| self.after_home().next()) {
            self.home = next;
            self.send_all_again(now, out);
        }
    }

    /// Whether a replica has said nothing as the home for so long that those who have declined are asked before it.
    fn is_mute(&self, replica: ReplicaId) -> bool {
        self.silences[replica.index()] >= SILENCES_MAX
    }

    /// The connected replicas, from the one after the home on to the home itself.
    fn after_home(&self) -> impl Iterator<Item = ReplicaId> {
        let replicas = self.config.members().len();
        let home = self.home.index();
        let after = (1..=replicas).map(move |step| (home + step) % replicas);
        after
            .map(|index| ReplicaId(u8::try_from(index).expect("invariant: below REPLICAS_MAX")))
            .filter(|replica| self.connected.contains(*replica))
    }

    fn send_all_again(&mut self, now: Nanoseconds, out: &mut Vec<Action>) {
        self.retry = None;
        if self.awaits() {
            self.waiting_since = Some(now);
        }
        self.send_again(self.first, out);
    }

    /// Sends every open bundle from `from` on to the home, in order; the registration while that is open.
    fn send_again(&mut self, from: BundleNumber, out: &mut Vec<Action>) {
        let replica = self.home;
        if !self.connected.contains(replica) {
            return;
        }
        match self.stage {
            Stage::Gathering => {}
            Stage::Registering => self.send_registration(out),
            Stage::Open => {
                // Bundles before the window are complete.
                let skip = usize::try_from(from.since(self.first)).expect("invariant: within the window");
                for slot in self.window.iter_mut().skip(skip) {
                    if let Slot::Waiting(waiting) = slot
                        && let Some(frame) = waiting.next_frame()
                    {
                        out.push(Action::Send { replica, frame });
                    }
                }
            }
        }
    }

    fn on_busy(&mut self, now: Nanoseconds, replica: ReplicaId, busy: &Busy, out: &mut Vec<Action>) {
        let number = match self.stage {
            Stage::Registering if busy.session == SessionId::NONE => self.first,
            _ => match self.submitted(busy.session, busy.number) {
                Some(number) if self.waiting(number).is_some() => number,
                _ => return,
            },
        };
        if replica != self.home {
            return;
        }
        self.silences[replica.index()] = 0;
        let since = *self.busy_since.get_or_insert(now);
        let for_long = now.since(since) >= self.timing.busy_deadline.0;
        if busy.reason == BusyReason::InFlight && !for_long {
            return self.send_later(now, number);
        }
        // Somebody else may take it. Once all have declined, it is voided where that is possible; else they are asked
        // again like busy ones.
        self.declined[replica.index()] = Some(busy.reason);
        let may_take = |other: ReplicaId| self.declined[other.index()].is_none() && !self.is_mute(other);
        if self.after_home().any(may_take) {
            return self.move_home(now, out);
        }
        let takes_voids = |other: &ReplicaId| self.declined[other.index()] != Some(BusyReason::Following);
        if busy.reason == BusyReason::Following && self.after_home().any(|other| takes_voids(&other)) {
            return self.move_home(now, out);
        }
        if self.stage == Stage::Open && busy.reason != BusyReason::Following {
            self.void(number, busy.reason);
        }
        self.send_later(now, number);
    }

    /// What is open from `number` on is sent again after a while, which grows until something is complete.
    fn send_later(&mut self, now: Nanoseconds, number: BundleNumber) {
        match &mut self.retry {
            Some(retry) => retry.from = retry.from.min(number),
            None => {
                self.retry = Some(Retry { from: number, at: now.plus(self.busy_wait.0) });
                self.busy_wait = Nanoseconds((self.busy_wait.0 * 2).min(self.timing.busy_max.0));
            }
        }
    }

    /// Signs an empty bundle in the place of `number`, which nobody takes.
    fn void(&mut self, number: BundleNumber, reason: BusyReason) {
        let (id, place) = (self.id, self.number_in_session(number));
        let (config, key) = (Arc::clone(&self.config), self.key.clone());
        let Some(waiting) = self.waiting(number) else { return };
        waiting.void(reason, |out| bundle::write(out, &config, &key, id, place, &vec![Operation::Void]));
    }

    /// The home may have lost what stands in for a voided bundle, or others have executed the bundle and the answers were
    /// lost: whatever was signed is sent.
    fn doubt_voids(&mut self, out: &mut Vec<Action>) {
        let replica = self.home;
        if self.stage == Stage::Open && self.connected.contains(replica) {
            let doubted = self.window.iter_mut().filter_map(|slot| match slot {
                Slot::Waiting(waiting) => waiting.voided(),
                Slot::Complete => None,
            });
            out.extend(doubted.map(|frame| Action::Send { replica, frame }));
        }
    }

    fn on_reply(
        &mut self,
        now: Nanoseconds,
        replica: ReplicaId,
        reply: &ReplyView<'_>,
        out: &mut Vec<Action>,
    ) {
        if self.config.member(replica).is_none() {
            return;
        }
        if reply.session == SessionId::NONE {
            return self.on_registration_reply(now, replica, reply, out);
        }
        let (from_home, weak) = (replica == self.home, self.config.quorums().weak);
        let Some(number) = self.submitted(reply.session, reply.number) else { return };
        let Some(asked) = self.waiting(number).and_then(|waiting| waiting.asked(&reply.request)) else {
            return;
        };
        let verdict = match reply.body {
            ReplyBody::Gone => Verdict::Gone(reply.seq),
            ReplyBody::DigestOnly | ReplyBody::Results(_) => Verdict::Results(reply.seq, reply.digest),
        };
        let enough = self.answers.note(reply.number, replica, asked, verdict) >= weak;
        let Some(waiting) = self.waiting(number) else { return };
        match verdict {
            Verdict::Gone(seq) if enough => {
                let told = match (asked, waiting.reason()) {
                    (Asked::Void, Some(reason)) => {
                        Action::NotDone { number, reason: NotDone::Declined(reason) }
                    }
                    _ => Action::ResultsGone { number, seq },
                };
                self.complete(now, number, told, out);
            }
            Verdict::Gone(_) => {}
            Verdict::Results(seq, digest) => {
                if enough {
                    waiting.agree(seq, digest);
                }
                if let ReplyBody::Results(results) = reply.body {
                    waiting.keep_body(from_home, digest, results);
                }
                if let Some((seq, results)) = waiting.agreed_results() {
                    self.conclude(now, number, seq, results, out);
                }
            }
        }
    }

    /// f+1 replicas agree about `number`, so at least one honest replica says so.
    fn conclude(
        &mut self,
        now: Nanoseconds,
        number: BundleNumber,
        seq: Seq,
        results: Arc<[u8]>,
        out: &mut Vec<Action>,
    ) {
        let voided = self.waiting(number).and_then(|waiting| waiting.reason());
        let list = access_results(&results).ok();
        let action = match list.map(|list| list.as_slice()) {
            Some([ArchivedOperationResult::Voided]) => {
                let reason = voided.unwrap_or(BusyReason::InFlight);
                Action::NotDone { number, reason: NotDone::Declined(reason) }
            }
            Some([ArchivedOperationResult::Error(ArchivedOperationError::NumberUsed)]) => {
                let reason = voided.map_or(NotDone::NumberUsed, NotDone::Declined);
                Action::NotDone { number, reason }
            }
            Some([ArchivedOperationResult::Error(ArchivedOperationError::SessionEvicted { next })]) => {
                return self.on_evicted(now, number, BundleNumber(next.to_native()), seq, out);
            }
            _ => Action::Completed { number, seq, results },
        };
        self.complete(now, number, action, out);
    }

    /// What has become of `number` is known.
    fn complete(&mut self, now: Nanoseconds, number: BundleNumber, told: Action, out: &mut Vec<Action>) {
        let index =
            usize::try_from(number.since(self.first)).expect("invariant: the caller found it waiting");
        self.window[index] = Slot::Complete;
        self.busy_wait = self.timing.busy;
        self.busy_since = None;
        // Whoever declined something before may take what comes next.
        self.declined.fill(None);
        self.silences.fill(0);
        let progress = number == self.first;
        while matches!(self.window.front(), Some(Slot::Complete)) {
            self.window.pop_front();
            self.first = self.first.next();
        }
        if progress {
            self.patience = Nanoseconds((self.patience.0 / 2).max(self.timing.patience.0));
            self.waiting_since = (!self.window.is_empty()).then_some(now);
        }
        self.retry = self.retry.filter(|_| !self.window.is_empty());
        out.push(told);
    }
}

/// Refuses what would not fit into a bundle before anything is encoded; the bytes are a lower bound.
fn check_operations(operations: &[Operation]) -> Result<(), SubmitError> {
    if operations.is_empty() {
        return Err(SubmitError::Empty);
    }
    if operations.len() > limits::BUNDLE_OPERATIONS_MAX {
        return Err(SubmitError::TooManyOperations { operations: operations.len() });
    }
    let mut bytes = bundle::HEAD_BYTES;
    for operation in operations {
        bytes += match operation {
            Operation::Register { .. } | Operation::Void => return Err(SubmitError::Reserved),
            Operation::Get { key }
            | Operation::Delete { key }
            | Operation::Exists { key }
            | Operation::IncrementBy { key, .. } => key.len(),
            Operation::Set { key, value, .. } | Operation::Append { key, value } => key.len() + value.len(),
            Operation::MultiGet { keys } => keys.iter().map(|key| key.len() + 8).sum(),
            Operation::MultiSet { entries } => {
                entries.iter().map(|entry| entry.key.len() + entry.value.len() + 16).sum()
            }
            Operation::Scan { start, end, .. } => start.len() + end.len(),
        };
    }
    if bytes > limits::BUNDLE_BYTES_MAX {
        return Err(SubmitError::TooLong { bytes });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
