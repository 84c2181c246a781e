//! The folder of page files and manifests: the one place that knows their names and makes them durable.
//!
//! `pages-NNNNNNNN` are page files, `manifest-NNNNNNNN` and `manifest-NNNNNNNN-copy` the two copies of a manifest; what
//! they hold is `quorate_state`'s. A manifest is written beside its place and renamed. Blocking calls: for threads that
//! nobody waits for, and for tools.

use crate::space::{self, opened};
use quorate_state::{
    CheckpointHead, FILE_HEAD_BYTES, FileNumber, Frozen, Known, LoadError, LoadFigures, MANIFEST_BYTES_MAX,
    Manifest, ManifestFault, PageStore, PageWrite, Progress, ReadPages, Removal, Restored, Salvage,
    StoreOptions, Stored, Undo, is_of_the_medium, verify,
};
use quorate_types::Seq;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use thiserror::Error;

const PAGES: &str = "pages-";
const MANIFEST: &str = "manifest-";
/// What the name of a manifest's second copy ends with.
const COPY: &str = "-copy";
/// What a manifest's name ends with while it is written.
const UNFINISHED: &str = ".new";
/// So many bytes are written before they are made durable: the disk then has them a few at a time, and whoever else
/// waits for it does not wait for all of a checkpoint.
const UNSYNCED_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Why the folder cannot be used.
#[derive(Debug, Error)]
pub enum FolderError {
    /// A file or the folder could not be read or written.
    #[error("cannot {action} {}: {cause}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// What the system says.
        cause: io::Error,
    },
    /// A manifest cannot be read.
    #[error("{} cannot be read: {fault}", path.display())]
    Manifest {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        fault: ManifestFault,
    },
    /// A checkpoint cannot be read.
    #[error("the checkpoint of {} cannot be read: {error}", path.display())]
    Load {
        /// Its manifest.
        path: PathBuf,
        /// What is wrong, and where.
        error: LoadError,
    },
}

impl FolderError {
    /// Whether the disk is full, or what this user may have of it.
    #[must_use]
    pub fn is_full_disk(&self) -> bool {
        matches!(self, Self::Io { cause, .. } if space::is_full(cause))
    }

    /// Whether something is damaged or gone. Otherwise it is there, and whoever cannot read it must not go on without
    /// it.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Io { cause, .. } => is_of_the_medium(cause),
            Self::Manifest { fault, .. } => fault.is_damage(),
            Self::Load { error, .. } => error.is_damage(),
        }
    }
}

/// The files in the folder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// Page files with their lengths, ascending.
    pub pages: Vec<(FileNumber, u64)>,
    /// The numbers of manifests, ascending.
    pub manifests: Vec<u64>,
    /// Manifests that were not finished.
    pub unfinished: Vec<PathBuf>,
}

/// What there is of checkpoints, for whoever judges a directory by that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Survey {
    /// Whether the folder itself is there.
    pub(crate) is_there: bool,
    /// Whether a manifest shows that headers were executed. One that cannot be read does, unless it is the first one, with
    /// which a cluster may begin.
    pub(crate) follows_headers: bool,
    /// Whether there is a manifest that cannot be read.
    pub(crate) has_unreadable: bool,
    /// The slot of the oldest checkpoint.
    pub(crate) oldest: Option<Seq>,
}

/// The folder, and the page files that are written.
#[derive(Debug)]
pub struct PageFolder {
    path: PathBuf,
    synchronous: bool,
    /// Files that were written to and may not be durable.
    written: BTreeMap<FileNumber, File>,
    /// The last file that was read from.
    reading: Option<(FileNumber, File)>,
    unsynced_bytes: usize,
    /// Whether page files were begun whose directory entries may not be durable.
    is_entry_loose: bool,
    /// What was made durable by its name.
    #[cfg(test)]
    made_durable: std::cell::RefCell<Vec<PathBuf>>,
}

/// A new file of pages: whoever reads it reads keys and values.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).create(true).mode(0o600);
    options
}

impl PageFolder {
    /// The folder at `path`, made if it does not exist. Unless it is `synchronous`, nothing is made durable: files
    /// survive the process, not the loss of power.
    pub fn open(path: &Path, synchronous: bool) -> Result<Self, FolderError> {
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed("create", path))?;
        Ok(Self::at(path, synchronous))
    }

    /// As [`PageFolder::open`] for a folder that should be there: it is not made.
    pub(crate) fn at(path: &Path, synchronous: bool) -> Self {
        Self { synchronous, ..Self::for_reading(path) }
    }

    /// The folder at `path` for whoever only reads: nothing is made.
    #[must_use]
    pub fn for_reading(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            synchronous: false,
            written: BTreeMap::new(),
            reading: None,
            unsynced_bytes: 0,
            is_entry_loose: false,
            #[cfg(test)]
            made_durable: std::cell::RefCell::default(),
        }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of a page file.
    #[must_use]
    pub fn page_file(&self, number: FileNumber) -> PathBuf {
        self.path.join(format!("{PAGES}{number}"))
    }

    /// The path of a manifest.
    #[must_use]
    pub fn manifest_file(&self, number: u64) -> PathBuf {
        self.path.join(format!("{MANIFEST}{number:08}"))
    }

    /// The path of a manifest's second copy.
    #[must_use]
    pub fn manifest_copy(&self, number: u64) -> PathBuf {
        self.path.join(format!("{MANIFEST}{number:08}{COPY}"))
    }

    fn manifest_copies(&self, number: u64) -> [PathBuf; 2] {
        [self.manifest_file(number), self.manifest_copy(number)]
    }

    /// The files that are there; none where the folder is not. Others than its own are passed over.
    pub fn list(&self) -> Result<Listing, FolderError> {
        let mut listing = Listing::default();
        let entries = match opened(|| fs::read_dir(&self.path)) {
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(listing),
            entries => entries.map_err(failed("list", &self.path))?,
        };
        for entry in entries {
            let entry = entry.map_err(failed("list", &self.path))?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            if let Some(number) = name.strip_prefix(PAGES).and_then(|number| number.parse().ok()) {
                let metadata = entry.metadata().map_err(failed("look at", &entry.path()))?;
                listing.pages.push((FileNumber(number), metadata.len()));
            } else if let Some(number) = name.strip_prefix(MANIFEST) {
                match number.strip_suffix(COPY).unwrap_or(number).parse() {
                    Ok(number) => listing.manifests.push(number),
                    Err(_) if name.ends_with(UNFINISHED) => listing.unfinished.push(entry.path()),
                    Err(_) => {}
                }
            }
        }
        listing.pages.sort_unstable();
        listing.manifests.sort_unstable();
        listing.manifests.dedup();
        Ok(listing)
    }

    /// Reads a manifest, from whichever of its copies is whole.
    ///
    /// # Errors
    /// Those of the first copy when neither is, or when one could be read if it were not for rights, limits or its
    /// version.
    pub fn read_manifest(&self, number: u64) -> Result<Manifest, FolderError> {
        let [first, second] = self.manifest_copies(number).map(|path| read_copy(&path));
        match (first, second) {
            (Ok(manifest), _) => Ok(manifest),
            (Err(error), _) if !error.is_damage() => Err(error),
            (_, Ok(manifest)) => Ok(manifest),
            (Err(_), Err(error)) if !error.is_damage() => Err(error),
            (Err(error), Err(_)) => Err(error),
        }
    }

    /// Writes those copies of a manifest anew that are not what they should be; says whether there were some.
    pub(crate) fn mend_manifest(&self, manifest: &Manifest) -> Result<bool, FolderError> {
        let mut is_mended = false;
        for path in self.manifest_copies(manifest.number) {
            if !read_copy(&path).is_ok_and(|copy| copy == *manifest) {
                self.write_copy(manifest, &path)?;
                is_mended = true;
            }
        }
        Ok(is_mended)
    }

    fn write_copy(&self, manifest: &Manifest, path: &Path) -> Result<(), FolderError> {
        let unfinished = unfinished(path);
        let mut file =
            opened(|| private().truncate(true).open(&unfinished)).map_err(failed("create", &unfinished))?;
        file.write_all(&manifest.encode()).map_err(failed("write", &unfinished))?;
        if self.synchronous {
            file.sync_all().map_err(failed("make durable", &unfinished))?;
        }
        fs::rename(&unfinished, path).map_err(failed("rename", &unfinished))
    }

    /// What there is of checkpoints.
    pub(crate) fn survey(&self) -> Result<Survey, FolderError> {
        match fs::metadata(&self.path) {
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(Survey::default()),
            Err(cause) => return Err(failed("look at", &self.path)(cause)),
            Ok(_) => {}
        }
        let mut survey = Survey { is_there: true, ..Survey::default() };
        for number in self.list()?.manifests {
            let manifest = self.read_manifest(number);
            let Ok(manifest) = manifest else {
                survey.has_unreadable = true;
                survey.follows_headers |= number > 1;
                continue;
            };
            let seq = manifest.head.seq;
            survey.follows_headers |= seq > Seq(0);
            if manifest.complete {
                survey.oldest = Some(survey.oldest.map_or(seq, |oldest| oldest.min(seq)));
            }
        }
        Ok(survey)
    }

    /// What is intact in all page files. Holds it in memory.
    pub(crate) fn salvage(&mut self, manifests: &[Manifest]) -> Result<Salvage, FolderError> {
        let length = |(number, bytes): (FileNumber, u64)| (number, u32::try_from(bytes).unwrap_or(u32::MAX));
        let files = self.list()?.pages.into_iter().map(length).collect();
        let found = Salvage::gather(&files, manifests.iter(), self);
        found.map_err(|error| FolderError::Load { path: self.path.clone(), error })
    }

    /// Writes to a page file; one that is there under a number that begins anew is of no checkpoint.
    pub fn write(&mut self, write: &PageWrite) -> Result<(), FolderError> {
        let path = self.page_file(write.file);
        if write.offset == 0 {
            let file = opened(|| private().truncate(true).open(&path));
            self.written.insert(write.file, file.map_err(failed("create", &path))?);
            self.is_entry_loose = true;
        }
        let file = match self.written.get(&write.file) {
            Some(file) => file,
            None => {
                let file =
                    opened(|| OpenOptions::new().write(true).open(&path)).map_err(failed("open", &path))?;
                self.written.entry(write.file).or_insert(file)
            }
        };
        file.write_all_at(&write.bytes, u64::from(write.offset)).map_err(failed("write", &path))?;
        self.unsynced_bytes += write.bytes.len();
        if self.synchronous && self.unsynced_bytes >= UNSYNCED_BYTES_MAX {
            file.sync_data().map_err(failed("make durable", &path))?;
            self.unsynced_bytes = 0;
        }
        Ok(())
    }

    /// Makes what was written to these page files durable, and their directory entries.
    pub fn sync(&mut self, files: &BTreeSet<FileNumber>) -> Result<(), FolderError> {
        for number in files {
            if let Some(file) = self.written.remove(number)
                && self.synchronous
            {
                file.sync_all().map_err(failed("make durable", &self.page_file(*number)))?;
            }
        }
        self.unsynced_bytes = 0;
        if self.is_entry_loose {
            self.sync_directory()?;
            self.is_entry_loose = false;
        }
        Ok(())
    }

    /// Writes a manifest whose page files are durable; when this returns it is, too.
    pub fn commit(&mut self, manifest: &Manifest) -> Result<(), FolderError> {
        for path in self.manifest_copies(manifest.number) {
            self.write_copy(manifest, &path)?;
        }
        self.sync_directory()
    }

    /// Removes what nothing needs any more: manifests, and when they are surely gone, page files.
    pub fn remove(&mut self, removal: &Removal) -> Result<(), FolderError> {
        for number in &removal.manifests {
            self.manifest_copies(*number).iter().try_for_each(|path| remove_file(path))?;
        }
        if !removal.manifests.is_empty() && !removal.pages.is_empty() {
            self.sync_directory()?;
        }
        for number in &removal.pages {
            self.written.remove(number);
            remove_file(&self.page_file(*number))?;
        }
        Ok(())
    }

    /// Whether a block stands where it should. Says no as well where it cannot be read.
    pub(crate) fn holds(&mut self, stored: &Stored) -> bool {
        let mut found = vec![0; stored.bytes.len()];
        // Another file may stand under the name by now.
        self.reading = None;
        self.read(stored.file, u64::from(stored.offset), &mut found).is_ok() && found == stored.bytes
    }

    /// Writes a block anew where it stands; others are not touched.
    pub(crate) fn rewrite(&self, stored: &Stored) -> Result<(), FolderError> {
        let path = self.page_file(stored.file);
        let file = opened(|| OpenOptions::new().write(true).open(&path)).map_err(failed("open", &path))?;
        file.write_all_at(&stored.bytes, u64::from(stored.offset)).map_err(failed("write", &path))?;
        if self.synchronous {
            file.sync_data().map_err(failed("make durable", &path))?;
        }
        Ok(())
    }

    /// Makes checkpoints durable that were found: what a killed process has written may stand in a cache, and one that
    /// was not synchronous has left all of it there.
    fn secure<'a>(&self, found: impl Iterator<Item = &'a Manifest>) -> Result<(), FolderError> {
        for manifest in found {
            manifest.files.iter().try_for_each(|file| self.make_durable(&self.page_file(file.number)))?;
            self.manifest_copies(manifest.number).iter().try_for_each(|path| self.make_durable(path))?;
        }
        self.sync_directory()
    }

    /// Removes what was written of a checkpoint that will not become durable.
    pub fn undo(&mut self, undo: &Undo) -> Result<(), FolderError> {
        if undo.is_empty() {
            return Ok(());
        }
        self.manifest_copies(undo.manifest).iter().try_for_each(|path| remove_file(&unfinished(path)))?;
        self.remove(&Removal { manifests: vec![undo.manifest], pages: undo.pages.clone() })?;
        for (number, bytes) in &undo.cut {
            self.written.remove(number);
            let path = self.page_file(*number);
            let file =
                opened(|| OpenOptions::new().write(true).open(&path)).map_err(failed("open", &path))?;
            file.set_len(u64::from(*bytes)).map_err(failed("shorten", &path))?;
        }
        self.unsynced_bytes = 0;
        Ok(())
    }

    /// The bytes that are free on its disk; as many as there are numbers where nobody can tell.
    pub(crate) fn free_bytes(&self) -> u64 {
        space::free_bytes(&self.path).unwrap_or(u64::MAX)
    }

    fn sync_directory(&self) -> Result<(), FolderError> {
        self.make_durable(&self.path)
    }

    fn make_durable(&self, path: &Path) -> Result<(), FolderError> {
        if self.synchronous {
            let file = opened(|| File::open(path)).map_err(failed("open", path))?;
            file.sync_all().map_err(failed("make durable", path))?;
            #[cfg(test)]
            self.made_durable.borrow_mut().push(path.to_owned());
        }
        Ok(())
    }
}

impl ReadPages for PageFolder {
    fn read(&mut self, number: FileNumber, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        if self.reading.as_ref().is_none_or(|(open, _)| *open != number) {
            let path = self.page_file(number);
            self.reading = Some((number, opened(|| File::open(&path))?));
        }
        match &self.reading {
            Some((_, file)) => file.read_exact_at(buffer, offset),
            None => unreachable!("invariant: just opened"),
        }
    }
}

/// What a replica finds when it starts.
#[derive(Debug)]
pub struct Found {
    /// Goes on from it.
    pub store: PageStore,
    /// What to go on from: see [`PageStore::restore`]. What it says of damage is moved to [`Found::damaged`].
    pub restored: Restored,
    /// What could not be read. Nothing of it was removed: that stays until a newer certified checkpoint is durable.
    pub damaged: Vec<FolderError>,
    /// The manifests that can be read.
    manifests: Vec<Manifest>,
    /// Those of what the replica goes on from.
    needed: Vec<Manifest>,
    may_tidy: bool,
    /// What is left of manifests that were not finished.
    unfinished: Vec<PathBuf>,
}

/// The checkpoint to go on from after what the logs have `known` of certified states, and the store that goes on from
/// it. Nothing is changed before [`Found::settle`].
///
/// # Errors
/// When something is there and cannot be read, for rights, limits or its version.
pub fn find(folder: &mut PageFolder, options: StoreOptions, known: Known) -> Result<Found, FolderError> {
    let listing = folder.list()?;
    let mut store = PageStore::new(options, listing.pages, listing.manifests.iter().copied());
    let (mut manifests, mut damaged) = (Vec::new(), Vec::new());
    for number in listing.manifests.into_iter().rev() {
        match folder.read_manifest(number) {
            Ok(manifest) => manifests.push(manifest),
            Err(error) if error.is_damage() => damaged.push(error),
            Err(error) => return Err(error),
        }
    }
    let mut restored = store
        .restore(manifests.iter().cloned(), !damaged.is_empty(), known, folder)
        .map_err(|error| FolderError::Load { path: folder.path.clone(), error })?;
    folder.reading = None;
    let errors = std::mem::take(&mut restored.damaged).into_iter();
    damaged.extend(errors.map(|(number, error)| broken(folder.manifest_file(number))(error)));
    let whole = restored.whole.iter().map(|(manifest, _)| manifest);
    let needed = whole.chain(restored.part.iter().map(|(manifest, _)| manifest)).cloned().collect();
    let (may_tidy, unfinished) = (restored.may_tidy, listing.unfinished);
    Ok(Found { store, restored, damaged, manifests, needed, may_tidy, unfinished })
}

impl Found {
    /// Writes copies of manifests anew that are damaged, makes durable what the replica goes on from, and only then
    /// removes what nothing needs. Returns the manifests of which a copy is written anew.
    pub fn settle(&mut self, folder: &mut PageFolder) -> Result<Vec<u64>, FolderError> {
        let mut mended = Vec::new();
        for manifest in &self.manifests {
            if folder.mend_manifest(manifest)? {
                mended.push(manifest.number);
            }
        }
        folder.secure(self.needed.iter())?;
        if self.may_tidy {
            let removal = self.store.unneeded();
            folder.remove(&removal)?;
            self.unfinished.iter().try_for_each(|path| remove_file(path))?;
        }
        Ok(mended)
    }
}

/// Reads a checkpoint and checks every block of it.
pub fn verify_checkpoint(
    folder: &mut PageFolder,
    number: u64,
) -> Result<(Manifest, LoadFigures), FolderError> {
    let manifest = folder.read_manifest(number)?;
    let figures = verify(&manifest, folder);
    let figures = figures.map_err(broken(folder.manifest_file(number)))?;
    Ok((manifest, figures))
}

/// Copies a checkpoint, checked block by block, to another folder, so that it needs nothing of the first. Holds the
/// state in memory. `progress` is told the bytes that are written and about how many there will be.
pub fn copy_checkpoint(
    from: &mut PageFolder,
    manifest: &Manifest,
    head: CheckpointHead,
    to: &mut PageFolder,
    mut progress: impl FnMut(u64, u64),
) -> Result<Manifest, FolderError> {
    let mut source = PageStore::new(StoreOptions::default(), [], []);
    let loaded = source.load(manifest, from);
    let (state, figures) = loaded.map_err(broken(from.manifest_file(manifest.number)))?;
    let total = figures.block_bytes + FILE_HEAD_BYTES as u64;
    write_checkpoint(&state, head, to, |written| progress(written, total))
}

/// Writes a state to a folder as a checkpoint of its own, durable when this returns. `progress` is told the bytes that
/// are written.
pub fn write_checkpoint(
    state: &Frozen,
    head: CheckpointHead,
    to: &mut PageFolder,
    mut progress: impl FnMut(u64),
) -> Result<Manifest, FolderError> {
    let listing = to.list()?;
    let mut store = PageStore::new(StoreOptions::default(), listing.pages, listing.manifests);
    let mut checkpoint = store.begin(head, state);
    loop {
        match checkpoint.advance(&mut store) {
            Progress::Remove(_) | Progress::Pause => {}
            Progress::Write(write) => to.write(&write)?,
            Progress::Finished => break,
        }
        progress(checkpoint.written_bytes());
    }
    to.sync(checkpoint.files_written())?;
    let manifest = checkpoint.manifest(&store);
    to.commit(&manifest)?;
    Ok(manifest)
}

/// The state of a checkpoint, every block checked.
pub fn load_checkpoint(folder: &mut PageFolder, manifest: &Manifest) -> Result<Frozen, FolderError> {
    let mut store = PageStore::new(StoreOptions::default(), [], []);
    let loaded = store.load(manifest, folder);
    let (state, _) = loaded.map_err(broken(folder.manifest_file(manifest.number)))?;
    Ok(state)
}

/// Reads one copy of a manifest.
fn read_copy(path: &Path) -> Result<Manifest, FolderError> {
    let length = fs::metadata(path).map_err(failed("look at", path))?.len();
    if length > MANIFEST_BYTES_MAX as u64 {
        return Err(FolderError::Manifest { path: path.to_owned(), fault: ManifestFault::Length });
    }
    let bytes = opened(|| fs::read(path)).map_err(failed("read", path))?;
    Manifest::decode(&bytes).map_err(|fault| FolderError::Manifest { path: path.to_owned(), fault })
}

/// What a manifest's copy is called while it is written.
fn unfinished(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(UNFINISHED);
    name.into()
}

fn broken(path: PathBuf) -> impl FnOnce(LoadError) -> FolderError {
    move |error| FolderError::Load { path, error }
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FolderError {
    let path = path.to_owned();
    move |cause| FolderError::Io { action, path, cause }
}

/// Removes a file; one that is gone already is no error.
fn remove_file(path: &Path) -> Result<(), FolderError> {
    match fs::remove_file(path) {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(cause)),
        _ => Ok(()),
    }
}

#[cfg(test)]
pub(crate) mod tests;
