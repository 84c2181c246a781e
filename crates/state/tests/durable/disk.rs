//! A disk in memory: what is written may be lost until it is synced, and a crash may come between any two steps.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Error, ErrorKind};

use quorate_state::{
    Checkpoint, CheckpointHead, FileNumber, Frozen, LoadError, Manifest, PageStore, PageWrite, Progress,
    ReadPages, Removal, StoreOptions, Undo,
};
use quorate_types::{Digest, Nanoseconds, Seq};

/// Page files and manifests.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk {
    pub(crate) pages: BTreeMap<FileNumber, Vec<u8>>,
    pub(crate) manifests: BTreeMap<u64, Vec<u8>>,
    /// What is durable of page files; more of a file may be.
    synced: BTreeMap<FileNumber, usize>,
    /// The manifests and page files whose directory entries were not synced.
    loose_manifests: BTreeSet<u64>,
    /// Steps that may still be taken before the crash.
    pub(crate) steps: usize,
}

/// The power went.
#[derive(Debug)]
pub(crate) struct Crash;

impl ReadPages for Disk {
    fn read(&mut self, file: FileNumber, offset: u64, buffer: &mut [u8]) -> std::io::Result<()> {
        let bytes = self.pages.get(&file).ok_or(Error::from(ErrorKind::NotFound))?;
        let start = usize::try_from(offset).expect("small files");
        let found = bytes.get(start..start + buffer.len()).ok_or(Error::from(ErrorKind::UnexpectedEof))?;
        buffer.copy_from_slice(found);
        Ok(())
    }
}

impl Disk {
    pub(crate) fn endless() -> Self {
        Self { steps: usize::MAX, ..Self::default() }
    }

    fn step(&mut self) -> Result<(), Crash> {
        self.steps = self.steps.checked_sub(1).ok_or(Crash)?;
        Ok(())
    }

    pub(crate) fn write(&mut self, write: &PageWrite) -> Result<(), Crash> {
        self.step()?;
        let file = self.pages.entry(write.file).or_default();
        let start = write.offset as usize;
        assert_eq!(file.len(), start, "files are written from their beginning, without gaps");
        file.extend_from_slice(&write.bytes);
        Ok(())
    }

    pub(crate) fn remove(&mut self, removal: &Removal) -> Result<(), Crash> {
        for number in &removal.manifests {
            self.step()?;
            self.manifests.remove(number);
        }
        for number in &removal.pages {
            self.step()?;
            self.pages.remove(number);
            self.synced.remove(number);
        }
        Ok(())
    }

    /// Undoes what was written of a checkpoint.
    pub(crate) fn undo(&mut self, undo: &Undo) {
        self.manifests.remove(&undo.manifest);
        undo.pages.iter().for_each(|number| drop(self.pages.remove(number)));
        for (number, bytes) in &undo.cut {
            self.pages.entry(*number).or_default().truncate(*bytes as usize);
        }
    }

    /// Carries a checkpoint out, in the order that makes it durable.
    pub(crate) fn carry_out(
        &mut self,
        store: &mut PageStore,
        mut checkpoint: Checkpoint,
    ) -> Result<Manifest, Crash> {
        loop {
            match checkpoint.advance(store) {
                Progress::Remove(removal) => self.remove(&removal)?,
                Progress::Write(write) => self.write(&write)?,
                Progress::Pause => {}
                Progress::Finished => break,
            }
        }
        for number in checkpoint.files_written() {
            self.step()?;
            self.synced.insert(*number, self.pages[number].len());
        }
        let manifest = checkpoint.manifest(store);
        self.step()?;
        self.manifests.insert(manifest.number, manifest.encode());
        self.loose_manifests.insert(manifest.number);
        self.step()?;
        self.loose_manifests.clear();
        let removal = store.on_durable(checkpoint);
        self.remove(&removal)?;
        Ok(manifest)
    }

    /// What may be there after a crash: `chance` decides about all that was not synced.
    pub(crate) fn crashed(mut self, mut chance: impl FnMut(usize) -> usize) -> Self {
        for number in std::mem::take(&mut self.loose_manifests) {
            if chance(2) == 0 {
                self.manifests.remove(&number);
            }
        }
        let mut lost = Vec::new();
        for (number, bytes) in &mut self.pages {
            let synced = self.synced.get(number).copied().unwrap_or_default();
            bytes.truncate(synced + chance(bytes.len() - synced + 1));
            for byte in &mut bytes[synced..] {
                if chance(64) == 0 {
                    *byte = !*byte;
                }
            }
            if bytes.is_empty() {
                lost.push(*number);
            }
        }
        for number in lost {
            self.pages.remove(&number);
            self.synced.remove(&number);
        }
        self
    }

    /// The newest state that is whole, with the store that goes on from it.
    pub(crate) fn recover(
        &mut self,
        options: StoreOptions,
    ) -> (PageStore, Option<(Manifest, Frozen)>, Vec<LoadError>) {
        let pages: Vec<_> = self.pages.iter().map(|(number, bytes)| (*number, bytes.len() as u64)).collect();
        let mut store = PageStore::new(options, pages, self.manifests.keys().copied());
        let mut errors = Vec::new();
        let mut found = None;
        let manifests: Vec<Vec<u8>> = self.manifests.values().rev().cloned().collect();
        for bytes in manifests {
            let Ok(manifest) = Manifest::decode(&bytes) else { continue };
            if !manifest.complete {
                continue;
            }
            if found.is_some() {
                store.keep(&manifest);
                continue;
            }
            match store.load(&manifest, self) {
                Ok((frozen, _)) => found = Some((manifest, frozen)),
                Err(error) => errors.push(error),
            }
        }
        let removal = store.unneeded();
        self.steps = usize::MAX;
        self.remove(&removal).expect("no crash");
        (store, found, errors)
    }
}

pub(crate) fn head(seq: u64) -> CheckpointHead {
    CheckpointHead {
        seq: Seq(seq),
        digest: Digest([7; 32]),
        timestamp: Nanoseconds(seq * 1000),
        certificate: vec![1; 5],
    }
}
