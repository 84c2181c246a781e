//! One client session as a state machine without I/O (DESIGN section 6).
//!
//! The session registers itself with bundle 0 as soon as a quorum is connected; user bundles are 1, 2, … and
//! wait until the registration is complete. Requests go to one replica, the home; every replica answers. A bundle is complete when f+1
//! replicas gave the same (number, seq, digest of the results) and the results themselves are here.
//!
//! Bundles of a session execute strictly in order and exactly once, so sending one again is always safe, and
//! whatever is sent again is sent in order from the first that may be missing: a replica skips a bundle
//! whose predecessor it has not seen. The window counts from the first bundle that is not complete, because
//! replicas keep the replies of the last [`limits::REPLIES_KEPT_MAX`] bundles only.
//!
//! Nothing here grows with time: at most [`limits::OPEN_BUNDLES_MAX`] encoded bundles and one body of
//! results each are held. What replicas send is judged and never trusted; it cannot cause a panic.

use crate::answers::{Answers, Verdict};
use quorate_types::{
    ArchivedOperationError, ArchivedOperationResult, BundleNumber, ClusterConfig, Digest, Nanoseconds,
    Operation, ReplicaId, ReplicaSet, Seq, SessionId, SigningKey, limits,
};
use quorate_wire::message::{Attach, Busy, BusyReason, Message};
use quorate_wire::reply::{ReplyBody, access_results};
use quorate_wire::{DecodeError, Frame, FrameRef, Kind, ReplyView, bundle};
use std::collections::VecDeque;
use std::sync::Arc;
use thiserror::Error;

const REGISTRATION: BundleNumber = BundleNumber(0);
/// A replica that notes the attachment only after it has executed the registration answers nobody, so the
/// registration is sent once more after this time.
const ATTACHMENT_GRACE: Nanoseconds = Nanoseconds::from_millis(50);
const _: () = assert!(limits::OPEN_BUNDLES_MAX <= limits::REPLIES_KEPT_MAX);

/// What the driver must do for the session.
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
    /// Bundle `number` was executed at `seq`, but its results are no longer kept.
    ResultsGone {
        /// The bundle.
        number: BundleNumber,
        /// Where it was executed.
        seq: Seq,
    },
    /// The session could not be opened, because the key has opened one with counter `highest`. The session is
    /// at its end; open one with a higher counter. None of its bundles was executed.
    RegistrationRefused {
        /// The highest counter that the key has used.
        highest: u64,
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
    /// Sessions register themselves.
    #[error("a session registers itself; leave Register out of bundles")]
    Registration,
    /// The registration was refused.
    #[error("the registration of this session was refused; open one with a higher counter")]
    Refused,
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
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            patience: Nanoseconds::from_millis(1000),
            patience_max: Nanoseconds::from_millis(8000),
            busy: Nanoseconds::from_millis(2),
            busy_max: Nanoseconds::from_millis(100),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Nothing is sent until a quorum is connected, or patience ends: replies go to connections that are
    /// attached when the bundle is executed, and a quorum holds f+1 honest replicas.
    Gathering,
    /// Bundle 0 is sent; user bundles wait.
    Registering,
    /// User bundles are sent as they come.
    Open,
    /// The registration was refused; nothing happens any more.
    Refused,
}

/// Results whose digest f+1 replicas have not confirmed yet.
#[derive(Debug)]
struct Body {
    digest: Digest,
    results: Arc<[u8]>,
}

#[derive(Debug)]
enum Slot {
    Waiting {
        frame: Frame,
        body: Option<Body>,
        /// What f+1 replicas agree on, when only the body is missing.
        agreed: Option<(Seq, Digest)>,
    },
    /// Complete, but not the first of the window.
    Complete,
}

/// Bundles from `from` on are sent again at `at`.
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
    counter: u64,
    id: SessionId,
    timing: Timing,
    stage: Stage,
    home: ReplicaId,
    /// The home was lost while nobody else was connected: the next connection becomes the home.
    homeless: bool,
    connected: ReplicaSet,
    /// What each replica that declined to be the home said last. Forgotten when one of its bundles is complete.
    declined: Vec<Option<BusyReason>>,
    /// Bundles `first`, `first` + 1, …; the first one is never complete.
    window: VecDeque<Slot>,
    first: BundleNumber,
    answers: Answers,
    retry: Option<Retry>,
    busy_wait: Nanoseconds,
    patience: Nanoseconds,
    /// Since when the first bundle of the window is awaited; nothing while nothing was sent.
    waiting_since: Option<Nanoseconds>,
}

impl Session {
    /// A session of `key` with `counter`, which must exceed every counter that the key has used. It prefers
    /// `home`. Nothing is sent before a connection stands.
    #[must_use]
    pub fn new(config: Arc<ClusterConfig>, key: SigningKey, counter: u64, home: ReplicaId) -> Self {
        let timing = Timing::default();
        let id = SessionId::derive(&key.public(), counter);
        let mut session = Self {
            answers: Answers::new(config.members().len()),
            declined: vec![None; config.members().len()],
            config,
            key,
            counter,
            id,
            timing,
            stage: Stage::Gathering,
            home,
            homeless: false,
            connected: ReplicaSet::EMPTY,
            window: VecDeque::with_capacity(limits::OPEN_BUNDLES_MAX),
            first: REGISTRATION,
            retry: None,
            busy_wait: timing.busy,
            patience: timing.patience,
            waiting_since: None,
        };
        let frame = session.encode(REGISTRATION, &vec![Operation::Register { counter }]);
        session.open(frame);
        session
    }

    /// The same session with another patience.
    #[must_use]
    pub fn with_timing(mut self, timing: Timing) -> Self {
        self.timing = timing;
        self.busy_wait = timing.busy;
        self.patience = timing.patience;
        self
    }

    /// The identity of the session.
    #[must_use]
    pub fn id(&self) -> SessionId {
        self.id
    }

    /// The counter with which the session registers.
    #[must_use]
    pub fn counter(&self) -> u64 {
        self.counter
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
        self.stage != Stage::Refused && self.window.len() < limits::OPEN_BUNDLES_MAX
    }

    /// Signs a bundle of `operations` and sends it to the home; returns its number. It is kept until f+1
    /// replicas have answered alike.
    pub fn submit(
        &mut self,
        now: Nanoseconds,
        operations: &Vec<Operation>,
        out: &mut Vec<Action>,
    ) -> Result<BundleNumber, SubmitError> {
        if self.stage == Stage::Refused {
            return Err(SubmitError::Refused);
        }
        if !self.can_submit() {
            return Err(SubmitError::WindowFull);
        }
        check_operations(operations)?;
        let number = self.next();
        let frame = self.encode(number, operations);
        let bytes = frame.payload().len();
        if bytes > limits::BUNDLE_BYTES_MAX {
            return Err(SubmitError::TooLong { bytes });
        }
        self.open(frame.clone());
        // Behind an open registration, or behind bundles that the home did not take, it would be skipped.
        if self.stage == Stage::Open && self.retry.is_none() && self.connected.contains(self.home) {
            self.waiting_since.get_or_insert(now);
            out.push(Action::Send { replica: self.home, frame });
        }
        Ok(number)
    }

    /// A connection to `replica` stands, its handshake is complete and nothing was sent on it.
    pub fn on_connected(&mut self, now: Nanoseconds, replica: ReplicaId, out: &mut Vec<Action>) {
        if self.stage == Stage::Refused || self.config.member(replica).is_none() {
            return;
        }
        self.connected.insert(replica);
        out.push(Action::Send { replica, frame: Attach { counter: self.counter }.encode() });
        if self.homeless {
            self.homeless = false;
            self.home = replica;
        }
        let gathered = self.stage == Stage::Gathering && self.connected.len() >= self.config.quorums().quorum;
        if gathered {
            self.stage = Stage::Registering;
        }
        if gathered || replica == self.home {
            self.send_all_again(now, out);
        } else if !self.window.is_empty() {
            // The home may never come: from now on there is somewhere to move to.
            self.waiting_since.get_or_insert(now);
        }
        if self.stage == Stage::Registering && self.retry.is_none() {
            self.retry = Some(Retry { from: REGISTRATION, at: now.plus(ATTACHMENT_GRACE.0) });
        }
    }

    /// The connection to `replica` is lost, or could not be made.
    pub fn on_disconnected(&mut self, now: Nanoseconds, replica: ReplicaId, out: &mut Vec<Action>) {
        self.connected.remove(replica);
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
            other => return Err(DecodeError::Misplaced(other)),
        }
        Ok(())
    }

    /// Time has passed; does nothing before [`Session::deadline`].
    pub fn on_time(&mut self, now: Nanoseconds, out: &mut Vec<Action>) {
        if self.timeout_at().is_some_and(|at| at <= now) {
            self.patience = Nanoseconds((self.patience.0 * 2).min(self.timing.patience_max.0));
            self.waiting_since = Some(now);
            if self.stage == Stage::Gathering {
                self.stage = Stage::Registering;
            }
            self.move_home(now, out);
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

    /// The number that the next bundle gets.
    fn next(&self) -> BundleNumber {
        self.first.plus(self.window.len() as u64)
    }

    fn encode(&self, number: BundleNumber, operations: &Vec<Operation>) -> Frame {
        Frame::encode(Kind::Bundle, |out| {
            bundle::write(out, &self.config, &self.key, self.id, number, operations);
        })
    }

    fn open(&mut self, frame: Frame) {
        assert!(self.window.len() < limits::OPEN_BUNDLES_MAX, "the window was checked before");
        self.answers.clear(self.next());
        self.window.push_back(Slot::Waiting { frame, body: None, agreed: None });
    }

    fn slot(&mut self, number: BundleNumber) -> Option<&mut Slot> {
        let index = number.0.checked_sub(self.first.0)?;
        self.window.get_mut(usize::try_from(index).ok()?)
    }

    /// Moves to the next connected replica after the home, which may be the home itself, and sends what is
    /// open. Without any connection the home stays.
    fn move_home(&mut self, now: Nanoseconds, out: &mut Vec<Action>) {
        let replicas = self.config.members().len();
        let home = self.home.index();
        let after = (1..=replicas).map(|step| (home + step) % replicas);
        let mut connected = after
            .map(|index| ReplicaId(u8::try_from(index).expect("invariant: below REPLICAS_MAX")))
            .filter(|replica| self.connected.contains(*replica));
        let willing = |replica: &ReplicaId| self.declined[replica.index()].is_none();
        let next = connected.clone().find(willing).or_else(|| connected.next());
        if let Some(next) = next {
            self.home = next;
            self.send_all_again(now, out);
        }
    }

    fn send_all_again(&mut self, now: Nanoseconds, out: &mut Vec<Action>) {
        self.retry = None;
        if !self.window.is_empty() {
            self.waiting_since = Some(now);
        }
        self.send_again(self.first, out);
    }

    /// Sends every open bundle from `from` on to the home, in order.
    fn send_again(&mut self, from: BundleNumber, out: &mut Vec<Action>) {
        if !self.connected.contains(self.home) {
            return;
        }
        let sendable = match self.stage {
            Stage::Registering => 1,
            Stage::Open => self.window.len(),
            Stage::Gathering | Stage::Refused => 0,
        };
        // Bundles before the window are complete.
        let skip = usize::try_from(from.since(self.first)).expect("invariant: a step within the window");
        for slot in self.window.iter().take(sendable).skip(skip) {
            if let Slot::Waiting { frame, .. } = slot {
                out.push(Action::Send { replica: self.home, frame: frame.clone() });
            }
        }
    }

    fn on_busy(&mut self, now: Nanoseconds, replica: ReplicaId, busy: &Busy, out: &mut Vec<Action>) {
        let waiting = matches!(self.slot(busy.number), Some(Slot::Waiting { .. }));
        if busy.session != self.id || replica != self.home || !waiting {
            return;
        }
        if busy.reason != BusyReason::InFlight && self.declined[replica.index()].is_none() {
            // Somebody else may take it. Once all have declined, they are asked again like busy ones.
            self.declined[replica.index()] = Some(busy.reason);
            return self.move_home(now, out);
        }
        match &mut self.retry {
            Some(retry) => retry.from = retry.from.min(busy.number),
            None => {
                self.retry = Some(Retry { from: busy.number, at: now.plus(self.busy_wait.0) });
                self.busy_wait = Nanoseconds((self.busy_wait.0 * 2).min(self.timing.busy_max.0));
            }
        }
    }

    fn on_reply(
        &mut self,
        now: Nanoseconds,
        replica: ReplicaId,
        reply: &ReplyView<'_>,
        out: &mut Vec<Action>,
    ) {
        let from_home = replica == self.home;
        let open = matches!(self.slot(reply.number), Some(Slot::Waiting { .. }));
        if reply.session != self.id || !open || self.config.member(replica).is_none() {
            return;
        }
        let verdict = match reply.body {
            ReplyBody::Gone => Verdict::Gone(reply.seq),
            ReplyBody::DigestOnly | ReplyBody::Results(_) => Verdict::Results(reply.seq, reply.digest),
        };
        let enough = self.answers.note(reply.number, replica, verdict) >= self.config.quorums().weak;
        let Some(Slot::Waiting { body, agreed, .. }) = self.slot(reply.number) else { return };
        match verdict {
            Verdict::Gone(seq) if enough => self.complete(now, reply.number, seq, None, out),
            Verdict::Gone(_) => {}
            Verdict::Results(seq, digest) => {
                if enough {
                    *agreed = Some((seq, digest));
                }
                if let ReplyBody::Results(results) = reply.body {
                    keep_body(body, agreed.as_ref(), from_home, digest, results);
                }
                if let (Some((seq, digest)), Some(found)) = (*agreed, &body)
                    && found.digest == digest
                {
                    let results = Arc::clone(&found.results);
                    self.complete(now, reply.number, seq, Some(results), out);
                }
            }
        }
    }

    /// f+1 replicas agree about `number`, so at least one honest replica executed it like this.
    fn complete(
        &mut self,
        now: Nanoseconds,
        number: BundleNumber,
        seq: Seq,
        results: Option<Arc<[u8]>>,
        out: &mut Vec<Action>,
    ) {
        *self.slot(number).expect("invariant: the caller found it waiting") = Slot::Complete;
        self.busy_wait = self.timing.busy;
        self.declined[self.home.index()] = None;
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
        match results {
            _ if number == REGISTRATION => self.on_registration(now, results.as_deref(), out),
            Some(results) => out.push(Action::Completed { number, seq, results }),
            None => out.push(Action::ResultsGone { number, seq }),
        }
    }

    /// Results that are gone prove that the session was opened: refusals are not kept in the state.
    fn on_registration(&mut self, now: Nanoseconds, results: Option<&[u8]>, out: &mut Vec<Action>) {
        let result = results.and_then(|bytes| access_results(bytes).ok()).and_then(|list| list.first());
        match result {
            None | Some(ArchivedOperationResult::Registered) => {
                self.stage = Stage::Open;
                self.send_all_again(now, out);
            }
            Some(refused) => {
                let highest = match refused {
                    ArchivedOperationResult::Error(ArchivedOperationError::CounterTooLow {
                        highest, ..
                    }) => highest.to_native(),
                    _ => self.counter,
                };
                self.stage = Stage::Refused;
                self.window.clear();
                self.retry = None;
                self.waiting_since = None;
                out.push(Action::RegistrationRefused { highest });
            }
        }
    }
}

/// One body is kept per bundle. One that f+1 replicas confirm is taken from anybody; before that, the home's
/// has precedence, so that another replica cannot displace it with a lie.
fn keep_body(
    body: &mut Option<Body>,
    agreed: Option<&(Seq, Digest)>,
    from_home: bool,
    digest: Digest,
    results: &[u8],
) {
    let keep = match agreed {
        Some((_, confirmed)) => *confirmed == digest,
        None => from_home || body.is_none(),
    };
    if keep && body.as_ref().is_none_or(|kept| kept.digest != digest) {
        *body = Some(Body { digest, results: Arc::from(results) });
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
            Operation::Register { .. } => return Err(SubmitError::Registration),
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
