//! State transfer: a replica that lacks what the others no longer keep takes over a certified state, page by page
//! (DESIGN section 6).
//!
//! *Fetching* begins when a state ahead of the own one is certified and execution has stood still for a while, whatever
//! the reason: headers or batches that nobody keeps, a lost disk, a damaged checkpoint. The fetched state is made
//! durable like a checkpoint of the own making before anything builds on it.
//!
//! *Serving*: the newest durable states answer. One that was asked for lately stays beside the newest. The batches above
//! the oldest of them are kept, so that who copies it under load is not left behind again when it is done.

use quorate_state::{
    BadAnswer, Forest, Frozen, PageAnswer, PageFault, PageRequest, Transfer as Walk, TransferOptions,
};
use quorate_types::{Digest, Nanoseconds, ReplicaId, ReplicaSet, Seq, Tuning, limits};
use quorate_wire::message::{CheckpointCertificate, FetchPages, FetchedPages};
use quorate_wire::{LaneTip, Position};
use std::collections::VecDeque;
use std::sync::Arc;

/// A state ahead of an execution that has stood still for so many retransmission times is fetched.
const STANDSTILL_TIMES: u64 = 10;
/// How often a walk under way looks at its clock, in retransmission times.
const STEP_TIMES: u64 = 1;
/// When nothing useful has come for so many retransmission times, a newer certified state is fetched instead.
const RETARGET_TIMES: u64 = 40;
/// How often what has come is kept on the disk, in retransmission times.
const KEEP_TIMES: u64 = 100;
/// How long a state that was asked for stays, in retransmission times after the last question.
const ASKED_TIMES: u64 = 100;
/// The states that are kept for serving, the newest included.
const SERVED_MAX: usize = 2;

/// What this role is to tell its peers, and its disk.
#[derive(Debug)]
pub(crate) enum ToPeer {
    Ask(ReplicaId, FetchPages),
    /// What has come so far is to be kept on the disk.
    Keep {
        position: Position,
        root: Digest,
        received: Forest,
    },
    /// The peer answered what no honest one does.
    Condemn(ReplicaId),
}

/// A walk that is under way.
#[derive(Debug)]
struct Fetching {
    target: Arc<CheckpointCertificate>,
    walk: Walk,
    useful_at: Nanoseconds,
    /// When what had come was kept last.
    kept_at: Nanoseconds,
    /// The whole state, on its way to the disk.
    whole: Option<Frozen>,
}

/// The fetching side.
#[derive(Debug, Default)]
pub(crate) struct Transfer {
    peers: ReplicaSet,
    /// The state that execution reached last, and since when.
    reached: Option<(Seq, Nanoseconds)>,
    fetching: Option<Fetching>,
    /// What an earlier walk had received when the replica stopped.
    part: Option<Forest>,
    /// Nothing is to be done before.
    due: Option<Nanoseconds>,
}

impl Transfer {
    /// A walk that begins will take over what an earlier one had received.
    pub(crate) fn resuming(part: Option<Forest>) -> Self {
        Self { part, ..Self::default() }
    }

    pub(crate) fn on_peer(&mut self, peer: ReplicaId, connected: bool) {
        if connected {
            self.peers.insert(peer);
        } else {
            self.peers.remove(peer);
            if let Some(fetching) = &mut self.fetching {
                fetching.walk.forget(peer);
            }
        }
    }

    /// When [`Transfer::on_time`] wants to be called next.
    pub(crate) fn deadline(&self) -> Option<Nanoseconds> {
        self.due
    }

    /// Whether a state is being fetched.
    pub(crate) fn is_fetching(&self) -> bool {
        self.fetching.is_some()
    }

    /// The certified state that is being fetched.
    pub(crate) fn target(&self) -> Option<Position> {
        self.fetching.as_ref().map(|fetching| fetching.target.position)
    }

    /// What came and how many parts were here already, for reports.
    pub(crate) fn figures(&self) -> Option<(u64, u64)> {
        let walk = &self.fetching.as_ref()?.walk;
        Some((walk.figures().pages, walk.reused()))
    }

    /// Begins, goes on with or gives up a walk; `own` is the present state and `executed` where it stands.
    pub(crate) fn on_time(
        &mut self,
        now: Nanoseconds,
        tuning: &Tuning,
        stable: Option<&Arc<CheckpointCertificate>>,
        executed: Seq,
        own: impl FnOnce() -> Frozen,
    ) -> Vec<ToPeer> {
        let Some(stable) = stable.filter(|stable| stable.position.seq > executed) else {
            // Execution got there by itself.
            (self.reached, self.fetching, self.due) = (None, None, None);
            return Vec::new();
        };
        let step = tuning.retransmit.0;
        match self.reached {
            Some((seq, since)) if seq == executed => {
                if self.fetching.is_none() {
                    let begins = since.plus(STANDSTILL_TIMES * step);
                    if now < begins {
                        self.due = Some(begins);
                        return Vec::new();
                    }
                    let mut walk = Walk::new(stable.root, TransferOptions::default());
                    walk.reuse(&own());
                    if let Some(part) = self.part.take() {
                        walk.reuse_forest(&part);
                    }
                    let target = Arc::clone(stable);
                    self.fetching =
                        Some(Fetching { target, walk, useful_at: now, kept_at: now, whole: None });
                }
            }
            _ => {
                self.reached = Some((executed, now));
                if self.fetching.as_ref().is_none_or(|fetching| fetching.target.position.seq <= executed) {
                    self.fetching = None;
                    self.due = Some(now.plus(STANDSTILL_TIMES * step));
                    return Vec::new();
                }
            }
        }
        self.due = Some(now.plus(STEP_TIMES * step));
        self.ask(now, step, stable)
    }

    fn ask(&mut self, now: Nanoseconds, step: u64, stable: &Arc<CheckpointCertificate>) -> Vec<ToPeer> {
        let Some(fetching) = &mut self.fetching else { return Vec::new() };
        if fetching.whole.is_some() {
            return Vec::new();
        }
        if now.since(fetching.useful_at) >= RETARGET_TIMES * step
            && stable.position.seq > fetching.target.position.seq
        {
            fetching.walk.retarget(stable.root);
            fetching.target = Arc::clone(stable);
            fetching.useful_at = now;
        }
        fetching.walk.expire(now);
        let mut questions = Vec::new();
        if now.since(fetching.kept_at) >= KEEP_TIMES * step {
            fetching.kept_at = now;
            let (position, root) = (fetching.target.position, fetching.target.root);
            questions.push(ToPeer::Keep { position, root, received: fetching.walk.received() });
        }
        for peer in self.peers.iter() {
            while let Some(PageRequest { number, root, wanted }) = fetching.walk.request(now, peer) {
                questions.push(ToPeer::Ask(peer, FetchPages { request: number, root, wanted }));
            }
        }
        questions
    }

    /// Takes an answer; asks for more at once.
    ///
    /// # Errors
    /// When the certified state contradicts itself.
    pub(crate) fn on_answer(
        &mut self,
        now: Nanoseconds,
        tuning: &Tuning,
        peer: ReplicaId,
        message: FetchedPages,
    ) -> Result<Vec<ToPeer>, PageFault> {
        let Some(fetching) = &mut self.fetching else { return Ok(Vec::new()) };
        let FetchedPages { request, root, top, pages, values } = message;
        let answer = PageAnswer { number: request, root, top, pages, values };
        let mut told = Vec::new();
        match fetching.walk.on_answer(now, peer, &answer) {
            Ok(received) if received.pages > 0 => fetching.useful_at = now,
            Ok(_) => {}
            Err(BadAnswer::Page(fault)) => return Err(fault),
            Err(_) => told.push(ToPeer::Condemn(peer)),
        }
        let target = Arc::clone(&fetching.target);
        told.extend(self.ask(now, tuning.retransmit.0, &target));
        Ok(told)
    }

    /// The whole state, once it is here; it is given out once.
    ///
    /// # Errors
    /// When the certified state contradicts itself.
    pub(crate) fn take_whole(&mut self) -> Result<Option<(Position, Frozen)>, PageFault> {
        let Some(fetching) = &mut self.fetching else { return Ok(None) };
        if fetching.whole.is_some() || !fetching.walk.is_finished() {
            return Ok(None);
        }
        let walk = std::mem::replace(&mut fetching.walk, Walk::new(Digest::ZERO, TransferOptions::default()));
        let whole = walk.finish()?;
        fetching.whole = Some(whole.clone());
        Ok(Some((fetching.target.position, whole)))
    }

    /// The state that was given out is durable: the walk is over.
    pub(crate) fn on_durable(&mut self, position: Position) -> Option<Frozen> {
        let is_it = |fetching: &mut Fetching| fetching.target.position == position;
        let fetching = self.fetching.take_if(is_it)?;
        (self.reached, self.due) = (None, None);
        fetching.whole
    }
}

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
    Peer,
    Client,
}

/// The serving side.
#[derive(Debug, Default)]
pub(crate) struct Library {
    states: VecDeque<Served>,
    /// The tips above which batches are kept.
    pinned: Option<Arc<[LaneTip]>>,
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

    /// Answers a question from whichever state has the root, or else from the newest: much of it is the same.
    pub(crate) fn answer(&mut self, now: Nanoseconds, reader: Reader, question: FetchPages) -> FetchedPages {
        let FetchPages { request: number, root, wanted } = question;
        let found = self.states.iter().position(|served| served.root == root);
        let index = found.or_else(|| self.states.len().checked_sub(1));
        let Some(served) = index.and_then(|index| self.states.get_mut(index)) else {
            return FetchedPages { request: number, root, top: None, pages: Vec::new(), values: Vec::new() };
        };
        if found.is_some() {
            match reader {
                Reader::Peer => served.asked = Some(now),
                Reader::Client => served.copied = Some(now),
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

    /// When a state may be let go of at the latest.
    pub(crate) fn deadline(&self, tuning: &Tuning) -> Option<Nanoseconds> {
        let asked = self.states.iter().filter_map(|served| served.asked).max()?;
        (self.states.len() > 1).then(|| asked.plus(ASKED_TIMES * tuning.retransmit.0))
    }
}
