//! The states that this replica serves to whoever copies one: a peer that catches up, or a client that makes a backup
//! (DESIGN section 6).
//!
//! The newest durable states answer. One that was asked for lately stays beside the newest. The batches above the oldest
//! of them are kept, so that who copies it under load is not left behind again when it is done.
//!
//! A question is small and its answer large. So answers leave at the end of a tick and are bounded in bytes; what is too
//! much waits for the next one. How many questions one reader has open is limited where they arrive.

use crate::interface::ClientConnection;
use quorate_state::{Frozen, PageAnswer, PageRequest};
use quorate_types::{Digest, Nanoseconds, ReplicaId, Tuning, limits};
use quorate_wire::message::{CheckpointCertificate, FetchPages, FetchedPages, Message};
use quorate_wire::{Frame, LaneTip};
use std::collections::VecDeque;
use std::sync::Arc;

/// How long a state that was asked for stays, in retransmission times after the last question.
const ASKED_TIMES: u64 = 100;
/// The states that are kept for serving, the newest included.
const SERVED_MAX: usize = 2;
/// The bytes of answers after which a tick answers no more.
const ANSWERS_BYTES_MAX: usize = limits::FETCH_BYTES_MAX;

/// A durable state that can be served.
#[derive(Debug)]
struct Served {
    root: Digest,
    state: Frozen,
    tips: Arc<[LaneTip]>,
    certificate: Option<Arc<CheckpointCertificate>>,
    /// When a peer has asked for it last, and when a client has.
    asked: Option<Nanoseconds>,
    copied: Option<Nanoseconds>,
}

/// Who asks for pages. A client copies a state and needs nothing of what leads on from there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reader {
    Peer(ReplicaId),
    Client(ClientConnection),
}

/// The durable states that answer.
#[derive(Debug, Default)]
pub(crate) struct Library {
    states: VecDeque<Served>,
    /// The tips above which batches are kept.
    pinned: Option<Arc<[LaneTip]>>,
    /// What is to be answered, the oldest first: a few questions of each reader, so everyone has a turn.
    questions: VecDeque<(Reader, FetchPages)>,
}

impl Library {
    /// A newer state is durable.
    pub(crate) fn add(
        &mut self,
        root: Digest,
        state: Frozen,
        tips: Arc<[LaneTip]>,
        stable: Option<&Arc<CheckpointCertificate>>,
    ) {
        self.states.push_back(Served { root, state, tips, certificate: None, asked: None, copied: None });
        stable.into_iter().for_each(|certificate| self.certify(certificate));
    }

    /// A state is certified. Its root covers the slot, too.
    pub(crate) fn certify(&mut self, certificate: &Arc<CheckpointCertificate>) {
        let of_it = self.states.iter_mut().find(|served| served.root == certificate.root);
        if let Some(served) = of_it {
            served.certificate = Some(Arc::clone(certificate));
        }
    }

    /// The certificate of the newest state that has one; the state stays for a while, to be copied.
    pub(crate) fn certified(&mut self, now: Nanoseconds) -> Option<CheckpointCertificate> {
        let newest = self.states.iter_mut().rev().find(|served| served.certificate.is_some())?;
        newest.copied = Some(now);
        newest.certificate.as_deref().cloned()
    }

    /// Notes a question.
    pub(crate) fn ask(&mut self, reader: Reader, question: FetchPages) {
        self.questions.push_back((reader, question));
    }

    /// This reader is gone: it is not answered any more.
    pub(crate) fn forget(&mut self, reader: Reader) {
        self.questions.retain(|(asker, _)| *asker != reader);
    }

    /// The answers that leave with this tick.
    pub(crate) fn answers(&mut self, now: Nanoseconds) -> Vec<(Reader, Frame)> {
        let (mut answers, mut bytes) = (Vec::new(), 0);
        while bytes < ANSWERS_BYTES_MAX
            && let Some((reader, question)) = self.questions.pop_front()
        {
            let frame = self.answer(now, reader, question).encode();
            bytes += frame.bytes().len();
            answers.push((reader, frame));
        }
        answers
    }

    /// Answers a question from whichever state has the root, or else from the newest: much of it is the same.
    fn answer(&mut self, now: Nanoseconds, reader: Reader, question: FetchPages) -> FetchedPages {
        let FetchPages { request: number, root, wanted } = question;
        let found = self.states.iter().position(|served| served.root == root);
        let index = found.or_else(|| self.states.len().checked_sub(1));
        let Some(served) = index.and_then(|index| self.states.get_mut(index)) else {
            return FetchedPages { request: number, root, top: None, pages: Vec::new(), values: Vec::new() };
        };
        if found.is_some() {
            match reader {
                Reader::Peer(_) => served.asked = Some(now),
                Reader::Client(_) => served.copied = Some(now),
            }
        }
        let request = PageRequest { number, root, wanted };
        let PageAnswer { number, root, top, pages, values } =
            served.state.answer(&request, limits::FETCH_BYTES_MAX);
        FetchedPages { request: number, root, top, pages, values }
    }

    /// Lets go of states that are neither the newest nor in use. Says above which tips batches are to be kept, if that
    /// has changed.
    pub(crate) fn on_time(&mut self, now: Nanoseconds, tuning: &Tuning) -> Option<Option<Arc<[LaneTip]>>> {
        let newest = self.states.len().saturating_sub(1);
        let lately = |asked: Option<Nanoseconds>| {
            asked.is_some_and(|asked| now.since(asked) < ASKED_TIMES * tuning.retransmit.0)
        };
        let in_use = |served: &Served| lately(served.asked) || lately(served.copied);
        let mut index = 0;
        self.states.retain(|served| {
            index += 1;
            index > newest || in_use(served)
        });
        while self.states.len() > SERVED_MAX {
            // The oldest has been asked for; one in between gives way.
            self.states.remove(1);
        }
        let pinned = self.states.front().map(|served| Arc::clone(&served.tips));
        let same = match (&self.pinned, &pinned) {
            (Some(before), Some(now)) => Arc::ptr_eq(before, now),
            (None, None) => true,
            _ => false,
        };
        if same {
            return None;
        }
        self.pinned.clone_from(&pinned);
        Some(pinned)
    }

    /// When there is something to do: at once while questions wait, or when a state may be let go of.
    pub(crate) fn deadline(&self, tuning: &Tuning) -> Option<Nanoseconds> {
        if !self.questions.is_empty() {
            return Some(Nanoseconds(0));
        }
        let asked = self.states.iter().filter_map(|served| served.asked).max()?;
        (self.states.len() > 1).then(|| asked.plus(ASKED_TIMES * tuning.retransmit.0))
    }
}
