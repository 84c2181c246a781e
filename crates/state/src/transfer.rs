//! The fetching side of a state transfer: a walk down a certified root that asks for pages, checks each against the
//! digest that its parent names, and never asks for what an own state has already.
//!
//! Pure: the caller carries requests and answers and says what time it is. The walk goes depth first, so what is
//! wanted and not there stays small (a page of children for each level); received subtrees are the state itself.
//! Nothing a peer says is believed but bytes with the digest that was asked for: height and shape of the tree follow
//! from the root, which covers them.
//!
//! *Slow peers.* What a peer leaves out, or does not answer, is not asked of it again before the others have had their
//! turn. When half of its time is over, others are asked for the same beside it; what it gives late is taken all the
//! same. Whoever was slow, or gave little of what it was asked for, is remembered: what it is asked for the others are asked
//! for too. So one that drips holds the walk up once, for a moment.
//!
//! *Resuming.* What was received can be written at any time as a partial checkpoint
//! ([`PageStore::begin_partial`](crate::PageStore::begin_partial) of [`Transfer::received`]); after a restart it is
//! [loaded](crate::PageStore::load_forest) and given to [`Transfer::reuse_forest`], like any older state.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use quorate_fetch::{Budget, Servers};
use quorate_types::mistakes::is_made;
use quorate_types::{Digest, Domain, Mistake, Nanoseconds, PageName, ReplicaId, limits};
use thiserror::Error;

use crate::builder::{Builder, Content, Want, check_order};
use crate::forest::Forest;
use crate::frozen::Frozen;
use crate::leaf::{LEAF_WEIGHT_MAX, LongValue};
use crate::manifest::root_digest;
use crate::node::{INNER_WEIGHT_MAX, Node, digest_of_page};
use crate::page::PageFault;
use crate::salvage::Salvage;
use crate::serve::{PageAnswer, PageRequest};
use crate::totals::Totals;
use crate::tree::Tree;

/// How a transfer asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransferOptions {
    /// The most bytes that one request may bring, a single longer page aside.
    pub request_bytes: usize,
    /// How many requests one peer has open.
    pub requests_per_peer: usize,
    /// How long a peer may take to answer; twice as long for each time that it was slow, up to three times. After half of it
    /// others are asked for the same, and at once if it is known to be slow.
    pub patience: Nanoseconds,
    /// Others are asked for the same after that time already where little is asked for: half of [`TransferOptions::patience`]
    /// is for as much as one request may bring, and a peer that is slow to bring little need not be slow.
    pub share_after: Nanoseconds,
    /// How long a peer that had nothing, or was late, is not asked, and how long no peer is asked for what it left out.
    pub pause: Nanoseconds,
}

impl Default for TransferOptions {
    fn default() -> Self {
        Self {
            request_bytes: 1024 * 1024,
            requests_per_peer: limits::PAGE_REQUESTS_MAX,
            patience: Nanoseconds(2_000_000_000),
            share_after: Nanoseconds(100_000_000),
            pause: Nanoseconds(1_000_000_000),
        }
    }
}

/// What a peer did that no honest one does. It is not asked again; whoever drives the transfer bans it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BadAnswer {
    /// The top has not the root that is wanted.
    #[error("the top of the tree does not give the root")]
    Top,
    /// Bytes that were not asked for, or do not have the digest that was asked for.
    #[error("a page that was not asked for, or with another digest")]
    Unasked,
    /// Bytes with the right digest that are no page. Not the peer but the certified root is to blame: this transfer
    /// cannot end.
    #[error("a certified page is no page: {0}")]
    Page(PageFault),
}

/// What an answer brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// Pages and values that were wanted.
    pub pages: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// An answer that brings less than one in so many of what was asked for is slow.
const LITTLE: usize = 4;
/// A request that was not answered for so many times the patience never will be.
const LATE_TIMES: u64 = 4;
/// Patience with one peer doubles so often at most.
const PATIENCE_DOUBLINGS_MAX: u32 = 3;

/// A request that is open.
#[derive(Debug)]
struct Open {
    peer: ReplicaId,
    /// The root that was wanted then.
    root: Digest,
    sent: Nanoseconds,
    patience: u64,
    /// When others are asked for the same.
    shared_from: Nanoseconds,
    /// What was asked for and has not come, and how much it was.
    digests: BTreeSet<Digest>,
    count: usize,
    /// The most bytes that it may bring.
    bytes: usize,
    /// Whether others are asked for the same.
    is_shared: bool,
    is_late: bool,
}

/// A state on its way here.
pub struct Transfer {
    options: TransferOptions,
    root: Digest,
    /// Height of the tree and digest of its root node, once a peer has told them.
    top: Option<(u8, Digest)>,
    builder: Builder,
    whole: Option<Arc<Node>>,
    /// What is to be asked for; the last first.
    wanted: Vec<Want>,
    /// What is asked for, by digest, with all places where it is wanted.
    asked: BTreeMap<Digest, Vec<Want>>,
    open: BTreeMap<u64, Open>,
    next_number: u64,
    nodes: BTreeMap<Digest, Arc<Node>>,
    values: BTreeMap<Digest, Arc<LongValue>>,
    /// What is remembered of the peers.
    servers: Servers,
    /// What is left of an own state that is damaged.
    salvage: Option<Arc<Salvage>>,
    banned: BTreeSet<ReplicaId>,
    resting: BTreeMap<ReplicaId, Nanoseconds>,
    /// Who has left out what is wanted, and until when it is not asked for it again.
    left_out: BTreeMap<Digest, BTreeMap<ReplicaId, Nanoseconds>>,
    received: Received,
    reused: u64,
}

impl fmt::Debug for Transfer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transfer")
            .field("root", &self.root)
            .field("top", &self.top)
            .field("wanted", &self.wanted.len())
            .field("open", &self.open)
            .field("received", &self.received)
            .finish_non_exhaustive()
    }
}

impl Transfer {
    /// The transfer of the state with this certified root.
    #[must_use]
    pub fn new(root: Digest, options: TransferOptions) -> Self {
        Self {
            options,
            root,
            top: None,
            builder: Builder::default(),
            whole: None,
            wanted: Vec::new(),
            asked: BTreeMap::new(),
            open: BTreeMap::new(),
            next_number: 1,
            nodes: BTreeMap::new(),
            values: BTreeMap::new(),
            servers: Servers::new(Budget::default()),
            salvage: None,
            banned: BTreeSet::new(),
            resting: BTreeMap::new(),
            left_out: BTreeMap::new(),
            received: Received::default(),
            reused: 0,
        }
    }

    /// Takes what is equal from an own state instead of from peers. Walks all of it, and hashes what was not hashed;
    /// what is wanted already is still asked for, so this comes first.
    pub fn reuse(&mut self, own: &Frozen) {
        self.reuse_forest(&Forest::of(&own.tree));
    }

    /// As [`Transfer::reuse`], from parts of a state.
    pub fn reuse_forest(&mut self, own: &Forest) {
        let mut page = Vec::new();
        for (_, node) in &own.trees {
            node.digest(&mut page);
            self.index(node);
        }
    }

    /// Takes the pages that are intact of an own state instead of asking peers for them, and begins at once if that is the
    /// one that is fetched. Checks and builds what is there of it, so this comes last.
    pub fn reuse_salvage(&mut self, salvage: Arc<Salvage>) {
        self.salvage = Some(salvage);
        self.plant_salvaged();
    }

    fn plant_salvaged(&mut self) {
        if let Some((height, digest)) = self.salvage.as_ref().and_then(|salvage| salvage.find_top(&self.root))
        {
            // A height that no tree has comes with a root that nobody has signed; peers will tell the right one.
            let _ = self.plant(height, digest);
        }
    }

    /// The root of the state that is fetched.
    #[must_use]
    pub fn root(&self) -> Digest {
        self.root
    }

    /// Goes on with another root, usually a newer one. What is there already and equal is kept; answers that are
    /// still on their way are of no use any more. Until they are here, the peers are still busy with them.
    pub fn retarget(&mut self, root: Digest) {
        if root == self.root {
            return;
        }
        let parts = self.received();
        self.reuse_forest(&parts);
        let values: Vec<_> = self.builder.finished_values().cloned().collect();
        self.values.extend(values.into_iter().map(|value| (value.digest(), value)));
        self.root = root;
        self.top = None;
        self.whole = None;
        self.builder = Builder::default();
        self.wanted.clear();
        self.asked.clear();
        self.open.values_mut().for_each(|open| open.digests.clear());
        self.resting.clear();
        self.left_out.clear();
        self.plant_salvaged();
    }

    /// The next request to this peer; nothing while it has enough open, rests or is banned, or nothing is wanted.
    /// Ask until there is none, for each peer.
    pub fn request(&mut self, now: Nanoseconds, peer: ReplicaId) -> Option<PageRequest> {
        let mut of_peer = self.open.values().filter(|open| open.peer == peer);
        let open = of_peer.clone().count();
        let asked = of_peer.any(|open| open.root == self.root);
        let resting = self.resting.get(&peer).is_some_and(|until| *until > now);
        if self.whole.is_some()
            || self.banned.contains(&peer)
            || resting
            || open >= self.options.requests_per_peer
        {
            return None;
        }
        let (wanted, digests, bytes) =
            if self.top.is_some() { self.choose(now, peer) } else { Default::default() };
        // Without the top there is nothing else to ask for, and once is enough for each peer.
        if digests.is_empty() && (self.top.is_some() || asked) {
            return None;
        }
        let number = self.next_number;
        self.next_number += 1;
        let faults = self.faults(now, peer);
        let patience = self.options.patience.0.saturating_mul(1 << faults.min(PATIENCE_DOUBLINGS_MAX));
        // What others bring meanwhile may come over the same connection here.
        let before: usize = self.open.values().map(|open| open.bytes).sum();
        let mut open = Open {
            peer,
            root: self.root,
            sent: now,
            patience,
            shared_from: now.plus(self.share_after(before.saturating_add(bytes)).min(patience / 2)),
            count: digests.len(),
            digests,
            bytes,
            is_shared: false,
            is_late: false,
        };
        if faults > 0 {
            self.share(now, &mut open);
        }
        self.open.insert(number, open);
        Some(PageRequest { number, root: self.root, wanted })
    }

    /// How long a peer has so many bytes to bring for itself.
    fn share_after(&self, bytes: usize) -> u64 {
        let TransferOptions { request_bytes, patience, share_after, .. } = self.options;
        let more = u128::from(patience.0 / 2) * bytes as u128 / request_bytes.max(1) as u128;
        share_after.0.saturating_add(u64::try_from(more).unwrap_or(u64::MAX))
    }

    /// Takes an answer from a peer. What came late, or was answered already, is nothing.
    ///
    /// # Errors
    /// When the peer lied; what it answered truly before that is taken. It is not asked again.
    pub fn on_answer(
        &mut self,
        now: Nanoseconds,
        peer: ReplicaId,
        answer: &PageAnswer,
    ) -> Result<Received, BadAnswer> {
        let is_it =
            self.open.get(&answer.number).is_some_and(|open| open.peer == peer && open.root == answer.root);
        let open = if is_it { self.open.remove(&answer.number) } else { None };
        let Some(mut open) = open.filter(|open| open.root == self.root) else {
            return Ok(Received::default());
        };
        let result = self.take(&mut open, answer);
        self.ask_again(&open);
        self.leave_out(now, &open);
        match result {
            Ok(received) => {
                self.judge(now, &open);
                let useless = received.pages == 0 && (answer.top.is_none() || !open.digests.is_empty());
                if useless {
                    self.rest(now, peer);
                }
                Ok(received)
            }
            Err(bad @ BadAnswer::Page(_)) => Err(bad),
            Err(bad) => {
                self.ban(peer);
                Err(bad)
            }
        }
    }

    /// Puts requests that have been open for long to others too; returns the peers whose time is over.
    pub fn expire(&mut self, now: Nanoseconds) -> Vec<ReplicaId> {
        let mut late = Vec::new();
        for number in self.open.keys().copied().collect::<Vec<_>>() {
            let Some(mut open) = self.open.remove(&number) else { continue };
            let age = now.since(open.sent);
            if now >= open.shared_from && !open.is_shared {
                self.share(now, &mut open);
            }
            if age >= open.patience && !open.is_late {
                open.is_late = true;
                self.servers.slow(now, open.peer);
                self.rest(now, open.peer);
                late.push(open.peer);
            }
            if age < open.patience.saturating_mul(LATE_TIMES) {
                self.open.insert(number, open);
            }
        }
        late
    }

    /// How much is remembered against a peer: whoever drives the transfer lets the others choose first.
    #[must_use]
    pub fn faults(&self, now: Nanoseconds, peer: ReplicaId) -> u32 {
        self.servers.faults(now, peer)
    }

    /// Whether others are asked for what this peer has been asked for, and has not brought.
    #[must_use]
    pub fn owes(&self, peer: ReplicaId) -> bool {
        self.open.values().any(|open| open.peer == peer && open.is_shared)
    }

    /// Asks this peer no more, and puts what is open with it to others.
    pub fn ban(&mut self, peer: ReplicaId) {
        self.banned.insert(peer);
        self.forget(peer);
    }

    /// The connection to this peer is gone: puts what is open with it to others.
    pub fn forget(&mut self, peer: ReplicaId) {
        let numbers: Vec<u64> =
            self.open.iter().filter(|(_, open)| open.peer == peer).map(|(number, _)| *number).collect();
        for open in numbers.iter().filter_map(|number| self.open.remove(number)).collect::<Vec<_>>() {
            self.ask_again(&open);
        }
    }

    /// Whether the whole state is here.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.whole.is_some()
    }

    /// What is wanted and was not asked for, each once.
    pub(crate) fn lacking(&self) -> Vec<Digest> {
        let digests: BTreeSet<Digest> = self.wanted.iter().map(|want| want.digest).collect();
        digests.into_iter().collect()
    }

    /// What came from peers so far.
    #[must_use]
    pub fn figures(&self) -> Received {
        self.received
    }

    /// How many subtrees and long values were taken from own states instead of from peers.
    #[must_use]
    pub fn reused(&self) -> u64 {
        self.reused
    }

    /// The subtrees that are whole so far, to be written as a partial checkpoint.
    #[must_use]
    pub fn received(&self) -> Forest {
        let mut trees = self.builder.finished_parts();
        if let (Some(node), Some((height, _))) = (&self.whole, self.top) {
            trees.push((height, Arc::clone(node)));
        }
        Forest { trees }
    }

    /// The state, with the root that was wanted.
    ///
    /// # Errors
    /// When the certified tree contradicts itself, which the certificate's signers would have to explain.
    ///
    /// # Panics
    /// When the transfer is not finished.
    pub fn finish(self) -> Result<Frozen, PageFault> {
        let node = self.whole.expect("invariant: asked for when the transfer is finished");
        let (height, _) = self.top.expect("invariant: a finished transfer knows the top");
        check_order(&node, &[], None)?;
        let tree = Tree::over(node, usize::from(height));
        assert_eq!(tree.digest(&mut Vec::new()), self.root, "invariant: every page was checked");
        let mut totals = Totals::rebuild(&tree);
        if totals.user_bytes > 0 && is_made(Mistake::ForgetsTransferredBytes) {
            totals.user_bytes = 0;
        }
        Ok(Frozen { tree, totals })
    }

    fn take(&mut self, open: &mut Open, answer: &PageAnswer) -> Result<Received, BadAnswer> {
        if let Some((height, digest)) = answer.top {
            if root_digest(height, &digest) != self.root {
                return Err(BadAnswer::Top);
            }
            self.plant(height, digest)?;
        }
        let mut received = Received::default();
        let pages = answer.pages.iter().map(|page| (digest_of_page(page), page));
        let values = answer.values.iter().map(|value| (Digest::of(Domain::TreeValue, value), value));
        for (digest, bytes) in pages.chain(values) {
            if !open.digests.remove(&digest) {
                return Err(BadAnswer::Unasked);
            }
            self.fill(&digest, bytes)?;
            received.pages += 1;
            received.bytes += bytes.len() as u64;
            self.received.pages += 1;
            self.received.bytes += bytes.len() as u64;
        }
        Ok(received)
    }

    fn plant(&mut self, height: u8, digest: Digest) -> Result<(), BadAnswer> {
        if self.top.is_some() {
            return Ok(());
        }
        let want = self.builder.plant(height, digest).map_err(BadAnswer::Page)?;
        self.top = Some((height, digest));
        self.want(vec![want]);
        self.look_whether_whole();
        Ok(())
    }

    fn fill(&mut self, digest: &Digest, bytes: &[u8]) -> Result<(), BadAnswer> {
        let mut below = Vec::new();
        self.left_out.remove(digest);
        for want in self.take_wants(digest) {
            self.builder.fill(&want, bytes, None, &mut below).map_err(BadAnswer::Page)?;
        }
        self.want(below);
        self.look_whether_whole();
        Ok(())
    }

    /// The places that wait for this: asked for, or, since whoever gives it now is late, to be asked for again.
    fn take_wants(&mut self, digest: &Digest) -> Vec<Want> {
        if let Some(places) = self.asked.remove(digest) {
            return places;
        }
        let (found, others) =
            std::mem::take(&mut self.wanted).into_iter().partition(|want| want.digest == *digest);
        self.wanted = others;
        found
    }

    /// Takes what own states have; the rest is to be asked for, the first first.
    fn want(&mut self, mut wants: Vec<Want>) {
        wants.reverse();
        let mut lacking = Vec::new();
        while let Some(want) = wants.pop() {
            let known = match want.content {
                Content::Value { .. } => self.values.get(&want.digest).cloned().map(|value| {
                    self.builder.adopt_value(&want, value);
                }),
                _ => self.nodes.get(&want.digest).cloned().map(|node| {
                    self.builder.adopt(&want, node);
                }),
            };
            let mut below = Vec::new();
            match known.or_else(|| self.take_salvaged(&want, &mut below)) {
                Some(()) => self.reused += 1,
                None => lacking.push(want),
            }
            wants.extend(below.into_iter().rev());
        }
        self.wanted.extend(lacking.into_iter().rev());
    }

    /// Fills a want with what is left of an own state; what it needs below is appended to `below`.
    fn take_salvaged(&mut self, want: &Want, below: &mut Vec<Want>) -> Option<()> {
        let salvage = Arc::clone(self.salvage.as_ref()?);
        let bytes = match want.content {
            Content::Value { .. } => salvage.value(&want.digest),
            _ => salvage.page(&want.digest),
        };
        self.builder.fill(want, bytes?, None, below).ok()
    }

    fn look_whether_whole(&mut self) {
        if self.wanted.is_empty()
            && self.asked.is_empty()
            && let Some(mut trees) = self.builder.finish()
        {
            self.whole = trees.pop();
        }
    }

    /// What one request asks this peer for, and the most bytes that it brings.
    fn choose(&mut self, now: Nanoseconds, peer: ReplicaId) -> (Vec<PageName>, BTreeSet<Digest>, usize) {
        let (mut names, mut digests, mut for_others) = (Vec::new(), BTreeSet::new(), Vec::new());
        let mut chosen = 0_usize;
        while names.len() < limits::FETCH_PAGES_MAX {
            let Some(want) = self.wanted.pop() else { break };
            if let Some(places) = self.asked.get_mut(&want.digest) {
                places.push(want);
                continue;
            }
            if self.is_left_out(now, peer, &want.digest) {
                for_others.push(want);
                continue;
            }
            let bytes = bytes_max_of(&want);
            if chosen.saturating_add(bytes) > self.options.request_bytes && !names.is_empty() {
                self.wanted.push(want);
                break;
            }
            chosen = chosen.saturating_add(bytes);
            let (path, entry) = self.builder.path(&want);
            names.push(PageName { path, entry, digest: want.digest });
            digests.insert(want.digest);
            self.asked.insert(want.digest, vec![want]);
        }
        self.wanted.extend(for_others.into_iter().rev());
        (names, digests, chosen)
    }

    /// What did not come is wanted again, unless it is since long.
    fn ask_again(&mut self, open: &Open) {
        if open.is_shared {
            return;
        }
        for digest in &open.digests {
            self.wanted.extend(self.asked.remove(digest).unwrap_or_default());
        }
    }

    fn is_left_out(&self, now: Nanoseconds, peer: ReplicaId, digest: &Digest) -> bool {
        let until = self.left_out.get(digest).and_then(|peers| peers.get(&peer));
        until.is_some_and(|until| *until > now)
    }

    /// Others are to be asked for the same. What this peer gives is taken until then, and after.
    fn share(&mut self, now: Nanoseconds, open: &mut Open) {
        self.ask_again(open);
        self.leave_out(now, open);
        open.is_shared = true;
    }

    /// What did not come is for others first.
    fn leave_out(&mut self, now: Nanoseconds, open: &Open) {
        let until = Nanoseconds(now.0.saturating_add(self.options.pause.0));
        for digest in &open.digests {
            self.left_out.entry(*digest).or_default().insert(open.peer, until);
        }
    }

    /// Whoever gave little is remembered; whoever gave enough is thought better of.
    fn judge(&mut self, now: Nanoseconds, open: &Open) {
        let given = open.count - open.digests.len();
        if open.count > 0 && given.saturating_mul(LITTLE) >= open.count {
            self.servers.helped(open.peer);
        } else if given > 0 {
            self.servers.slow(now, open.peer);
        }
    }

    fn rest(&mut self, now: Nanoseconds, peer: ReplicaId) {
        self.resting.insert(peer, now.plus(self.options.pause.0));
    }

    fn index(&mut self, node: &Arc<Node>) {
        let digest = *node.cache().digest().expect("invariant: hashed before it is indexed");
        match &**node {
            Node::Inner(inner) => inner.children().iter().for_each(|child| self.index(child)),
            Node::Leaf(leaf) => {
                for value in leaf.long_values() {
                    self.values.insert(value.digest(), Arc::clone(value));
                }
            }
        }
        self.nodes.insert(digest, Arc::clone(node));
    }
}

fn bytes_max_of(want: &Want) -> usize {
    match want.content {
        Content::Inner => INNER_WEIGHT_MAX,
        Content::Leaf => LEAF_WEIGHT_MAX,
        Content::Value { bytes } => bytes as usize,
    }
}
