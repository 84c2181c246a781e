//! Sorted records with byte keys in one heap: what leaves and inner nodes of the tree are made of.
//!
//! A search runs over `heads` alone: the four key bytes after those that all keys share, as numbers in the
//! order of the keys, so it runs over one dense array of a few cache lines whatever the keys look like. Only
//! records with an equal head are compared in full. A body that keeps its length is overwritten in place; one that
//! outgrows its room moves to the end of the heap, and the heap is compacted when too much of it is dead.
//! Nothing of this layout is visible in digests: encodings are written in key order from the contents.

use std::cmp::Ordering;

const CACHE_LINE_BYTES: usize = 64;
/// Dead bytes that are tolerated besides half of the live ones.
const DEAD_BYTES_FREE: usize = 1024;
/// Bodies have room in steps of so many bytes, so that small growth stays in place.
const ROOM_STEP: usize = 8;
/// Room that a shrunken body may keep.
const ROOM_SPARE_MAX: usize = 64;

/// The key bytes after the shared ones, big-endian and with the highest bit turned over: vector instructions of
/// the baseline processor compare signed numbers of 32 bits and no others.
type Head = i32;

/// What stands behind the last head: no head is above it.
const NO_HEAD: Head = Head::MAX;
/// Heads are looked at in steps of so many, without a rest to be looked at one by one.
const HEADS_STEP: usize = 8;
/// So many heads are all looked at; of more, half is left out as long as they are more.
const HEADS_SCANNED_MAX: usize = 64;

/// Where a record is. Heaps stay far below 64 KiB: a node's weight bounds its contents.
#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    offset: u16,
    key_bytes: u16,
    body_bytes: u16,
    room: u16,
}

/// Records in ascending key order, each a key and a body.
#[derive(Clone, Debug, Default)]
pub(crate) struct Records {
    /// The number of leading bytes that all keys surely share. May be less than they do share.
    common: usize,
    /// One of each record, then [`NO_HEAD`] up to a multiple of [`HEADS_STEP`].
    heads: Vec<Head>,
    slots: Vec<Slot>,
    heap: Vec<u8>,
    /// Bytes of the heap that belong to records, their unused room included.
    live_bytes: usize,
}

impl Records {
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(crate) fn key(&self, at: usize) -> &[u8] {
        let slot = self.slots[at];
        let start = usize::from(slot.offset);
        &self.heap[start..start + usize::from(slot.key_bytes)]
    }

    pub(crate) fn body(&self, at: usize) -> &[u8] {
        let slot = self.slots[at];
        let start = usize::from(slot.offset) + usize::from(slot.key_bytes);
        &self.heap[start..start + usize::from(slot.body_bytes)]
    }

    pub(crate) fn body_mut(&mut self, at: usize) -> &mut [u8] {
        let slot = self.slots[at];
        let start = usize::from(slot.offset) + usize::from(slot.key_bytes);
        &mut self.heap[start..start + usize::from(slot.body_bytes)]
    }

    /// Where a record with `key` is, if there is one and no other has its head. Reads no record.
    pub(crate) fn guess(&self, key: &[u8]) -> usize {
        count_below::<HEADS_SCANNED_MAX>(&self.heads, head_of(key, self.common))
    }

    /// Whether the record at `at`, if there is one, has this key.
    pub(crate) fn is_at(&self, at: usize, key: &[u8]) -> bool {
        at < self.len() && self.key(at) == key
    }

    /// How many records have a key up to `key`, itself included.
    pub(crate) fn count_upto(&self, key: &[u8]) -> usize {
        let head = head_of(key, self.common);
        let low = count_below::<HEADS_STEP>(&self.heads, head);
        let is_between = low == self.len() || self.heads[low] != head;
        if is_between && self.shares(key) {
            return low;
        }
        match self.find(key) {
            Ok(at) => at + 1,
            Err(at) => at,
        }
    }

    /// Whether the key begins with the bytes that all others share.
    fn shares(&self, key: &[u8]) -> bool {
        !self.slots.is_empty() && key.get(..self.common) == Some(&self.key(0)[..self.common])
    }

    /// The part of the heap that holds the record, if there is one; empty otherwise.
    pub(crate) fn span(&self, at: usize) -> (usize, usize) {
        let slot = self.slots.get(at).copied().unwrap_or_default();
        (usize::from(slot.offset), usize::from(slot.key_bytes) + usize::from(slot.body_bytes))
    }

    /// Reads a byte of each cache line of a part of the heap.
    pub(crate) fn touch_span(&self, (start, bytes): (usize, usize)) -> usize {
        let bytes = &self.heap[start..start + bytes];
        let mut sum = bytes.last().map_or(0, |byte| usize::from(*byte));
        let mut at = 0;
        while at < bytes.len() {
            sum += usize::from(bytes[at]);
            at += CACHE_LINE_BYTES;
        }
        sum
    }

    /// The record with `key`, or where it would be inserted.
    pub(crate) fn find(&self, key: &[u8]) -> Result<usize, usize> {
        let head = head_of(key, self.common);
        let low = count_below::<HEADS_SCANNED_MAX>(&self.heads, head);
        let is_candidate = low < self.len() && self.heads[low] == head;
        // The common case first: one full comparison also vouches for the shared bytes.
        if is_candidate && self.key(low) == key {
            return Ok(low);
        }
        if self.slots.is_empty() {
            return Err(0);
        }
        let shared = &key[..key.len().min(self.common)];
        match shared.cmp(&self.key(0)[..self.common]) {
            Ordering::Less => Err(0),
            Ordering::Greater => Err(self.len()),
            Ordering::Equal if is_candidate => {
                let equal = self.heads[low..self.len()].partition_point(|other| *other == head);
                self.find_within(key, low, low + equal)
            }
            Ordering::Equal => Err(low),
        }
    }

    fn find_within(&self, key: &[u8], mut low: usize, mut high: usize) -> Result<usize, usize> {
        while low < high {
            let middle = usize::midpoint(low, high);
            match self.key(middle).cmp(key) {
                Ordering::Less => low = middle + 1,
                Ordering::Greater => high = middle,
                Ordering::Equal => return Ok(middle),
            }
        }
        Err(low)
    }

    /// Inserts a record at the place that [`Records::find`] gave; returns its body, filled with zeros.
    pub(crate) fn insert(&mut self, at: usize, key: &[u8], body_bytes: usize) -> &mut [u8] {
        self.narrow_common(at, key);
        let slot = self.place(key, body_bytes);
        let count = self.slots.len();
        self.slots.insert(at, slot);
        self.pad_heads();
        self.heads.copy_within(at..count, at + 1);
        self.heads[at] = head_of(key, self.common);
        self.body_mut(at)
    }

    /// Gives a record a body of another length, of whatever bytes; returns the old length and the body.
    pub(crate) fn replace_body(&mut self, at: usize, body_bytes: usize) -> (usize, &mut [u8]) {
        let old_bytes = usize::from(self.slots[at].body_bytes);
        let body = if body_bytes == old_bytes { self.body_mut(at) } else { self.resize_body(at, body_bytes) };
        (old_bytes, body)
    }

    /// Gives a record a body of another length, keeping what fits of the old one; returns the body.
    pub(crate) fn resize_body(&mut self, at: usize, body_bytes: usize) -> &mut [u8] {
        let slot = self.slots[at];
        if body_bytes <= usize::from(slot.room) {
            if usize::from(slot.room) - body_bytes > ROOM_SPARE_MAX {
                let room = room_for(body_bytes);
                self.live_bytes -= usize::from(slot.room) - room;
                self.slots[at].room = narrow(room);
            }
            self.slots[at].body_bytes = narrow(body_bytes);
            return self.body_mut(at);
        }
        self.make_space(usize::from(slot.key_bytes) + room_for(body_bytes));
        let old = self.slots[at];
        let start = usize::from(old.offset);
        let offset = self.heap.len();
        let kept = usize::from(old.key_bytes) + usize::from(old.body_bytes);
        self.heap.extend_from_within(start..start + kept);
        let room = room_for(body_bytes);
        self.heap.resize(offset + usize::from(old.key_bytes) + room, 0);
        self.live_bytes += room - usize::from(old.room);
        self.slots[at] = Slot {
            offset: narrow(offset),
            key_bytes: old.key_bytes,
            body_bytes: narrow(body_bytes),
            room: narrow(room),
        };
        self.body_mut(at)
    }

    pub(crate) fn remove(&mut self, at: usize) {
        let slot = self.slots.remove(at);
        self.heads.copy_within(at + 1.., at);
        self.pad_heads();
        self.live_bytes -= usize::from(slot.key_bytes) + usize::from(slot.room);
        if self.slots.is_empty() {
            self.heap.clear();
            self.common = 0;
        }
    }

    /// Moves the records from `at` on into new ones.
    pub(crate) fn split_off(&mut self, at: usize) -> Self {
        let upper = self.copy(at, self.len());
        *self = self.copy(0, at);
        upper
    }

    /// Appends records, all of which have greater keys.
    pub(crate) fn append(&mut self, other: &Self) {
        for at in 0..other.len() {
            self.push(other.key(at), other.body(at));
        }
        self.index();
    }

    /// Appends one record with a key greater than all others.
    pub(crate) fn append_one(&mut self, key: &[u8]) {
        self.insert(self.len(), key, 0);
    }

    fn copy(&self, from: usize, to: usize) -> Self {
        let mut copy = Self::default();
        let bytes: usize = self.slots[from..to]
            .iter()
            .map(|slot| usize::from(slot.key_bytes) + room_for(usize::from(slot.body_bytes)))
            .sum();
        copy.heap.reserve(bytes + bytes / 4);
        copy.slots.reserve(self.len());
        copy.heads.reserve(self.len());
        for at in from..to {
            copy.push(self.key(at), self.body(at));
        }
        copy.index();
        copy
    }

    /// Records without heads, with room for so many and so many bytes of keys and bodies; [`Records::push_body`] and
    /// [`Records::index`] follow.
    pub(crate) fn with_room(count: usize, bytes: usize) -> Self {
        Self {
            slots: Vec::with_capacity(count),
            heap: Vec::with_capacity(bytes + count * ROOM_STEP),
            ..Self::default()
        }
    }

    /// Appends a record with a greater key than all others, without its head; returns its body, filled with zeros.
    pub(crate) fn push_body(&mut self, key: &[u8], body_bytes: usize) -> &mut [u8] {
        let slot = self.place(key, body_bytes);
        self.slots.push(slot);
        self.body_mut(self.len() - 1)
    }

    /// Appends a record without its head; [`Records::index`] follows.
    fn push(&mut self, key: &[u8], body: &[u8]) {
        self.push_body(key, body.len()).copy_from_slice(body);
    }

    /// Computes the shared bytes and all heads anew.
    pub(crate) fn index(&mut self) {
        self.common = match self.len() {
            0 => 0,
            count => common_bytes(self.key(0), self.key(count - 1)),
        };
        self.fill_heads();
    }

    fn fill_heads(&mut self) {
        let mut heads = std::mem::take(&mut self.heads);
        heads.clear();
        heads.extend((0..self.len()).map(|at| head_of(self.key(at), self.common)));
        self.heads = heads;
        self.pad_heads();
    }

    /// Makes the heads as many as they should be for the slots that there are.
    fn pad_heads(&mut self) {
        self.heads.resize(self.len().next_multiple_of(HEADS_STEP), NO_HEAD);
        self.heads[self.slots.len()..].fill(NO_HEAD);
    }

    /// Lowers the number of shared bytes when `key` at one of the ends shares fewer. A key between others
    /// shares what those share.
    fn narrow_common(&mut self, at: usize, key: &[u8]) {
        if self.slots.is_empty() {
            self.common = key.len();
            return;
        }
        let other = match at {
            0 => self.key(self.len() - 1),
            _ if at == self.len() => self.key(0),
            _ => return,
        };
        let common = common_bytes(key, other);
        if common < self.common {
            self.common = common;
            self.fill_heads();
        }
    }

    /// Puts a key with room for a body at the end of the heap.
    fn place(&mut self, key: &[u8], body_bytes: usize) -> Slot {
        let room = room_for(body_bytes);
        self.make_space(key.len() + room);
        let offset = self.heap.len();
        self.heap.extend_from_slice(key);
        self.heap.resize(offset + key.len() + room, 0);
        self.live_bytes += key.len() + room;
        Slot {
            offset: narrow(offset),
            key_bytes: narrow(key.len()),
            body_bytes: narrow(body_bytes),
            room: narrow(room),
        }
    }

    /// Compacts the heap when too much of it is dead, so that its size follows from its contents.
    fn make_space(&mut self, bytes: usize) {
        let dead_bytes = self.heap.len() - self.live_bytes;
        if dead_bytes <= self.live_bytes / 2 + DEAD_BYTES_FREE {
            return;
        }
        let mut heap = Vec::with_capacity(self.live_bytes + bytes + DEAD_BYTES_FREE);
        for slot in &mut self.slots {
            let start = usize::from(slot.offset);
            slot.offset = narrow(heap.len());
            heap.extend_from_slice(
                &self.heap[start..start + usize::from(slot.key_bytes) + usize::from(slot.room)],
            );
        }
        self.heap = heap;
    }

    /// Panics when the records contradict themselves.
    pub(crate) fn check_invariants(&self) {
        assert_eq!(self.heads.len(), self.slots.len().next_multiple_of(HEADS_STEP));
        assert!(self.heads[self.len()..].iter().all(|head| *head == NO_HEAD));
        let live: usize =
            self.slots.iter().map(|slot| usize::from(slot.key_bytes) + usize::from(slot.room)).sum();
        assert_eq!(live, self.live_bytes, "live bytes");
        assert!(live <= self.heap.len());
        for at in 0..self.len() {
            assert!(self.slots[at].body_bytes <= self.slots[at].room);
            assert_eq!(self.heads[at], head_of(self.key(at), self.common), "head {at}");
            assert_eq!(self.key(at)[..self.common], self.key(0)[..self.common], "shared bytes");
            assert!(at == 0 || self.key(at - 1) < self.key(at), "keys ascend");
        }
    }
}

fn head_of(key: &[u8], common: usize) -> Head {
    let rest = key.get(common..).unwrap_or_default();
    let head = match rest.first_chunk() {
        Some(head) => *head,
        None => {
            let mut head = [0; 4];
            head[..rest.len()].copy_from_slice(rest);
            head
        }
    };
    (u32::from_be_bytes(head) ^ (1 << 31)).cast_signed()
}

/// The number of `heads`, which ascend, that are below `head`. Looks at all of a leaf's: unlike the steps of a
/// binary search that takes no branches and the loads do not wait for each other, and a leaf is seldom in the
/// processor's cache. Of inner nodes, which often are, first half is left out.
fn count_below<const SCANNED_MAX: usize>(mut heads: &[Head], head: Head) -> usize {
    let mut left_out = 0;
    while heads.len() > SCANNED_MAX {
        let lower = heads.len() / (2 * HEADS_STEP) * HEADS_STEP;
        let is_above = heads[lower] < head;
        left_out += if is_above { lower } else { 0 };
        let (from, to) = if is_above { (lower, heads.len()) } else { (0, lower) };
        heads = &heads[from..to];
    }
    let (steps, _) = heads.as_chunks::<HEADS_STEP>();
    // A sum in each lane: vector instructions do this without leaving their registers.
    let mut lanes = [0; HEADS_STEP];
    for step in steps {
        for (lane, other) in lanes.iter_mut().zip(step) {
            *lane += u32::from(*other < head);
        }
    }
    left_out + lanes.iter().sum::<u32>() as usize
}

/// The number of leading bytes that two keys share.
pub(crate) fn common_bytes(left: &[u8], right: &[u8]) -> usize {
    left.iter().zip(right).take_while(|(left, right)| left == right).count()
}

fn room_for(body_bytes: usize) -> usize {
    body_bytes.next_multiple_of(ROOM_STEP)
}

fn narrow(bytes: usize) -> u16 {
    u16::try_from(bytes).expect("invariant: a node's weight keeps its heap below 64 KiB")
}
