//! How a session is opened, and opened again when the state has evicted it (DESIGN section 6).

use super::slot::Slot;
use super::{Action, Retry, Session, Stage};
use crate::answers::{Answers, Asked, Verdict};
use quorate_types::{
    ArchivedOperationError, ArchivedOperationResult, BundleNumber, Digest, Domain, Nanoseconds, Nonce,
    Operation, ReplicaId, Seq, SessionId, nth_highest,
};
use quorate_wire::message::{Attach, Message};
use quorate_wire::reply::{ReplyBody, access_results};
use quorate_wire::{Frame, Kind, ReplyView, bundle};

/// A replica that notes the attachment only after it has executed the registration answers nobody, so the
/// registration is sent once more after this time.
pub(super) const ATTACHMENT_GRACE: Nanoseconds = Nanoseconds::from_millis(50);
/// The number of a registration, in no session.
const NUMBER: BundleNumber = BundleNumber(0);

/// The registration at hand and what replicas have said to it.
#[derive(Debug)]
pub(super) struct Registration {
    /// Where nonces come from.
    seed: [u8; 32],
    /// How many registrations there were.
    attempts: u64,
    nonce: Nonce,
    /// What is sent, the same however often, and the digest of its operation.
    signed: Option<(Frame, Digest)>,
    /// What each connected replica has last said that it has executed.
    reports: Vec<Option<Seq>>,
    /// A seq that an honest replica has executed.
    recent: Seq,
    answers: Answers,
}

impl Registration {
    pub(super) fn new(seed: [u8; 32], replicas: usize) -> Self {
        let mut registration = Self {
            seed,
            attempts: 0,
            nonce: Nonce::default(),
            signed: None,
            reports: vec![None; replicas],
            recent: Seq(0),
            answers: Answers::of_one(replicas),
        };
        registration.renew(Seq(0));
        registration
    }

    /// The next registration, which names `recent` or a later seq, and nothing of the one before.
    fn renew(&mut self, recent: Seq) {
        self.attempts += 1;
        let mut writer = Digest::writer(Domain::Nonce);
        writer.bytes(&self.seed).u64(self.attempts);
        let digest = writer.finish();
        self.nonce = Nonce(*digest.0.first_chunk().expect("invariant: a digest has 32 bytes"));
        self.signed = None;
        self.recent = self.recent.max(recent);
        self.answers.clear(NUMBER);
    }

    pub(super) fn forget_report(&mut self, replica: ReplicaId) {
        if let Some(report) = self.reports.get_mut(replica.index()) {
            *report = None;
        }
    }

    fn send(&self, replica: ReplicaId, out: &mut Vec<Action>) {
        if let Some((frame, _)) = &self.signed {
            out.push(Action::Send { replica, frame: frame.clone() });
        }
    }
}

impl Session {
    /// Tells a replica whose replies are wanted.
    pub(super) fn attach(&self, replica: ReplicaId, out: &mut Vec<Action>) {
        let frame = Attach { nonce: self.registration.nonce, session: self.id }.encode();
        out.push(Action::Send { replica, frame });
    }

    fn attach_everywhere(&self, out: &mut Vec<Action>) {
        self.config
            .replica_ids()
            .filter(|replica| self.connected.contains(*replica))
            .for_each(|replica| self.attach(replica, out));
    }

    /// A replica has noted the attachment, and says how far it is.
    pub(super) fn on_attached(
        &mut self,
        now: Nanoseconds,
        replica: ReplicaId,
        executed: Seq,
        out: &mut Vec<Action>,
    ) {
        if !self.connected.contains(replica) {
            return;
        }
        self.registration.reports[replica.index()] = Some(executed);
        let reports = self.registration.reports.iter().flatten().count();
        if self.stage == Stage::Gathering && reports >= self.config.quorums().quorum {
            self.register(now, out);
        }
    }

    /// Patience is at its end before a quorum has reported: f+1 reports are enough for a seq that is executed.
    pub(super) fn register_with_fewer(&mut self) {
        if self.registration.reports.iter().flatten().count() >= self.config.quorums().weak {
            self.stage = Stage::Registering;
        }
    }

    fn register(&mut self, now: Nanoseconds, out: &mut Vec<Action>) {
        self.stage = Stage::Registering;
        self.send_all_again(now, out);
        self.retry = Some(Retry { from: self.first, at: now.plus(ATTACHMENT_GRACE.0) });
    }

    /// Sends the registration to the home. It is signed when it is sent first, so that the seq that it names is not old.
    pub(super) fn send_registration(&mut self, out: &mut Vec<Action>) {
        if self.registration.signed.is_none() {
            self.sign_registration();
        }
        self.registration.send(self.home, out);
    }

    /// Signs the registration, which names the seq that f+1 replicas have reached.
    fn sign_registration(&mut self) {
        let reports = self.registration.reports.iter().flatten().copied();
        let reached = nth_highest(reports, self.config.quorums().weak);
        let registration = &mut self.registration;
        registration.recent = registration.recent.max(reached);
        let operation = Operation::Register { nonce: registration.nonce, recent: registration.recent.0 };
        let mut request = Digest::ZERO;
        let frame = Frame::encode(Kind::Bundle, |out| {
            let (config, key) = (&self.config, &self.key);
            request = bundle::write(out, config, key, SessionId::NONE, NUMBER, &vec![operation]);
        });
        registration.signed = Some((frame, request));
    }

    pub(super) fn on_registration_reply(
        &mut self,
        now: Nanoseconds,
        replica: ReplicaId,
        reply: &ReplyView<'_>,
        out: &mut Vec<Action>,
    ) {
        let asked = self.registration.signed.as_ref().is_some_and(|(_, request)| *request == reply.request);
        let ReplyBody::Results(results) = reply.body else { return };
        if self.stage != Stage::Registering || reply.number != NUMBER || !asked {
            return;
        }
        let verdict = Verdict::Results(reply.seq, reply.digest);
        let said = self.registration.answers.note(NUMBER, replica, Asked::Bundle, verdict);
        if said < self.config.quorums().weak {
            return;
        }
        match access_results(results).map(|list| list.as_slice()) {
            Ok([ArchivedOperationResult::Registered { session }]) => {
                let place = session.place.to_native();
                let session = SessionId { seq: Seq(session.seq.0.to_native()), place };
                self.on_registered(now, session, out);
            }
            Ok([ArchivedOperationResult::Error(error)]) => {
                let wait = matches!(error, ArchivedOperationError::TooManyRegistrations { .. });
                self.register_anew(now, reply.seq, wait, out);
            }
            // Nothing else answers a registration.
            _ => {}
        }
    }

    fn on_registered(&mut self, now: Nanoseconds, session: SessionId, out: &mut Vec<Action>) {
        (self.stage, self.id) = (Stage::Open, session);
        self.before = self.first.0 - 1;
        self.busy_wait = self.timing.busy;
        self.busy_since = None;
        self.waiting_since = None;
        for (place, slot) in (1..).map(BundleNumber).zip(&mut self.window) {
            self.answers.clear(place);
            let Slot::Waiting(waiting) = slot else { continue };
            waiting.sign(|out, operations| {
                bundle::write_encoded(out, &self.config, &self.key, session, place, operations)
            });
        }
        self.attach_everywhere(out);
        self.send_all_again(now, out);
    }

    /// Registers with another nonce, after what is agreed to have happened at `seq`; at once or after a while.
    fn register_anew(&mut self, now: Nanoseconds, seq: Seq, wait: bool, out: &mut Vec<Action>) {
        self.registration.renew(seq);
        (self.id, self.retry) = (SessionId::NONE, None);
        self.attach_everywhere(out);
        if wait {
            self.stage = Stage::Registering;
            self.send_later(now, self.first);
        } else {
            self.register(now, out);
        }
    }

    /// f+1 replicas agree, asked about bundle `asked`, that the session is evicted and `next` the first of its bundles that was not executed (0: not
    /// known). What was surely not executed goes into another session; of the rest nobody knows more.
    pub(super) fn on_evicted(
        &mut self,
        now: Nanoseconds,
        asked: BundleNumber,
        next: BundleNumber,
        seq: Seq,
        out: &mut Vec<Action>,
    ) {
        let known = next > BundleNumber(0);
        let sent = self.window.iter().rposition(Slot::was_sent).map_or(0, |last| last + 1);
        let executed = next.since(self.number_in_session(self.first));
        let ended = if known { usize::try_from(executed).unwrap_or(sent).min(sent) } else { sent };
        for slot in self.window.drain(..ended) {
            let number = self.first;
            self.first = number.next();
            match slot {
                Slot::Complete => {}
                // What is agreed of the one that was asked about is the eviction.
                Slot::Waiting(waiting)
                    if waiting.reason().is_none() && (known || waiting.is_agreed() && number != asked) =>
                {
                    out.push(Action::ResultsGone { number, seq });
                }
                Slot::Waiting(_) => out.push(Action::Unknown { number }),
            }
        }
        self.window.iter_mut().for_each(Slot::return_to_unsigned);
        self.register_anew(now, seq, false, out);
    }
}
