//! The page store: which page files and manifests there are, which are needed, and what may be removed.
//!
//! Pure bookkeeping: the caller has the files. The order that keeps a checkpoint safe, each step durable before the
//! next: page files ([`Checkpoint::advance`](crate::Checkpoint::advance)), the manifest under its final name, its
//! directory entry; then [`PageStore::on_durable`] says what may go: manifests first, then page files.
//!
//! A restart goes on from the newest checkpoint that others have certified ([`PageStore::restore`]). Which may be that
//! one yet, the caller says ([`PageStore::keep_states`]); those and newer ones are always kept, and the last partial one
//! above them. Page files take at most twice what is live in the newest checkpoint, and one file, if no more than that
//! one is needed: files are compacted so far that the next checkpoint fits, too, if it writes as much as the last. Up to
//! that one more complete manifest is kept; it is given up when all would take more, and before a checkpoint is written
//! that would not fit beside it.
//!
//! Where a restart found something that it could not read, nothing that was there is removed before a whole checkpoint
//! is durable that is as new as what was certified then, and certified itself.

use std::collections::{BTreeMap, BTreeSet};

use quorate_types::mistakes::is_made;
use quorate_types::{Mistake, Seq};

use crate::cache::{FileNumber, PlaceEpoch};
use crate::manifest::{FileEntry, Manifest};

/// How many complete manifests are kept while page files take no more than twice what is live.
const MANIFESTS_KEPT: usize = 2;

/// How page files are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreOptions {
    /// A page file ends with the last block that fits into so many bytes.
    pub file_bytes_max: u32,
    /// Blocks are gathered into writes of about so many bytes.
    pub write_bytes: usize,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self { file_bytes_max: 16 * 1024 * 1024, write_bytes: 1024 * 1024 }
    }
}

/// Files that nothing needs any more. Manifests go first; when that is durable, page files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removal {
    /// The numbers of manifests.
    pub manifests: Vec<u64>,
    /// The numbers of page files.
    pub pages: Vec<FileNumber>,
}

impl Removal {
    /// Whether there is nothing to remove.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.manifests.is_empty() && self.pages.is_empty()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileUse {
    pub(crate) bytes: u32,
    pub(crate) live_bytes: u32,
}

/// A manifest that is kept, and the page files that it needs.
#[derive(Clone, Debug)]
struct Kept {
    number: u64,
    seq: Seq,
    complete: bool,
    files: BTreeSet<FileNumber>,
}

impl Kept {
    fn of(manifest: &Manifest) -> Self {
        let files = manifest.files.iter().map(|file| file.number).collect();
        Self { number: manifest.number, seq: manifest.head.seq, complete: manifest.complete, files }
    }

    /// Which is the newer one of two: a state that was taken over may be written before an own, older one.
    fn age(&self) -> (Seq, u64) {
        (self.seq, self.number)
    }
}

/// What was there when something could not be read, or what was voted for. It stays until a certified checkpoint takes
/// its place.
#[derive(Debug)]
struct Aside {
    /// The slot that such a checkpoint has at least.
    until: Seq,
    /// All manifests and page files that were there, where something could not be read.
    manifests: BTreeSet<u64>,
    pages: BTreeSet<FileNumber>,
    /// The checkpoints that were voted for, or certified: each until its state is written again.
    these: Vec<Kept>,
}

/// The files of one replica's checkpoints.
#[derive(Debug)]
pub struct PageStore {
    pub(crate) options: StoreOptions,
    /// Places of this epoch are in `files`, with everything below them.
    pub(crate) epoch: PlaceEpoch,
    /// The page files of the newest manifest: those that new blocks may name.
    pub(crate) files: BTreeMap<FileNumber, FileUse>,
    /// The file that is appended to, if there is one; its end is in `files`.
    pub(crate) open: Option<FileNumber>,
    /// Manifests, the newest last.
    kept: Vec<Kept>,
    /// What page files may take, as the last checkpoint has found.
    disk_bytes_max: Option<u64>,
    /// The slots whose states are needed, ascending; later ones are, too. None as long as nobody has said so.
    needed: Option<Vec<Seq>>,
    /// All page files that exist or may exist, with their lengths as far as they are known.
    pages: BTreeMap<FileNumber, u32>,
    /// All manifests that exist or may exist.
    manifests: BTreeSet<u64>,
    aside: Option<Aside>,
    next_file: FileNumber,
    next_manifest: u64,
}

impl PageStore {
    /// A store over the files that exist: page files with their lengths, and the numbers of manifests. None of them
    /// is needed until [`PageStore::load`] or [`PageStore::keep`] says so.
    #[must_use]
    pub fn new(
        options: StoreOptions,
        pages: impl IntoIterator<Item = (FileNumber, u64)>,
        manifests: impl IntoIterator<Item = u64>,
    ) -> Self {
        let clamped = |bytes: u64| u32::try_from(bytes).unwrap_or(u32::MAX);
        let pages: BTreeMap<_, _> =
            pages.into_iter().map(|(number, bytes)| (number, clamped(bytes))).collect();
        let manifests: BTreeSet<u64> = manifests.into_iter().collect();
        Self {
            options,
            epoch: PlaceEpoch::fresh(),
            files: BTreeMap::new(),
            open: None,
            kept: Vec::new(),
            disk_bytes_max: None,
            needed: None,
            aside: None,
            next_file: pages.keys().last().map_or(FileNumber(1), |last| last.next()),
            next_manifest: manifests.last().map_or(1, |last| last + 1),
            pages,
            manifests,
        }
    }

    /// Keeps a manifest of which nothing was loaded, with its page files.
    pub fn keep(&mut self, manifest: &Manifest) {
        self.kept.push(Kept::of(manifest));
        self.kept.sort_by_key(Kept::age);
        self.manifests.insert(manifest.number);
        for file in &manifest.files {
            let bytes = self.pages.entry(file.number).or_default();
            *bytes = (*bytes).max(file.bytes);
            self.next_file = self.next_file.max(file.number.next());
        }
        self.next_manifest = self.next_manifest.max(manifest.number + 1);
    }

    /// Of the states that are durable by now, only those after these slots are needed, ascending. Says what may be
    /// removed.
    pub fn keep_states(&mut self, needed: &[Seq]) -> Removal {
        self.begin_with(needed);
        self.tidy()
    }

    pub(crate) fn begin_with(&mut self, needed: &[Seq]) {
        self.needed = Some(needed.to_vec());
    }

    /// All that is there stays until a certified checkpoint after `until`, or a later one, is durable. The states of
    /// `these` are to be executed again.
    pub(crate) fn set_aside(&mut self, until: Seq, these: &[&Manifest]) {
        let (manifests, pages) = (self.manifests.clone(), self.pages.keys().copied().collect());
        self.aside = Some(Aside { until, manifests, pages, these: kept(these) });
    }

    /// These checkpoints stay, whatever else takes their place, until a certified one after `until`, or a later one, is
    /// durable; or their states are again.
    pub(crate) fn set_aside_these(&mut self, until: Seq, these: &[&Manifest]) {
        let (manifests, pages) = (BTreeSet::new(), BTreeSet::new());
        self.aside = Some(Aside { until, manifests, pages, these: kept(these) });
    }

    /// Whether this replica has voted for the state after `seq` before it started, and nothing certified has taken its
    /// place: others may have to take over just that one, so it is written again however many newer ones wait.
    #[must_use]
    pub fn is_owed(&self, seq: Seq) -> bool {
        let is_owed = self.aside.as_ref().is_some_and(|aside| aside.these.iter().any(|kept| kept.seq == seq));
        is_owed && !is_made(Mistake::ReplacesOwedStates)
    }

    /// Whether something that could not be read is kept, or that was voted for.
    #[must_use]
    pub fn has_set_aside(&self) -> bool {
        self.aside.is_some()
    }

    /// All page files with their lengths.
    pub(crate) fn page_files(&self) -> &BTreeMap<FileNumber, u32> {
        &self.pages
    }

    /// Lets go of what was set aside once a certified checkpoint takes its place: the lowest that is needed is one.
    fn look_aside(&mut self) {
        let settled = self.needed.as_ref().and_then(|needed| needed.first()).copied().unwrap_or_default();
        if let Some(Aside { until, .. }) = self.aside
            && self.kept.iter().any(|kept| kept.complete && kept.seq >= until && kept.seq <= settled)
        {
            self.aside = None;
        }
    }

    /// Notes that nodes now have places in the files of a manifest, of which `live` bytes each were met.
    pub(crate) fn adopt(&mut self, manifest: &Manifest, live: &BTreeMap<FileNumber, u64>) {
        for FileEntry { number, bytes, .. } in &manifest.files {
            let file = self.files.entry(*number).or_insert(FileUse { bytes: 0, live_bytes: 0 });
            file.bytes = file.bytes.max(*bytes);
            let live_bytes = u64::from(file.live_bytes) + live.get(number).copied().unwrap_or_default();
            file.live_bytes = u32::try_from(live_bytes).map_or(file.bytes, |live| live.min(file.bytes));
        }
        self.keep(manifest);
    }

    /// Whether a whole state after `seq` is worth a checkpoint: whether it is newer than all that are durable.
    #[must_use]
    pub fn is_news(&self, seq: Seq) -> bool {
        self.kept.iter().filter(|kept| kept.complete).all(|kept| kept.seq < seq)
    }

    /// What nothing needs: to be asked for once what is needed was told.
    #[must_use]
    pub fn unneeded(&mut self) -> Removal {
        self.retain(MANIFESTS_KEPT)
    }

    /// The bytes of all page files that are there, needed or not.
    #[must_use]
    pub fn disk_bytes(&self) -> u64 {
        self.pages.values().map(|bytes| u64::from(*bytes)).sum()
    }

    /// The bytes of the page files of the newest manifest, with what a crash has left behind their ends.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.files.keys().map(|number| self.file_bytes(*number)).sum()
    }

    /// The length of a page file on disk.
    pub(crate) fn file_bytes(&self, number: FileNumber) -> u64 {
        self.pages.get(&number).copied().map_or(0, u64::from)
    }

    /// What all page files may take when so many bytes are live.
    pub(crate) fn bytes_max(&self, live_bytes: u64) -> u64 {
        2 * live_bytes + u64::from(self.options.file_bytes_max)
    }

    pub(crate) fn next_manifest(&self) -> u64 {
        self.next_manifest
    }

    /// Begins a page file.
    pub(crate) fn begin_file(&mut self) -> FileNumber {
        let number = self.next_file;
        self.next_file = number.next();
        self.pages.insert(number, 0);
        number
    }

    /// Notes how long a page file has become.
    pub(crate) fn grow_file(&mut self, number: FileNumber, bytes: u32) {
        self.pages.insert(number, bytes);
    }

    /// Gives up all manifests that are not needed but the newest of each kind, so that a checkpoint has room.
    pub(crate) fn release(&mut self) -> Removal {
        self.retain(1)
    }

    /// A manifest and its directory entry are durable: takes the places of its checkpoint as valid and says what may
    /// be removed.
    pub(crate) fn install(
        &mut self,
        manifest: &Manifest,
        epoch: PlaceEpoch,
        open: Option<FileNumber>,
        disk_bytes_max: u64,
    ) -> Removal {
        self.epoch = epoch;
        self.open = open;
        self.files = manifest
            .files
            .iter()
            .map(|file| (file.number, FileUse { bytes: file.bytes, live_bytes: file.live_bytes }))
            .collect();
        self.keep(manifest);
        if let Some(aside) = self.aside.as_mut().filter(|_| manifest.complete) {
            aside.these.retain(|again| again.seq != manifest.head.seq);
        }
        self.disk_bytes_max = Some(disk_bytes_max);
        self.tidy()
    }

    /// One more manifest than is needed stays where there is room.
    fn tidy(&mut self) -> Removal {
        let mut removal = self.retain(MANIFESTS_KEPT);
        if self.disk_bytes_max.is_some_and(|most| self.disk_bytes() > most) {
            let Removal { manifests, pages } = self.retain(1);
            removal.manifests.extend(manifests);
            removal.pages.extend(pages);
        }
        removal
    }

    /// What is on disk of the newest checkpoint cannot be relied upon: the next one writes everything anew, to
    /// other files.
    pub fn distrust(&mut self) {
        self.void(&[], &[]);
        self.files.clear();
    }

    /// A checkpoint will not become durable: what it told nodes of their places is void, the files that it has `begun`
    /// are not there, and those that it appended to end where they did.
    pub(crate) fn void(&mut self, begun: &[FileNumber], cut: &[(FileNumber, u32)]) {
        self.epoch = PlaceEpoch::fresh();
        self.open = None;
        for number in begun {
            self.pages.remove(number);
        }
        self.pages.extend(cut.iter().copied());
    }

    fn retain(&mut self, complete_max: usize) -> Removal {
        self.look_aside();
        let complete = || self.kept.iter().filter(|kept| kept.complete).map(Kept::age);
        let oldest = complete().rev().nth(complete_max - 1).unwrap_or_default();
        let newest = complete().next_back().unwrap_or_default();
        let is_needed = |seq: &Seq| {
            let needed = self.needed.as_ref();
            needed.is_some_and(|needed| needed.last() < Some(seq) || needed.binary_search(seq).is_ok())
        };
        let partial = self.kept.iter().filter(|kept| !kept.complete).map(Kept::age).next_back();
        // Of a state that was written twice, as after a restart, the last one is as good as all.
        let last: BTreeMap<Seq, u64> =
            self.kept.iter().filter(|kept| kept.complete).map(|kept| (kept.seq, kept.number)).collect();
        self.kept.retain(|kept| match kept.complete {
            true => (kept.age() >= oldest || is_needed(&kept.seq)) && last[&kept.seq] == kept.number,
            false => kept.age() > newest && Some(kept.age()) == partial,
        });
        let needed: BTreeSet<u64> = self.kept.iter().map(|kept| kept.number).collect();
        let (aside, these) = match &self.aside {
            Some(aside) => (Some(aside), &aside.these[..]),
            None => (None, &[][..]),
        };
        let is_aside = |number: &u64| {
            aside.is_some_and(|aside| aside.manifests.contains(number))
                || these.iter().any(|kept| kept.number == *number)
        };
        let others = self.manifests.difference(&needed).copied();
        let (mut stay, gone): (BTreeSet<u64>, BTreeSet<u64>) = others.partition(is_aside);
        stay.extend(needed);
        let manifests = gone.into_iter().collect();
        let is_page_aside = |number: &FileNumber| aside.is_some_and(|aside| aside.pages.contains(number));
        let pages: Vec<FileNumber> = self
            .pages
            .keys()
            .filter(|number| !self.kept.iter().chain(these).any(|kept| kept.files.contains(number)))
            .filter(|number| !is_page_aside(number))
            .copied()
            .collect();
        self.manifests = stay;
        for number in &pages {
            self.pages.remove(number);
        }
        Removal { manifests, pages }
    }
}

fn kept(manifests: &[&Manifest]) -> Vec<Kept> {
    manifests.iter().map(|manifest| Kept::of(manifest)).collect()
}
