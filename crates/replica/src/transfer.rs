//! State transfer: a replica that lacks what the others no longer keep takes over a certified state, page by page
//! (DESIGN section 6).
//!
//! It begins when a state ahead of the own one is certified and execution has stood still for a while, whatever
//! the reason: headers or batches that nobody keeps, a lost disk, a damaged checkpoint. The fetched state is made
//! durable like a checkpoint of the own making before anything builds on it. The other side is [`crate::library`].

use quorate_state::{
    BadAnswer, Forest, Frozen, PageAnswer, PageFault, PageRequest, Transfer as Walk, TransferOptions,
};
use quorate_types::{Digest, Nanoseconds, ReplicaId, ReplicaSet, Seq, Tuning};
use quorate_wire::Position;
use quorate_wire::message::{CheckpointCertificate, FetchPages, FetchedPages};
use std::sync::Arc;

/// A state ahead of an execution that has stood still for so many retransmission times is fetched.
const STANDSTILL_TIMES: u64 = 10;
/// How often a walk under way looks at its clock, in retransmission times.
const STEP_TIMES: u64 = 1;
/// When nothing useful has come for so many retransmission times, a newer certified state is fetched instead.
const RETARGET_TIMES: u64 = 40;
/// How often what has come is kept on the disk, in retransmission times.
const KEEP_TIMES: u64 = 100;

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
