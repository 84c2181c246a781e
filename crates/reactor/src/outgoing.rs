//! What waits to be sent on one connection, and the one send in flight.
//!
//! Two stages take turns. Messages are staged in one while the kernel reads the other; when the flying stage is
//! sent, they swap and keep their memory. Small messages lie one after the other in one buffer, so that a burst of
//! them is one contiguous piece; shared chunks are pieces of their own, and order is kept.

use std::collections::VecDeque;
use std::os::fd::RawFd;

use io_uring::{opcode, squeue, types};

use crate::chunk::Chunk;

/// Pieces of one send operation.
const PIECES_MAX: usize = 64;
/// Bytes of one send operation on a connection that has bursts all the time.
const SEND_BYTES_MAX: usize = 1 << 20;
/// The same for others: a send ends when all of it is taken, and how much is taken of a slow one must be seen meanwhile.
const SEND_BYTES_MAX_ELSE: usize = 128 << 10;
/// Memory that a connection keeps for its next burst, in each of two stages; more than that is given back once it was
/// sent. An idle connection has no more than this, and there may be many.
const KEPT_BYTES: usize = 16 << 10;
/// The same for a connection that has bursts all the time.
const KEPT_BYTES_OF_BURSTS: usize = 1 << 20;
/// One entry of the lists of pieces is kept for so many bytes.
const BYTES_PER_PIECE: usize = 1024;

/// WAITALL, because a short send would need another turn; NOSIGNAL, because a dead peer is no reason to die.
const SEND_FLAGS: i32 = libc::MSG_WAITALL | libc::MSG_NOSIGNAL;

#[derive(Debug)]
enum Piece {
    /// A range of the stage's own bytes.
    Copied {
        start: usize,
        length: usize,
    },
    Shared(Chunk),
}

#[derive(Debug, Default)]
struct Stage {
    bytes: Vec<u8>,
    pieces: VecDeque<Piece>,
    /// Bytes of all pieces not yet sent.
    length: usize,
}

impl Stage {
    fn clear(&mut self, kept_bytes: usize) {
        debug_assert!(self.length == 0);
        self.bytes.clear();
        self.bytes.shrink_to(kept_bytes);
        self.pieces.clear();
        self.pieces.shrink_to(kept_bytes / BYTES_PER_PIECE);
    }
}

/// What SENDMSG reads, boxed so that it does not move while the kernel may look.
struct Request {
    pieces: [libc::iovec; PIECES_MAX],
    header: libc::msghdr,
}

/// The outgoing side of one connection.
///
/// Invariant: while `in_flight` is set, neither `flying` nor `request` is changed, and the value is not dropped; the
/// kernel reads from both. The heap memory of `flying.bytes`, of the chunks and of `request` does not move when this
/// struct does.
#[derive(Default)]
pub(crate) struct Outgoing {
    staged: Stage,
    flying: Stage,
    /// Bytes of the first flying piece that are already sent.
    offset: usize,
    /// Bytes that the send in flight covers.
    in_flight: Option<usize>,
    /// Bytes that the kernel has taken, since the beginning.
    taken: u64,
    request: Option<Box<Request>>,
    has_bursts: bool,
}

impl Outgoing {
    /// From now on the memory of a burst is kept for the next one.
    pub(crate) fn expect_bursts(&mut self) {
        self.has_bursts = true;
    }

    pub(crate) fn copy(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let start = self.staged.bytes.len();
        self.staged.bytes.extend_from_slice(bytes);
        self.staged.length += bytes.len();
        match self.staged.pieces.back_mut() {
            Some(Piece::Copied { length, .. }) => *length += bytes.len(),
            _ => self.staged.pieces.push_back(Piece::Copied { start, length: bytes.len() }),
        }
    }

    pub(crate) fn share(&mut self, chunk: Chunk) {
        if chunk.is_empty() {
            return;
        }
        self.staged.length += chunk.len();
        self.staged.pieces.push_back(Piece::Shared(chunk));
    }

    /// Bytes that the kernel has not taken yet, those in flight included.
    pub(crate) fn queued_bytes(&self) -> usize {
        self.staged.length + self.flying.length
    }

    pub(crate) fn taken_bytes(&self) -> u64 {
        self.taken
    }

    pub(crate) fn is_in_flight(&self) -> bool {
        self.in_flight.is_some()
    }

    /// The next send operation, if there is something to send and nothing is in flight. From here until
    /// [`completed`](Self::completed) the memory that it names must be left alone.
    pub(crate) fn start(&mut self, socket: RawFd) -> Option<squeue::Entry> {
        if self.in_flight.is_some() || self.queued_bytes() == 0 {
            return None;
        }
        if self.flying.length == 0 {
            debug_assert!(self.offset == 0 && self.flying.pieces.is_empty());
            std::mem::swap(&mut self.staged, &mut self.flying);
        }
        let socket = types::Fd(socket);
        let most = if self.has_bursts { SEND_BYTES_MAX } else { SEND_BYTES_MAX_ELSE };
        let (first_pointer, first_length) = self.piece(0, most)?;
        if self.flying.pieces.len() == 1 || first_length == most {
            self.in_flight = Some(first_length);
            let length = u32::try_from(first_length).expect("invariant: a send is at most 1 MiB");
            return Some(opcode::Send::new(socket, first_pointer, length).flags(SEND_FLAGS).build());
        }
        let header = self.gather(most);
        let flags = u32::try_from(SEND_FLAGS).expect("invariant: message flags are positive");
        Some(opcode::SendMsg::new(socket, header).flags(flags).build())
    }

    /// Address and length of what is left of a flying piece, at most `limit` bytes.
    fn piece(&self, index: usize, limit: usize) -> Option<(*const u8, usize)> {
        let bytes = match self.flying.pieces.get(index)? {
            Piece::Copied { start, length } => &self.flying.bytes[*start..*start + *length],
            Piece::Shared(chunk) => chunk,
        };
        let bytes = if index == 0 { &bytes[self.offset..] } else { bytes };
        Some((bytes.as_ptr(), bytes.len().min(limit)))
    }

    /// Fills the request with as many pieces as the limits allow, of `most` bytes together.
    fn gather(&mut self, most: usize) -> *const libc::msghdr {
        let mut request = self.request.take().unwrap_or_else(Request::empty);
        let mut total = 0;
        let mut count = 0;
        while count < PIECES_MAX && total < most {
            let Some((pointer, length)) = self.piece(count, most - total) else { break };
            request.pieces[count] = libc::iovec { iov_base: pointer.cast_mut().cast(), iov_len: length };
            total += length;
            count += 1;
        }
        self.in_flight = Some(total);
        // The box is put in its place before any address inside it is taken, so that no later move of the owner
        // comes between.
        let request = self.request.insert(request);
        request.header.msg_iov = request.pieces.as_mut_ptr();
        request.header.msg_iovlen = count as _;
        &raw const request.header
    }

    /// Takes note that the send in flight is over and `sent` bytes of it were taken. Frees chunks that are sent.
    pub(crate) fn completed(&mut self, sent: usize) {
        let asked = self.in_flight.take().expect("invariant: a send completes once");
        assert!(sent <= asked, "invariant: the kernel sends no more than it was asked to");
        self.flying.length -= sent;
        self.taken += sent as u64;
        let mut left = sent;
        while left > 0 {
            let length = match self.flying.pieces.front() {
                Some(Piece::Copied { length, .. }) => *length,
                Some(Piece::Shared(chunk)) => chunk.len(),
                None => unreachable!("invariant: the pieces hold as many bytes as the stage says"),
            };
            let rest = length - self.offset;
            if left < rest {
                self.offset += left;
                return;
            }
            left -= rest;
            self.offset = 0;
            self.flying.pieces.pop_front();
        }
        if self.flying.length == 0 {
            self.flying.clear(if self.has_bursts { KEPT_BYTES_OF_BURSTS } else { KEPT_BYTES });
        }
    }
}

impl Request {
    fn empty() -> Box<Request> {
        let nothing = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        Box::new(Request {
            pieces: [nothing; PIECES_MAX],
            // SAFETY: msghdr is a C struct of integers and pointers, for which all zeroes is a valid value: no
            // name, no pieces, no control data.
            header: unsafe { std::mem::zeroed() },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOCKET: RawFd = 0;

    /// What the send in flight would put on the wire.
    fn flight(outgoing: &Outgoing) -> Vec<u8> {
        let mut left = outgoing.in_flight.unwrap();
        let mut bytes = Vec::new();
        let mut index = 0;
        while left > 0 {
            let (pointer, length) = outgoing.piece(index, left).unwrap();
            // SAFETY: the piece points into memory that `outgoing` owns, which is borrowed here.
            bytes.extend_from_slice(unsafe { std::slice::from_raw_parts(pointer, length) });
            left -= length;
            index += 1;
        }
        bytes
    }

    #[test]
    fn small_messages_are_one_piece() {
        let mut outgoing = Outgoing::default();
        assert!(outgoing.start(SOCKET).is_none());
        for number in 0..100u8 {
            outgoing.copy(&[number]);
        }
        assert!(outgoing.start(SOCKET).is_some());
        assert_eq!(outgoing.flying.pieces.len(), 1);
        assert_eq!(flight(&outgoing), (0..100).collect::<Vec<u8>>());
        outgoing.copy(b"later");
        assert!(outgoing.start(SOCKET).is_none(), "only one send is in flight");
        assert_eq!(outgoing.queued_bytes(), 105);
        outgoing.completed(100);
        assert!(outgoing.start(SOCKET).is_some());
        assert_eq!(flight(&outgoing), b"later");
        outgoing.completed(5);
        assert_eq!(outgoing.queued_bytes(), 0);
    }

    #[test]
    fn order_survives_mixed_pieces_and_short_sends() {
        let mut random: u64 = 7;
        let mut next = move |limit: usize| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            usize::try_from(random >> 33).unwrap() % limit
        };
        let (mut outgoing, mut expected, mut sent) = (Outgoing::default(), Vec::new(), Vec::new());
        for _ in 0..3000 {
            for _ in 0..next(80) {
                let bytes: Vec<u8> = (0..next(50)).map(|_| u8::try_from(next(256)).unwrap()).collect();
                expected.extend_from_slice(&bytes);
                if next(2) == 0 { outgoing.copy(&bytes) } else { outgoing.share(Chunk::new(bytes)) }
            }
            if outgoing.start(SOCKET).is_some() {
                let bytes = flight(&outgoing);
                let taken = next(bytes.len() + 1);
                sent.extend_from_slice(&bytes[..taken]);
                outgoing.completed(taken);
            }
            assert_eq!(outgoing.queued_bytes(), expected.len() - sent.len());
            assert_eq!(outgoing.taken_bytes(), sent.len() as u64);
        }
        while outgoing.start(SOCKET).is_some() {
            let bytes = flight(&outgoing);
            sent.extend_from_slice(&bytes);
            outgoing.completed(bytes.len());
        }
        assert!(sent == expected);
    }

    #[test]
    fn a_send_is_bounded_in_pieces_and_bytes() {
        for (has_bursts, most) in [(true, SEND_BYTES_MAX), (false, SEND_BYTES_MAX_ELSE)] {
            let mut outgoing = Outgoing { has_bursts, ..Outgoing::default() };
            for _ in 0..PIECES_MAX + 1 {
                outgoing.share(Chunk::new(vec![1]));
            }
            outgoing.share(Chunk::new(vec![2; most + 5]));
            let mut sizes = Vec::new();
            while outgoing.start(SOCKET).is_some() {
                let size = flight(&outgoing).len();
                sizes.push(size);
                outgoing.completed(size);
            }
            assert_eq!(sizes, [PIECES_MAX, most, 6]);
        }
    }

    /// Has bursts of small and of shared pieces leave by both stages.
    fn burst(outgoing: &mut Outgoing) {
        for _ in 0..4 {
            for _ in 0..3000 {
                outgoing.copy(&[0; 1000]);
                outgoing.share(Chunk::new(vec![1]));
            }
            while outgoing.start(SOCKET).is_some() {
                outgoing.completed(outgoing.in_flight.unwrap());
            }
        }
    }

    fn memory(outgoing: &Outgoing) -> usize {
        let of_stage =
            |stage: &Stage| stage.bytes.capacity() + stage.pieces.capacity() * std::mem::size_of::<Piece>();
        of_stage(&outgoing.staged) + of_stage(&outgoing.flying) + std::mem::size_of::<Request>()
    }

    #[test]
    fn memory_of_a_burst_is_kept_up_to_a_limit() {
        let mut outgoing = Outgoing::default();
        burst(&mut outgoing);
        assert!((1024..=40 << 10).contains(&memory(&outgoing)), "{}", memory(&outgoing));
        outgoing.expect_bursts();
        burst(&mut outgoing);
        assert_eq!(outgoing.flying.bytes.capacity(), KEPT_BYTES_OF_BURSTS);
        assert_eq!(outgoing.staged.bytes.capacity(), KEPT_BYTES_OF_BURSTS);
    }
}
