//! Gathers blocks into writes to page files.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::block::{self, Address, BlockKind, FILE_HEAD_BYTES};
use crate::cache::{FileNumber, Place};
use crate::checkpoint::PageWrite;
use crate::store::PageStore;

/// Puts blocks one behind the other into page files.
pub(crate) struct BlockWriter {
    file_bytes_max: u32,
    write_bytes: usize,
    /// The file that is appended to, and its end.
    pub(crate) file: Option<(FileNumber, u32)>,
    /// What was not taken yet; each piece is of one file.
    pieces: VecDeque<PageWrite>,
    pub(crate) files: BTreeSet<FileNumber>,
    /// The ends of all files that were appended to.
    pub(crate) ends: BTreeMap<FileNumber, u32>,
    pub(crate) written_bytes: u64,
    /// Scratch space for a page.
    pub(crate) page: Vec<u8>,
}

impl BlockWriter {
    pub(crate) fn new(store: &PageStore) -> Self {
        let file = store.open.and_then(|number| Some((number, store.files.get(&number)?.bytes)));
        Self {
            file_bytes_max: store.options.file_bytes_max,
            write_bytes: store.options.write_bytes,
            file,
            pieces: VecDeque::new(),
            files: BTreeSet::new(),
            ends: BTreeMap::new(),
            written_bytes: 0,
            page: Vec::new(),
        }
    }

    /// Appends no more to a file that goes.
    pub(crate) fn leave(&mut self, gone: &BTreeSet<FileNumber>) {
        self.file = self.file.filter(|(number, _)| !gone.contains(number));
    }

    /// Where the next block of so many bytes stands.
    pub(crate) fn place(&mut self, bytes: u32, store: &mut PageStore) -> Place {
        let fits = |end: u32| end.checked_add(bytes).is_some_and(|end| end <= self.file_bytes_max);
        let (file, offset) = match self.file {
            Some((file, end)) if fits(end) => (file, end),
            _ => {
                let file = store.begin_file();
                let head = block::file_head(file).to_vec();
                let offset = u32::try_from(FILE_HEAD_BYTES).expect("invariant: a head is short");
                self.written_bytes += u64::from(offset);
                self.pieces.push_back(PageWrite { file, offset: 0, bytes: head });
                (file, offset)
            }
        };
        let end = offset + bytes;
        self.file = Some((file, end));
        self.files.insert(file);
        self.ends.insert(file, end);
        store.grow_file(file, end);
        Place { file, offset }
    }

    pub(crate) fn append(&mut self, place: Place, kind: BlockKind, addresses: &[Address], content: &[u8]) {
        if self.pieces.back().is_none_or(|piece| piece.file != place.file) {
            let bytes = Vec::with_capacity(self.write_bytes + self.write_bytes / 4);
            self.pieces.push_back(PageWrite { file: place.file, offset: place.offset, bytes });
        }
        let piece = self.pieces.back_mut().expect("invariant: just pushed");
        let before = piece.bytes.len();
        block::append_block(&mut piece.bytes, place, kind, addresses, content);
        self.written_bytes += (piece.bytes.len() - before) as u64;
    }

    /// The next piece, if it is long enough, or no more will come to it.
    pub(crate) fn take(&mut self, all: bool) -> Option<PageWrite> {
        let first = self.pieces.front()?;
        let whole = all || self.pieces.len() > 1 || first.bytes.len() >= self.write_bytes;
        if whole { self.pieces.pop_front() } else { None }
    }
}
