//! The results of one bundle, written straight into their archived form.
//!
//! The bytes are those that rkyv gives for a `Vec<OperationResult>` (a test compares them), but no result is
//! ever built as a value of its own: a read copies the stored bytes once, into the archive. All buffers are
//! kept between bundles. This file alone knows the layout: payloads first, then one element of
//! [`ELEMENT_BYTES`] per operation, then the head of the list; lists are a signed distance of 4 bytes from
//! the pointer itself and a count of 4 bytes; everything is unaligned and little-endian.

use quorate_types::{ArchivedOperationResult, Digest, OperationError, SessionId, limits};

use crate::leaf::VersionedRef;

const ELEMENT_BYTES: usize = size_of::<ArchivedOperationResult>();
const LIST_BYTES: usize = 8;
const VERSION_BYTES: usize = 8;
/// One value of an MGET: tag, list, version.
const VALUE_CELL_BYTES: usize = 1 + LIST_BYTES + VERSION_BYTES;
/// One entry of a SCAN: two lists and a version.
const ENTRY_CELL_BYTES: usize = 2 * LIST_BYTES + VERSION_BYTES;

const _: () = assert!(ELEMENT_BYTES == 18);
const _: () = assert!(
    limits::BUNDLE_OPERATIONS_MAX * ELEMENT_BYTES + LIST_BYTES <= limits::RESULTS_BYTES_MAX,
    "results of a fixed size always fit"
);

const NONE: u8 = 0;
const SOME: u8 = 1;

/// The variants of `OperationResult` in their order.
#[derive(Clone, Copy)]
#[repr(u8)]
enum Tag {
    Registered,
    Value,
    Written,
    NotWritten,
    Existed,
    Integer,
    Length,
    Values,
    Entries,
    Error,
    Voided,
}

/// The read of a bundle did not fit any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Overflow;

/// A list in the payloads: where it starts and how many elements it has.
#[derive(Clone, Copy, Debug, Default)]
struct List {
    start: usize,
    count: usize,
}

/// One operation's result; `list` is written at `list_at` once the element's own place is known.
#[derive(Clone, Copy, Debug)]
struct Element {
    bytes: [u8; ELEMENT_BYTES],
    list_at: usize,
    list: Option<List>,
}

/// One value of an MGET or one entry of a SCAN.
#[derive(Clone, Copy, Debug)]
struct Cell {
    key: List,
    value: List,
    version: u64,
    present: bool,
}

/// The results of the bundle at hand.
#[derive(Clone, Debug, Default)]
pub(crate) struct Results {
    archive: Vec<u8>,
    elements: Vec<Element>,
    cells: Vec<Cell>,
    /// Where the payloads must end for everything to fit.
    payload_bytes_max: usize,
    overflowed: bool,
}

impl Results {
    /// Starts the results of a bundle of so many operations.
    pub(crate) fn begin(&mut self, operations: usize) {
        self.archive.clear();
        self.elements.clear();
        self.cells.clear();
        self.payload_bytes_max =
            limits::RESULTS_BYTES_MAX.saturating_sub(LIST_BYTES + operations * ELEMENT_BYTES);
        self.overflowed = false;
    }

    /// Whether a read of this bundle did not fit. Every later read is refused then, so that the work of a
    /// bundle is bounded by what its results may hold.
    pub(crate) fn overflowed(&self) -> bool {
        self.overflowed
    }

    pub(crate) fn registered(&mut self, session: SessionId) {
        self.fixed(Tag::Registered, &session.to_bytes());
    }

    pub(crate) fn voided(&mut self) {
        self.fixed(Tag::Voided, &[]);
    }

    pub(crate) fn value(&mut self, entry: Option<VersionedRef<'_>>) -> Result<(), Overflow> {
        let Some(entry) = entry else {
            self.fixed(Tag::Value, &[NONE]);
            return Ok(());
        };
        self.reserve(entry.value.len(), self.archive.len())?;
        let value = self.payload(entry.value);
        let mut bytes = [0; ELEMENT_BYTES];
        bytes[0] = Tag::Value as u8;
        bytes[1] = SOME;
        bytes[2 + LIST_BYTES..].copy_from_slice(&entry.version.to_le_bytes());
        self.elements.push(Element { bytes, list_at: 2, list: Some(value) });
        Ok(())
    }

    pub(crate) fn written(&mut self, version: u64) {
        self.fixed(Tag::Written, &version.to_le_bytes());
    }

    pub(crate) fn not_written(&mut self, version: Option<u64>) {
        let mut fields = [0; 9];
        if let Some(version) = version {
            fields[0] = SOME;
            fields[1..].copy_from_slice(&version.to_le_bytes());
        }
        self.fixed(Tag::NotWritten, &fields);
    }

    pub(crate) fn existed(&mut self, existed: bool) {
        self.fixed(Tag::Existed, &[u8::from(existed)]);
    }

    pub(crate) fn integer(&mut self, value: i64, version: u64) {
        self.fixed(Tag::Integer, &pair(value.to_le_bytes(), version.to_le_bytes()));
    }

    pub(crate) fn length(&mut self, length: u64, version: u64) {
        self.fixed(Tag::Length, &pair(length.to_le_bytes(), version.to_le_bytes()));
    }

    pub(crate) fn error(&mut self, error: OperationError) {
        let (tag, first, second) = match error {
            OperationError::KeyTooLong { bytes } => (0, bytes, 0),
            OperationError::ValueTooLong { bytes } => (1, bytes, 0),
            OperationError::NotAnInteger => (2, 0, 0),
            OperationError::Overflow => (3, 0, 0),
            OperationError::TooManyKeys { keys } => (4, keys, 0),
            OperationError::ScanTooLong { entries } => (5, entries, 0),
            OperationError::ResultsTooLong => (6, 0, 0),
            OperationError::Misplaced => (7, 0, 0),
            OperationError::RegistrationNotRecent { recent, executing } => (8, recent, executing),
            OperationError::TooManyRegistrations { sessions } => (9, sessions, 0),
            OperationError::RegistrationUsed => (10, 0, 0),
            OperationError::SessionEvicted { next } => (11, next, 0),
            OperationError::NumberUsed => (12, 0, 0),
            OperationError::StateFull { bytes, bytes_max } => (13, bytes, bytes_max),
        };
        let mut fields = [0; 17];
        fields[0] = tag;
        fields[1..].copy_from_slice(&pair(first.to_le_bytes(), second.to_le_bytes()));
        self.fixed(Tag::Error, &fields);
    }

    /// The values of an MGET in the order of its keys.
    pub(crate) fn values<'a>(
        &mut self,
        entries: impl Iterator<Item = Option<VersionedRef<'a>>>,
    ) -> Result<(), Overflow> {
        let start = self.archive.len();
        self.cells.clear();
        let mut cell_bytes = 0;
        for entry in entries {
            cell_bytes += VALUE_CELL_BYTES;
            self.reserve(cell_bytes + entry.map_or(0, |entry| entry.value.len()), start)?;
            let cell = match entry {
                Some(entry) => self.cell(&[], entry),
                None => Cell { key: List::default(), value: List::default(), version: 0, present: false },
            };
            self.cells.push(cell);
        }
        let list = List { start: self.archive.len(), count: self.cells.len() };
        for at in 0..self.cells.len() {
            let cell = self.cells[at];
            if cell.present {
                self.archive.push(SOME);
                self.push_list(cell.value);
                self.archive.extend_from_slice(&cell.version.to_le_bytes());
            } else {
                self.archive.extend_from_slice(&[NONE; VALUE_CELL_BYTES]);
            }
        }
        self.list(Tag::Values, list, false);
        Ok(())
    }

    /// Up to `limit` entries of a SCAN, as many as there is room for, and whether more follow. It does not fit only if
    /// its first entry does not.
    pub(crate) fn entries<'a>(
        &mut self,
        limit: usize,
        mut entries: impl Iterator<Item = (&'a [u8], VersionedRef<'a>)>,
    ) -> Result<(), Overflow> {
        let start = self.archive.len();
        self.cells.clear();
        let mut cell_bytes = 0;
        let mut more = false;
        for (key, entry) in entries.by_ref().take(limit) {
            cell_bytes += ENTRY_CELL_BYTES;
            let bytes = cell_bytes + key.len() + entry.value.len();
            if !self.cells.is_empty() && !self.fits(bytes) {
                more = true;
                break;
            }
            self.reserve(bytes, start)?;
            let cell = self.cell(key, entry);
            self.cells.push(cell);
        }
        more = more || entries.next().is_some();
        let list = List { start: self.archive.len(), count: self.cells.len() };
        for at in 0..self.cells.len() {
            let cell = self.cells[at];
            self.push_list(cell.key);
            self.push_list(cell.value);
            self.archive.extend_from_slice(&cell.version.to_le_bytes());
        }
        self.list(Tag::Entries, list, more);
        Ok(())
    }

    /// The finished archive. Valid until the next bundle begins.
    pub(crate) fn finish(&mut self) -> &[u8] {
        let list = List { start: self.archive.len(), count: self.elements.len() };
        for at in 0..self.elements.len() {
            let mut element = self.elements[at];
            if let Some(list) = element.list {
                let place = self.archive.len() + element.list_at;
                element.bytes[element.list_at..element.list_at + LIST_BYTES]
                    .copy_from_slice(&list_bytes(list, place));
            }
            self.archive.extend_from_slice(&element.bytes);
        }
        self.push_list(list);
        assert!(self.archive.len() <= limits::RESULTS_BYTES_MAX, "invariant: reads are refused before");
        &self.archive
    }

    /// The finished archive with the digest of the request behind it, as a kept reply is stored.
    pub(crate) fn finish_for(&mut self, request: &Digest) -> &[u8] {
        self.finish();
        self.archive.extend_from_slice(&request.0);
        &self.archive
    }

    /// Makes sure that `bytes` more fit; otherwise takes back the payloads from `start` on.
    fn reserve(&mut self, bytes: usize, start: usize) -> Result<(), Overflow> {
        if self.fits(bytes) {
            return Ok(());
        }
        self.archive.truncate(start);
        self.overflowed = true;
        Err(Overflow)
    }

    fn fits(&self, bytes: usize) -> bool {
        self.archive.len() + bytes <= self.payload_bytes_max
    }

    fn cell(&mut self, key: &[u8], entry: VersionedRef<'_>) -> Cell {
        let key = self.payload(key);
        let value = self.payload(entry.value);
        Cell { key, value, version: entry.version, present: true }
    }

    fn payload(&mut self, bytes: &[u8]) -> List {
        let list = List { start: self.archive.len(), count: bytes.len() };
        self.archive.extend_from_slice(bytes);
        list
    }

    fn push_list(&mut self, list: List) {
        let place = self.archive.len();
        self.archive.extend_from_slice(&list_bytes(list, place));
    }

    fn fixed(&mut self, tag: Tag, fields: &[u8]) {
        let mut bytes = [0; ELEMENT_BYTES];
        bytes[0] = tag as u8;
        bytes[1..=fields.len()].copy_from_slice(fields);
        self.elements.push(Element { bytes, list_at: 0, list: None });
    }

    fn list(&mut self, tag: Tag, list: List, flag: bool) {
        let mut bytes = [0; ELEMENT_BYTES];
        bytes[0] = tag as u8;
        bytes[1 + LIST_BYTES] = u8::from(flag);
        self.elements.push(Element { bytes, list_at: 1, list: Some(list) });
    }
}

fn pair(first: [u8; 8], second: [u8; 8]) -> [u8; 16] {
    let mut both = [0; 16];
    both[..8].copy_from_slice(&first);
    both[8..].copy_from_slice(&second);
    both
}

/// A list as it stands at `place`: the distance back to its start, and its count.
fn list_bytes(list: List, place: usize) -> [u8; LIST_BYTES] {
    let distance = u32::try_from(place - list.start).expect("invariant: results are at most 1 MiB");
    let count = u32::try_from(list.count).expect("invariant: results are at most 1 MiB");
    let mut bytes = [0; LIST_BYTES];
    bytes[..4].copy_from_slice(&distance.wrapping_neg().to_le_bytes());
    bytes[4..].copy_from_slice(&count.to_le_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use quorate_types::{OperationResult, Seq, Versioned, VersionedEntry};

    use super::*;

    fn archived(results: &Vec<OperationResult>) -> Vec<u8> {
        rkyv::to_bytes::<rkyv::rancor::Error>(results).unwrap().to_vec()
    }

    fn versioned(entry: VersionedRef<'_>) -> Versioned {
        Versioned { value: entry.value.to_vec(), version: entry.version }
    }

    fn read(value: &[u8], version: u64) -> VersionedRef<'_> {
        VersionedRef { value, version }
    }

    #[test]
    fn every_result_has_the_bytes_that_rkyv_gives_it() {
        let (first, second) = (read(b"first", 7), read(b"", u64::MAX));
        let session = SessionId { seq: Seq(8), place: 3 };
        let errors = [
            OperationError::KeyTooLong { bytes: 1025 },
            OperationError::ValueTooLong { bytes: 1 << 40 },
            OperationError::NotAnInteger,
            OperationError::Overflow,
            OperationError::TooManyKeys { keys: 3 },
            OperationError::ScanTooLong { entries: 4 },
            OperationError::ResultsTooLong,
            OperationError::Misplaced,
            OperationError::RegistrationNotRecent { recent: 1, executing: 2 },
            OperationError::TooManyRegistrations { sessions: 5 },
            OperationError::RegistrationUsed,
            OperationError::SessionEvicted { next: 6 },
            OperationError::NumberUsed,
            OperationError::StateFull { bytes: 7, bytes_max: 1 << 33 },
        ];
        let mut results = Results::default();
        results.begin(30);
        results.registered(session);
        results.voided();
        results.value(Some(first)).unwrap();
        results.value(Some(second)).unwrap();
        results.value(None).unwrap();
        results.written(9);
        results.not_written(Some(10));
        results.not_written(None);
        results.existed(true);
        results.existed(false);
        results.integer(-5, 11);
        results.length(6, 12);
        results.values([Some(first), None, Some(second)].into_iter()).unwrap();
        results.values(std::iter::empty()).unwrap();
        let entries = [(&b"a"[..], first), (b"bc", second), (b"d", first)];
        results.entries(2, entries.into_iter()).unwrap();
        results.entries(3, entries.into_iter()).unwrap();
        results.entries(0, entries.into_iter()).unwrap();
        for error in errors {
            results.error(error);
        }
        let entry = |(key, entry): (&[u8], VersionedRef<'_>)| VersionedEntry {
            key: key.to_vec(),
            value: entry.value.to_vec(),
            version: entry.version,
        };
        let mut expected = vec![
            OperationResult::Registered { session },
            OperationResult::Voided,
            OperationResult::Value(Some(versioned(first))),
            OperationResult::Value(Some(versioned(second))),
            OperationResult::Value(None),
            OperationResult::Written { version: 9 },
            OperationResult::NotWritten { version: Some(10) },
            OperationResult::NotWritten { version: None },
            OperationResult::Existed(true),
            OperationResult::Existed(false),
            OperationResult::Integer { value: -5, version: 11 },
            OperationResult::Length { length: 6, version: 12 },
            OperationResult::Values(vec![Some(versioned(first)), None, Some(versioned(second))]),
            OperationResult::Values(vec![]),
            OperationResult::Entries {
                entries: entries[..2].iter().copied().map(entry).collect(),
                more: true,
            },
            OperationResult::Entries { entries: entries.iter().copied().map(entry).collect(), more: false },
            OperationResult::Entries { entries: vec![], more: true },
        ];
        expected.extend(errors.map(OperationResult::Error));
        assert_eq!(results.finish(), archived(&expected));
    }

    #[test]
    fn no_results_are_an_empty_list() {
        let mut results = Results::default();
        results.begin(0);
        assert_eq!(results.finish(), archived(&vec![]));
    }

    #[test]
    fn the_longest_results_have_exactly_the_limit() {
        let fixed = LIST_BYTES + 2 * ELEMENT_BYTES;
        let value = vec![1; limits::RESULTS_BYTES_MAX - fixed];
        let mut results = Results::default();
        results.begin(2);
        results.value(Some(read(&value, 1))).unwrap();
        results.value(Some(read(b"", 1))).unwrap();
        assert_eq!(results.finish().len(), limits::RESULTS_BYTES_MAX);
        results.begin(2);
        results.value(Some(read(&value, 1))).unwrap();
        assert_eq!(results.value(Some(read(b"x", 1))), Err(Overflow));
        assert!(results.overflowed());
        results.error(OperationError::ResultsTooLong);
        assert_eq!(results.finish().len(), limits::RESULTS_BYTES_MAX);
    }

    #[test]
    fn a_list_that_does_not_fit_leaves_nothing_behind() {
        let value = vec![1; limits::RESULTS_BYTES_MAX / 2];
        let mut results = Results::default();
        results.begin(1);
        assert_eq!(results.values([Some(read(&value, 1)), Some(read(&value, 1))].into_iter()), Err(Overflow));
        results.error(OperationError::ResultsTooLong);
        assert_eq!(results.finish(), archived(&vec![OperationResult::Error(OperationError::ResultsTooLong)]));
    }

    #[test]
    fn a_scan_ends_where_there_is_no_more_room_and_fails_only_without_any() {
        let value = vec![1; limits::RESULTS_BYTES_MAX / 2 - 100];
        let entries = || (0..4u8).map(|_| (&b"k"[..], read(&value, 1)));
        let mut results = Results::default();
        results.begin(3);
        results.entries(4, entries()).unwrap();
        assert!(!results.overflowed(), "what comes later may yet fit");
        results.entries(4, std::iter::once((&b"k"[..], read(b"short", 1)))).unwrap();
        assert_eq!(results.entries(4, entries()), Err(Overflow));
        results.error(OperationError::ResultsTooLong);
        let entry = |value: &[u8]| VersionedEntry { key: b"k".to_vec(), value: value.to_vec(), version: 1 };
        let expected = vec![
            OperationResult::Entries { entries: vec![entry(&value); 2], more: true },
            OperationResult::Entries { entries: vec![entry(b"short")], more: false },
            OperationResult::Error(OperationError::ResultsTooLong),
        ];
        assert_eq!(results.finish(), archived(&expected));
    }
}
