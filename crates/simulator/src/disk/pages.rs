//! Checkpoints on disk: page files and manifests in bytes, written as the daemon's thread for them does, one state
//! at a time; a state that waits is replaced by a newer one unless it is owed, and one that is not newer than what is
//! durable is left out.

use super::corrupt::Share;
use super::{land, put};
use crate::random::Random;
use quorate_state::{
    ADDRESS_BYTES, BLOCK_HEAD_BYTES, Checkpoint, CheckpointHead, FILE_HEAD_BYTES, FileNumber, Forest, Frozen,
    Known, Manifest, ManifestFault, PageStore, PageWrite, Progress, ReadPages, Removal, Restored,
    StoreOptions,
};
use quorate_types::{Digest, Nanoseconds, Seq};
use quorate_wire::Position;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::ops::Range;

/// Page files are short and writes too, so that each checkpoint has several.
const OPTIONS: StoreOptions = StoreOptions { file_bytes_max: 32 * 1024, write_bytes: 4096 };

/// What is to be written.
#[derive(Debug)]
pub enum Contents {
    /// A whole state.
    State(Frozen),
    /// What a transfer of the state with this root has received.
    Part(Digest, Forest),
}

/// A checkpoint that is to be written.
#[derive(Debug)]
pub struct Job {
    /// The slot.
    pub position: Position,
    /// The timestamp of its header.
    pub timestamp: Nanoseconds,
    /// What it is of.
    pub contents: Contents,
}

impl Job {
    fn rank(&self) -> (bool, Seq) {
        (matches!(self.contents, Contents::State(_)), self.position.seq)
    }
}

/// One step of writing a checkpoint.
#[derive(Debug)]
enum Step {
    Write(PageWrite),
    Remove(Removal),
    Manifest(u64, Vec<u8>),
}

#[derive(Debug)]
struct UnderWay {
    position: Position,
    complete: bool,
    steps: VecDeque<Step>,
    checkpoint: Checkpoint,
}

/// A checkpoint that is durable.
#[derive(Clone, Copy, Debug)]
pub struct Written {
    /// The slot.
    pub position: Position,
    /// The root.
    pub root: Digest,
    /// Whether it is of a whole state.
    pub complete: bool,
}

/// The checkpoints of one replica.
#[derive(Debug)]
pub struct PageDisk {
    files: BTreeMap<FileNumber, Vec<u8>>,
    /// Each in two copies.
    manifests: BTreeMap<u64, [Vec<u8>; 2]>,
    store: PageStore,
    under_way: Option<UnderWay>,
    waiting: VecDeque<Job>,
    /// The slots whose states are needed, if the store has not been told.
    needed: Option<Vec<Seq>>,
    /// What must stay, as something of it cannot be read.
    unreadable: Option<Unreadable>,
    /// The slot of the newest certificate that is durable.
    certified: Seq,
    /// The slots above it after which the state was said to be durable: it may be certified yet, and is then to be had.
    voted: BTreeSet<Seq>,
    /// The rule that was broken by what was removed all the same, and how, in words.
    removed: Option<(&'static str, String)>,
}

/// What was there when something of it could not be read: all of it stays until a whole certified checkpoint takes its
/// place (DESIGN section 5).
#[derive(Debug)]
struct Unreadable {
    /// The slot that such a checkpoint has at least.
    until: Seq,
    manifests: BTreeSet<u64>,
    files: BTreeSet<FileNumber>,
    /// The manifests of which not all pages can be read.
    damaged: BTreeSet<u64>,
}

impl Default for PageDisk {
    fn default() -> Self {
        let mut store = PageStore::new(OPTIONS, [], []);
        // As after a start that finds nothing: all that led here is needed.
        let nothing = store.keep_states(&[Seq(0)]);
        assert!(nothing.is_empty(), "there is nothing yet");
        Self {
            files: BTreeMap::new(),
            manifests: BTreeMap::new(),
            store,
            under_way: None,
            waiting: VecDeque::new(),
            needed: None,
            unreadable: None,
            certified: Seq(0),
            voted: BTreeSet::new(),
            removed: None,
        }
    }
}

impl PageDisk {
    /// Takes a state; says whether it is begun at once. Otherwise it waits, if it is newer than what waits already.
    pub fn add(&mut self, job: Job) -> bool {
        if self.under_way.is_some() {
            if self.waiting.back().is_none_or(|other| other.rank() <= job.rank()) {
                let is_owed = |other: &Job| {
                    matches!(other.contents, Contents::State(_)) && self.store.is_owed(other.position.seq)
                };
                self.waiting.pop_back_if(|other| !is_owed(other));
                self.waiting.push_back(job);
            }
            return false;
        }
        self.begin_if_due(job)
    }

    fn begin_if_due(&mut self, job: Job) -> bool {
        let is_due = match &job.contents {
            Contents::State(_) => self.store.is_news(job.position.seq),
            Contents::Part(..) => true,
        };
        if is_due {
            self.begin(job);
        }
        is_due
    }

    fn begin(&mut self, job: Job) {
        let Job { position, timestamp, contents } = job;
        let head =
            CheckpointHead { seq: position.seq, digest: position.digest, timestamp, certificate: Vec::new() };
        let (mut checkpoint, complete) = match contents {
            Contents::State(state) => (self.store.begin(head, &state), true),
            Contents::Part(root, received) => (self.store.begin_partial(head, root, received), false),
        };
        let mut steps = VecDeque::new();
        loop {
            match checkpoint.advance(&mut self.store) {
                Progress::Remove(removal) => steps.push_back(Step::Remove(removal)),
                Progress::Write(write) => steps.push_back(Step::Write(write)),
                Progress::Pause => {}
                Progress::Finished => break,
            }
        }
        let manifest = checkpoint.manifest(&self.store);
        steps.push_back(Step::Manifest(manifest.number, manifest.encode()));
        self.under_way = Some(UnderWay { position, complete, steps, checkpoint });
    }

    /// What was begun is durable; says also whether another one was begun.
    pub fn end(&mut self) -> (Written, bool) {
        let UnderWay { position, complete, steps, checkpoint } =
            self.under_way.take().expect("invariant: a checkpoint ends once");
        let root = checkpoint.root();
        steps.into_iter().for_each(|step| self.act(step));
        if complete && position.seq > self.certified {
            self.voted.insert(position.seq);
        }
        let removal = self.store.on_durable(checkpoint);
        self.act(Step::Remove(removal));
        self.tidy();
        let mut begun = false;
        while !begun && let Some(job) = self.waiting.pop_front() {
            begun = self.begin_if_due(job);
        }
        (Written { position, root, complete }, begun)
    }

    fn act(&mut self, step: Step) {
        match step {
            Step::Write(PageWrite { file, offset, bytes }) => {
                put(self.files.entry(file).or_default(), offset as usize, &bytes);
            }
            Step::Remove(Removal { manifests, pages }) => {
                self.watch_removal(&manifests, &pages);
                manifests.iter().for_each(|number| drop(self.manifests.remove(number)));
                pages.iter().for_each(|number| drop(self.files.remove(number)));
            }
            Step::Manifest(number, bytes) => {
                self.manifests.insert(number, [bytes.clone(), bytes]);
            }
        }
    }

    /// A certificate for the state after `seq` is durable.
    pub fn note_certified(&mut self, seq: Seq) {
        self.certified = self.certified.max(seq);
        self.voted = self.voted.split_off(&self.certified.next());
    }

    /// The rule that is broken by what was removed and must stay, and how, in words.
    pub fn removed_too_early(&mut self) -> Option<(&'static str, String)> {
        self.removed.take()
    }

    fn watch_removal(&mut self, manifests: &[u64], pages: &[FileNumber]) {
        self.watch_voted(manifests);
        let Some(Unreadable { until, manifests: held, files, damaged }) = &self.unreadable else { return };
        let whole = self.manifests.iter().filter(|(number, _)| !damaged.contains(number));
        let mut whole = whole.filter_map(|(_, copies)| read_manifest(copies).ok());
        if whole.any(|found| found.complete && (*until..=self.certified).contains(&found.head.seq)) {
            self.unreadable = None;
            return;
        }
        let manifests: Vec<u64> = manifests.iter().copied().filter(|number| held.contains(number)).collect();
        let pages: Vec<FileNumber> = pages.iter().copied().filter(|number| files.contains(number)).collect();
        if !manifests.is_empty() || !pages.is_empty() {
            let certified = self.certified;
            let text = format!(
                "removes manifests {manifests:?} and page files {pages:?}, though no whole checkpoint from {until:?} to \
                 {certified:?} is there in place of what cannot be read"
            );
            self.removed = Some(("unreadable is not unneeded", text));
        }
    }

    fn watch_voted(&mut self, gone: &[u64]) {
        let slots_of = |is_gone: bool| {
            let some = self.manifests.iter().filter(move |(number, _)| gone.contains(number) == is_gone);
            let whole =
                some.filter_map(|(_, copies)| read_manifest(copies).ok()).filter(|found| found.complete);
            whole.map(|found| found.head.seq).collect::<BTreeSet<Seq>>()
        };
        let lost = slots_of(true).difference(&slots_of(false)).find(|seq| self.voted.contains(seq)).copied();
        if let Some(seq) = lost {
            let certified = self.certified;
            let text =
                format!("removes the state after {seq:?}, though nothing above {certified:?} is certified");
            self.removed = Some(("what was voted for is there", text));
        }
    }

    /// The process is gone: what was under way stops at a random step.
    pub fn crash(&mut self, random: &mut Random) {
        self.waiting.clear();
        self.needed = None;
        let Some(UnderWay { mut steps, .. }) = self.under_way.take() else { return };
        for _ in 0..random.index(steps.len() + 1) {
            steps.pop_front().into_iter().for_each(|step| self.act(step));
        }
        // The files are synced when all is written: till then any part of the next may be there, or be torn.
        if let Some(Step::Write(PageWrite { file, offset, bytes })) = steps.pop_front() {
            land(self.files.entry(file).or_default(), offset as usize, &bytes, random);
        }
    }

    /// Of the states that are durable by now, only those after these slots are needed.
    pub fn keep_states(&mut self, needed: &[Seq]) {
        self.needed = Some(needed.to_vec());
        self.tidy();
    }

    /// The thread hears of it once it has written what it writes.
    fn tidy(&mut self) {
        if self.under_way.is_none()
            && let Some(needed) = self.needed.take()
        {
            let removal = self.store.keep_states(&needed);
            self.act(Step::Remove(removal));
        }
    }

    /// Loads what a replica goes on from after what its logs have `known`.
    pub fn restore(&mut self, known: Known) -> Restored {
        let lengths = self.files.iter().map(|(number, bytes)| (*number, bytes.len() as u64));
        self.store = PageStore::new(OPTIONS, lengths, self.manifests.keys().copied());
        let manifests: Vec<Manifest> =
            self.manifests.values().filter_map(|copies| read_manifest(copies).ok()).collect();
        let incomplete = manifests.len() < self.manifests.len();
        // A certificate that its replica was never told of may be durable all the same.
        self.note_certified(known.certificate.unwrap_or_default());
        for manifest in &manifests {
            let bytes = manifest.encode();
            self.manifests.insert(manifest.number, [bytes.clone(), bytes]);
        }
        let found = self.store.restore(manifests, incomplete, known, &mut Reader(&self.files));
        let found = found.expect("invariant: nothing is damaged so that its checksum fits");
        self.unreadable = (incomplete || !found.damaged.is_empty()).then(|| Unreadable {
            until: known.certificate.unwrap_or_default(),
            manifests: self.manifests.keys().copied().collect(),
            files: self.files.keys().copied().collect(),
            damaged: found.damaged.iter().map(|(number, _)| *number).collect(),
        });
        if found.may_tidy {
            let removal = self.store.unneeded();
            self.act(Step::Remove(removal));
        }
        found
    }

    /// Blocks of a share go bad, and copies of manifests: both only of those of the share. Says what, in words.
    pub fn rot(&mut self, random: &mut Random, share: Share) -> String {
        let (chance, mut blocks) = (random.between(5, 100), 0);
        for bytes in self.files.values_mut() {
            for (start, content) in blocks_of(bytes) {
                if share.is_own(&bytes[content.clone()]) && random.percent(chance) {
                    let at = start + random.index(content.end - start);
                    bytes[at] ^= 1 << random.below(8);
                    blocks += 1;
                }
            }
        }
        let mut copies = 0;
        for manifest in self.manifests.values_mut() {
            let may_lose_both = read_manifest(manifest).is_ok_and(|whole| share.is_own(&whole.root.0));
            let both = may_lose_both && random.percent(30);
            let first = random.index(2);
            for copy in [first, 1 - first].into_iter().take(if both { 2 } else { random.index(2) }) {
                let at = random.index(manifest[copy].len());
                manifest[copy][at] ^= 1 << random.below(8);
                copies += 1;
            }
        }
        format!("{blocks} blocks of pages, {copies} copies of {} manifests", self.manifests.len())
    }

    /// The bytes of a random file that a manifest names, or of a manifest.
    pub fn any_file_mut(&mut self, random: &mut Random) -> Option<&mut Vec<u8>> {
        let (files, manifests) = (self.files.len(), self.manifests.len());
        if files + manifests == 0 {
            return None;
        }
        let at = random.index(files + manifests);
        match at.checked_sub(files) {
            None => self.files.values_mut().nth(at),
            Some(at) => self.manifests.values_mut().nth(at).map(|copies| &mut copies[random.index(2)]),
        }
    }
}

/// What the first of the copies says that is whole.
fn read_manifest(copies: &[Vec<u8>; 2]) -> Result<Manifest, ManifestFault> {
    let [first, second] = copies;
    Manifest::decode(first).or_else(|_| Manifest::decode(second))
}

/// The blocks of a page file as far as it is whole: where each begins, and where its page or value is.
fn blocks_of(bytes: &[u8]) -> Vec<(usize, Range<usize>)> {
    let (mut found, mut at) = (Vec::new(), FILE_HEAD_BYTES);
    while let Some(head) = bytes.get(at..at + BLOCK_HEAD_BYTES) {
        let length = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let addresses = usize::from(u16::from_le_bytes([head[6], head[7]]));
        let (content, end) =
            (at + BLOCK_HEAD_BYTES + addresses * ADDRESS_BYTES, at + BLOCK_HEAD_BYTES + length);
        if content > end || end > bytes.len() {
            break;
        }
        found.push((at, content..end));
        at = end;
    }
    found
}

struct Reader<'a>(&'a BTreeMap<FileNumber, Vec<u8>>);

impl ReadPages for Reader<'_> {
    fn read(&mut self, file: FileNumber, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let bytes = self.0.get(&file).ok_or(io::ErrorKind::NotFound)?;
        let start = usize::try_from(offset).expect("invariant: page files are short");
        let found = bytes.get(start..start + buffer.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(found);
        Ok(())
    }
}
