//! Sorted records with byte keys in one heap: what leaves and inner nodes of the tree are made of.
//!
//! A search runs over `heads` alone: the eight key bytes after those that all keys share, as big-endian
//! numbers, so it is a binary search over one dense array whatever the keys look like. Only records with
//! an equal head are compared in full. A body that keeps its length is overwritten in place; one that
//! outgrows its room moves to the end of the heap, and the heap is compacted when too much of it is dead.
//! Nothing of this layout is visible in digests: encodings are written in key order from the contents.

use std::cmp::Ordering;

/// Dead bytes that are tolerated besides half of the live ones.
const DEAD_BYTES_FREE: usize = 1024;
/// Bodies have room in steps of so many bytes, so that small growth stays in place.
const ROOM_STEP: usize = 8;
/// Room that a shrunken body may keep.
const ROOM_SPARE_MAX: usize = 64;

/// Where a record is. Heaps stay far below 64 KiB: a node's weight bounds its contents.
#[derive(Clone, Copy, Debug)]
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
    heads: Vec<u64>,
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

    /// The record with `key`, or where it would be inserted.
    pub(crate) fn find(&self, key: &[u8]) -> Result<usize, usize> {
        let head = head_of(key, self.common);
        let low = count_below(&self.heads, head);
        let is_candidate = self.heads.get(low) == Some(&head);
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
                let equal = self.heads[low..].partition_point(|other| *other == head);
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
        self.heads.insert(at, head_of(key, self.common));
        self.slots.insert(at, slot);
        self.body_mut(at)
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
        self.heads.remove(at);
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

    /// Appends a record without its head; [`Records::index`] follows.
    fn push(&mut self, key: &[u8], body: &[u8]) {
        let slot = self.place(key, body.len());
        let start = usize::from(slot.offset) + key.len();
        self.heap[start..start + body.len()].copy_from_slice(body);
        self.slots.push(slot);
    }

    /// Computes the shared bytes and all heads anew.
    fn index(&mut self) {
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
        assert_eq!(self.heads.len(), self.slots.len());
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

fn head_of(key: &[u8], common: usize) -> u64 {
    let rest = key.get(common..).unwrap_or_default();
    match rest.first_chunk() {
        Some(head) => u64::from_be_bytes(*head),
        None => {
            let mut head = [0; 8];
            head[..rest.len()].copy_from_slice(rest);
            u64::from_be_bytes(head)
        }
    }
}

/// The number of `heads`, which ascend, that are below `head`. One of every eight is looked at, then the
/// eight around it: unlike the steps of a binary search these loads do not wait for each other, and a leaf
/// is seldom in the processor's cache.
fn count_below(heads: &[u64], head: u64) -> usize {
    let blocks = heads.iter().skip(7).step_by(8).filter(|last| **last < head).count();
    let rest = &heads[blocks * 8..];
    blocks * 8 + rest.iter().take(8).filter(|other| **other < head).count()
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
