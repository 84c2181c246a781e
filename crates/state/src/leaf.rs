//! A leaf of the tree: entries in key order, short values beside their keys, long ones by reference.
//!
//! A value above [`INLINE_BYTES_MAX`] is kept apart with its own digest, so that a change of another entry
//! does not hash it again and copying the leaf does not copy it.

use std::sync::Arc;

use quorate_types::{Digest, Domain};

use crate::cache::Cache;
use crate::node::Target;
use crate::page::{PageFault, Reader};
use crate::records::{Records, common_bytes};

/// The longest value that stands in its leaf, in bytes.
pub(crate) const INLINE_BYTES_MAX: usize = 1024;
/// A leaf above this weight is split.
pub(crate) const LEAF_WEIGHT_MAX: usize = 16 * 1024;
/// A leaf below this weight is joined with a neighbour.
pub(crate) const LEAF_WEIGHT_MIN: usize = LEAF_WEIGHT_MAX / 4;
/// What an entry weighs besides its bytes; bounds a leaf to 64 entries.
pub(crate) const ENTRY_WEIGHT: usize = 256;
/// The longest key of the tree: a user's key behind its namespace byte.
pub(crate) const TREE_KEY_BYTES_MAX: usize = quorate_types::limits::KEY_BYTES_MAX + 1;

const VERSION_BYTES: usize = 8;
const DIGEST_BYTES: usize = 32;
/// Long values keep up to this much unused memory besides their own length.
const SPARE_BYTES_MAX: usize = 4096;
/// The longest value there is: the reply to a bundle is longer than users' values may be.
pub(crate) const LONG_BYTES_MAX: usize =
    quorate_types::limits::RESULTS_BYTES_MAX + crate::system::REQUEST_BYTES;
const _: () = assert!(quorate_types::limits::VALUE_BYTES_MAX <= LONG_BYTES_MAX);
/// Tag and count.
const PAGE_HEAD_BYTES: usize = 1 + 2;
/// Lengths, version and kind of an entry.
const ENTRY_HEAD_BYTES: usize = 2 + VERSION_BYTES + 1 + 4;
const INLINE: u8 = 0;
const BY_DIGEST: u8 = 1;

const ENTRY_WEIGHT_MAX: usize = ENTRY_WEIGHT + TREE_KEY_BYTES_MAX + INLINE_BYTES_MAX;
// Both parts of a split leaf stay above the least weight.
const _: () = assert!((LEAF_WEIGHT_MAX / 2).saturating_sub(ENTRY_WEIGHT_MAX) >= LEAF_WEIGHT_MIN);

/// A value with its version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VersionedRef<'a> {
    /// The value.
    pub value: &'a [u8],
    /// Of a user's key: the revision of the write that the value comes from. Of a system record: see there.
    pub version: u64,
}

/// What an operation does to an entry once it has seen it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Edit<'a> {
    Keep,
    Put(&'a [u8]),
    /// As `Put`, but a long value is not copied.
    Share(&'a Shared),
    Append(&'a [u8]),
    Remove,
}

/// The lengths of an entry's value before and after an edit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) before: Option<usize>,
    pub(crate) after: Option<usize>,
    pub(crate) written: bool,
    /// Whether nodes were split or joined.
    pub(crate) reshaped: bool,
}

/// Bytes that the tree shares with their giver, together with a digest that the giver has of them. The tree's
/// digests do not depend on whether a value is shared.
#[derive(Clone, Debug)]
pub(crate) struct Shared {
    pub(crate) bytes: Arc<[u8]>,
    pub(crate) digest: Digest,
}

/// A value that stands outside its leaf.
#[derive(Clone, Debug)]
pub(crate) struct LongValue {
    content: Content,
    pub(crate) cache: Cache,
}

#[derive(Clone, Debug)]
enum Content {
    Own(Vec<u8>),
    Shared(Shared),
}

/// A long value that stands by its digest in a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MissingValue {
    pub(crate) entry: usize,
    pub(crate) digest: Digest,
    pub(crate) bytes: u32,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Leaf {
    pub(crate) cache: Cache,
    weight: usize,
    /// The body of a record is the version (8 bytes, little-endian) and the value unless it is long.
    records: Records,
    /// As long as `records`, or empty while no value is long.
    long: Vec<Option<Arc<LongValue>>>,
}

impl Leaf {
    pub(crate) fn len(&self) -> usize {
        self.records.len()
    }

    pub(crate) fn records(&self) -> &Records {
        &self.records
    }

    /// Reads what every edit reads of the leaf itself.
    pub(crate) fn touch(&self) -> usize {
        usize::from(self.cache.digest().is_some()) + self.weight + self.long.len() + self.records.len()
    }

    /// Reads the first bytes of a long value, if there is one at `at`.
    pub(crate) fn touch_long(&self, at: usize) -> usize {
        self.long_at(at).map_or(0, |long| usize::from(long.bytes()[0]))
    }

    pub(crate) fn weight(&self) -> usize {
        self.weight
    }

    pub(crate) fn key(&self, at: usize) -> &[u8] {
        self.records.key(at)
    }

    pub(crate) fn entry(&self, at: usize) -> VersionedRef<'_> {
        let (version, inline) = self
            .records
            .body(at)
            .split_first_chunk()
            .expect("invariant: the body of an entry starts with its version");
        let value = match self.long_at(at) {
            Some(long) => long.bytes(),
            None => inline,
        };
        VersionedRef { value, version: u64::from_le_bytes(*version) }
    }

    /// The index of the first entry whose key is not below `key`.
    pub(crate) fn lower_bound(&self, key: &[u8]) -> usize {
        self.records.find(key).unwrap_or_else(|at| at)
    }

    pub(crate) fn get(&self, key: &[u8]) -> Option<VersionedRef<'_>> {
        self.records.find(key).ok().map(|at| self.entry(at))
    }

    /// As [`Leaf::get`], without a search if the key is at `guess`.
    pub(crate) fn get_hinted(&self, key: &[u8], guess: usize) -> Option<VersionedRef<'_>> {
        self.find_hinted(key, guess).ok().map(|at| self.entry(at))
    }

    fn find_hinted(&self, key: &[u8], guess: usize) -> Result<usize, usize> {
        if self.records.is_at(guess, key) { Ok(guess) } else { self.records.find(key) }
    }

    /// The value as it was shared, if it was and is long.
    pub(crate) fn shared(&self, key: &[u8]) -> Option<&Shared> {
        match &self.long_at(self.records.find(key).ok()?)?.content {
            Content::Shared(shared) => Some(shared),
            Content::Own(_) => None,
        }
    }

    /// Shows the entry with `key` to `decide` and does what it says. One search for both.
    pub(crate) fn edit<'e>(
        &mut self,
        target: &Target<'_>,
        decide: impl FnOnce(Option<VersionedRef<'_>>) -> Edit<'e>,
    ) -> Change {
        let Target { key, guess, version, .. } = *target;
        let found = self.find_hinted(key, guess);
        let present = found.ok().map(|at| self.entry(at));
        let before = present.map(|entry| entry.value.len());
        let edit = decide(present);
        let after = match (found, edit) {
            (_, Edit::Keep) | (Err(_), Edit::Remove) => {
                return Change { before, after: before, written: false, reshaped: false };
            }
            (Ok(at), Edit::Remove) => {
                self.remove(at);
                None
            }
            (Ok(at), Edit::Put(value)) => Some(self.put(at, version, value)),
            (Ok(at), Edit::Share(shared)) => Some(self.share(at, version, shared)),
            (Err(at), Edit::Share(shared)) => {
                self.insert(at, key, version, &[]);
                Some(self.share(at, version, shared))
            }
            (Ok(at), Edit::Append(suffix)) => Some(self.append_value(at, version, suffix)),
            (Err(at), Edit::Put(value) | Edit::Append(value)) => Some(self.insert(at, key, version, value)),
        };
        self.cache.forget();
        Change { before, after, written: true, reshaped: false }
    }

    fn insert(&mut self, at: usize, key: &[u8], version: u64, value: &[u8]) -> usize {
        let inline = if is_long(value.len()) { &[][..] } else { value };
        let body = self.records.insert(at, key, VERSION_BYTES + inline.len());
        body[..VERSION_BYTES].copy_from_slice(&version.to_le_bytes());
        body[VERSION_BYTES..].copy_from_slice(inline);
        if !self.long.is_empty() {
            self.long.insert(at, None);
        }
        if is_long(value.len()) {
            self.set_long(at, LongValue::own(value.to_vec()));
        }
        self.weight += self.entry_weight(at);
        value.len()
    }

    fn put(&mut self, at: usize, version: u64, value: &[u8]) -> usize {
        if self.long.is_empty() && !is_long(value.len()) {
            return self.put_short(at, version, value);
        }
        self.weight -= self.entry_weight(at);
        if is_long(value.len()) {
            self.put_long(at, value);
            self.records.resize_body(at, VERSION_BYTES);
        } else {
            self.clear_long(at);
            let body = self.records.resize_body(at, VERSION_BYTES + value.len());
            body[VERSION_BYTES..].copy_from_slice(value);
        }
        self.records.body_mut(at)[..VERSION_BYTES].copy_from_slice(&version.to_le_bytes());
        self.weight += self.entry_weight(at);
        value.len()
    }

    /// The common case of [`Leaf::put`]: no value of the leaf is long, nor is this one.
    fn put_short(&mut self, at: usize, version: u64, value: &[u8]) -> usize {
        let bytes = VERSION_BYTES + value.len();
        let (old_bytes, body) = self.records.replace_body(at, bytes);
        let (place, rest) = body.split_at_mut(VERSION_BYTES);
        place.copy_from_slice(&version.to_le_bytes());
        rest.copy_from_slice(value);
        self.weight = self.weight + bytes - old_bytes;
        value.len()
    }

    fn share(&mut self, at: usize, version: u64, shared: &Shared) -> usize {
        if !is_long(shared.bytes.len()) {
            return self.put(at, version, &shared.bytes);
        }
        self.weight -= self.entry_weight(at);
        self.set_long(at, LongValue::shared(shared.clone()));
        let body = self.records.resize_body(at, VERSION_BYTES);
        body.copy_from_slice(&version.to_le_bytes());
        self.weight += self.entry_weight(at);
        shared.bytes.len()
    }

    fn put_long(&mut self, at: usize, value: &[u8]) {
        if let Some(Some(long)) = self.long.get_mut(at)
            && let Some(LongValue { content: Content::Own(bytes), cache }) = Arc::get_mut(long)
            && bytes.capacity() <= 2 * value.len() + SPARE_BYTES_MAX
        {
            bytes.clear();
            bytes.extend_from_slice(value);
            cache.forget();
            return;
        }
        self.set_long(at, LongValue::own(value.to_vec()));
    }

    fn append_value(&mut self, at: usize, version: u64, suffix: &[u8]) -> usize {
        self.weight -= self.entry_weight(at);
        let length = self.entry(at).value.len() + suffix.len();
        if let Some(Some(long)) = self.long.get_mut(at) {
            Arc::make_mut(long).append(suffix);
        } else if is_long(length) {
            let mut bytes = Vec::with_capacity(length);
            bytes.extend_from_slice(self.entry(at).value);
            bytes.extend_from_slice(suffix);
            self.set_long(at, LongValue::own(bytes));
            self.records.resize_body(at, VERSION_BYTES);
        } else {
            let body = self.records.resize_body(at, VERSION_BYTES + length);
            let start = body.len() - suffix.len();
            body[start..].copy_from_slice(suffix);
        }
        self.records.body_mut(at)[..VERSION_BYTES].copy_from_slice(&version.to_le_bytes());
        self.weight += self.entry_weight(at);
        length
    }

    fn remove(&mut self, at: usize) {
        self.weight -= self.entry_weight(at);
        self.records.remove(at);
        if !self.long.is_empty() {
            self.long.remove(at);
        }
    }

    /// Moves the upper half by weight into a new leaf; returns it with the shortest key that separates both.
    pub(crate) fn split(&mut self) -> (Vec<u8>, Self) {
        let mut at = 0;
        let mut lower_weight = 0;
        while lower_weight * 2 < self.weight {
            lower_weight += self.entry_weight(at);
            at += 1;
        }
        let long = if self.long.is_empty() { Vec::new() } else { self.long.split_off(at) };
        let upper = Self {
            cache: Cache::default(),
            weight: self.weight - lower_weight,
            records: self.records.split_off(at),
            long,
        };
        self.weight = lower_weight;
        self.cache.forget();
        let first = upper.key(0);
        let shared = common_bytes(self.key(self.len() - 1), first);
        (first[..=shared].to_vec(), upper)
    }

    /// Takes over the entries of the next leaf.
    pub(crate) fn join(&mut self, next: Self) {
        if !self.long.is_empty() || !next.long.is_empty() {
            self.long.resize(self.len(), None);
            self.long.extend(next.long);
            self.long.resize(self.len() + next.records.len(), None);
        }
        self.records.append(&next.records);
        self.weight += next.weight;
        self.cache.forget();
    }

    /// Appends the leaf's page: what its digest is of, and what catch-up will transfer.
    ///
    /// tag ‖ count u16 ‖ per entry: key length u16 ‖ version u64 ‖ kind u8 ‖ value length u32 ‖ key ‖ value,
    /// or the value's digest where it is long. Numbers are little-endian.
    pub(crate) fn encode(&self, page: &mut Vec<u8>) {
        page.push(Domain::TreeLeaf as u8);
        page.extend_from_slice(&count_bytes(self.len()));
        for at in 0..self.len() {
            let key = self.key(at);
            let entry = self.entry(at);
            let length = u32::try_from(entry.value.len()).expect("invariant: values are at most 1 MiB");
            let long = self.long_at(at);
            page.extend_from_slice(&count_bytes(key.len()));
            page.extend_from_slice(&entry.version.to_le_bytes());
            page.push(if long.is_some() { BY_DIGEST } else { INLINE });
            page.extend_from_slice(&length.to_le_bytes());
            page.extend_from_slice(key);
            match long {
                Some(long) => page.extend_from_slice(&long.digest().0),
                None => page.extend_from_slice(entry.value),
            }
        }
    }

    /// The length of the page.
    pub(crate) fn page_bytes(&self) -> usize {
        PAGE_HEAD_BYTES + self.weight + self.len() * ENTRY_HEAD_BYTES - self.len() * ENTRY_WEIGHT
    }

    /// The long values in the order of their entries.
    pub(crate) fn long_values(&self) -> impl Iterator<Item = &Arc<LongValue>> {
        self.long.iter().flatten()
    }

    /// The long value of the entry at `at`, if it has one.
    pub(crate) fn long_value(&self, at: usize) -> Option<&Arc<LongValue>> {
        self.long.get(at)?.as_ref()
    }

    /// The leaf that has this page, and the long values that it still lacks. Takes the canonical form alone.
    pub(crate) fn decode(page: &[u8]) -> Result<(Self, Vec<MissingValue>), PageFault> {
        let mut reader = Reader::new(page);
        if reader.byte()? != Domain::TreeLeaf as u8 {
            return Err(PageFault::Kind);
        }
        let count = usize::from(reader.u16()?);
        if count * ENTRY_WEIGHT > LEAF_WEIGHT_MAX {
            return Err(PageFault::Weight);
        }
        let mut leaf = Self { records: Records::with_room(count, page.len()), ..Self::default() };
        let mut missing = Vec::new();
        let mut last: Option<&[u8]> = None;
        for at in 0..count {
            let key_bytes = usize::from(reader.u16()?);
            let version = reader.array::<VERSION_BYTES>()?;
            let kind = reader.byte()?;
            let value_bytes = reader.u32()?;
            if key_bytes > TREE_KEY_BYTES_MAX || value_bytes as usize > LONG_BYTES_MAX {
                return Err(PageFault::Length);
            }
            let key = reader.bytes(key_bytes)?;
            if last.is_some_and(|last| last >= key) {
                return Err(PageFault::Order);
            }
            last = Some(key);
            let long = is_long(value_bytes as usize);
            if kind != if long { BY_DIGEST } else { INLINE } {
                return Err(PageFault::Kind);
            }
            let inline = if long {
                let digest = Digest(reader.array()?);
                missing.push(MissingValue { entry: at, digest, bytes: value_bytes });
                &[][..]
            } else {
                reader.bytes(value_bytes as usize)?
            };
            leaf.weight += ENTRY_WEIGHT + key_bytes + if long { DIGEST_BYTES } else { inline.len() };
            if leaf.weight > LEAF_WEIGHT_MAX {
                return Err(PageFault::Weight);
            }
            let body = leaf.records.push_body(key, VERSION_BYTES + inline.len());
            body[..VERSION_BYTES].copy_from_slice(&version);
            body[VERSION_BYTES..].copy_from_slice(inline);
        }
        reader.end()?;
        leaf.records.index();
        Ok((leaf, missing))
    }

    /// Gives the leaf a long value that [`Leaf::decode`] said is missing.
    pub(crate) fn supply(&mut self, at: usize, value: Arc<LongValue>) {
        self.set_long(at, value);
    }

    fn entry_weight(&self, at: usize) -> usize {
        let value = match self.long_at(at) {
            Some(_) => DIGEST_BYTES,
            None => self.records.body(at).len() - VERSION_BYTES,
        };
        ENTRY_WEIGHT + self.key(at).len() + value
    }

    fn long_at(&self, at: usize) -> Option<&LongValue> {
        self.long.get(at)?.as_deref()
    }

    fn set_long(&mut self, at: usize, value: Arc<LongValue>) {
        self.long.resize(self.records.len(), None);
        self.long[at] = Some(value);
    }

    fn clear_long(&mut self, at: usize) {
        if let Some(long) = self.long.get_mut(at) {
            *long = None;
        }
    }

    pub(crate) fn check_invariants(&self) {
        self.records.check_invariants();
        assert!(self.long.is_empty() || self.long.len() == self.len());
        assert_eq!(self.weight, (0..self.len()).map(|at| self.entry_weight(at)).sum::<usize>());
        for at in 0..self.len() {
            assert_eq!(self.long_at(at).is_some(), is_long(self.entry(at).value.len()), "place of a value");
            assert!(self.long_at(at).is_none() || self.records.body(at).len() == VERSION_BYTES);
        }
    }
}

impl LongValue {
    pub(crate) fn own(bytes: Vec<u8>) -> Arc<Self> {
        Arc::new(Self { content: Content::Own(bytes), cache: Cache::default() })
    }

    fn shared(shared: Shared) -> Arc<Self> {
        Arc::new(Self { content: Content::Shared(shared), cache: Cache::default() })
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        match &self.content {
            Content::Own(bytes) => bytes,
            Content::Shared(shared) => &shared.bytes,
        }
    }

    fn append(&mut self, suffix: &[u8]) {
        match &mut self.content {
            Content::Own(bytes) => bytes.extend_from_slice(suffix),
            Content::Shared(shared) => self.content = Content::Own([&shared.bytes[..], suffix].concat()),
        }
        self.cache.forget();
    }

    /// The digest, from the cache or from the bytes.
    pub(crate) fn digest(&self) -> Digest {
        self.cache.digest_or(|| Digest::of(Domain::TreeValue, self.bytes()))
    }
}

/// Where a value stands follows from its length alone, so that equal contents have equal pages.
fn is_long(value_bytes: usize) -> bool {
    value_bytes > INLINE_BYTES_MAX
}

/// A count or key length in two little-endian bytes.
pub(crate) fn count_bytes(count: usize) -> [u8; 2] {
    u16::try_from(count).expect("invariant: counts and keys of a node fit 16 bits").to_le_bytes()
}
