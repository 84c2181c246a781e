//! Frames: a header of 16 bytes and a payload.
//!
//! | offset | field | |
//! | --- | --- | --- |
//! | 0 | payload length | u32 |
//! | 4 | kind | u16 |
//! | 6 | format version | u16, 1 |
//! | 8 | crc32c of the payload | u32 |
//! | 12 | crc32c of bytes 0 to 11 | u32 |
//!
//! All little-endian. The checksums find accidents, not attacks: signatures, digests and the transport's
//! security do that. The header has a checksum of its own so that a length is believed only when it was
//! meant as one.

use crate::DecodeError;
use std::sync::Arc;

/// The length of a frame's header in bytes.
pub const HEADER_BYTES: usize = 16;
/// The version of the format.
pub const VERSION: u16 = 1;
/// The largest buffer that an [`Assembler`] uses again for the next frame.
const REUSED_BYTES_MAX: usize = 16 * 1024;
/// What an [`Assembler`] reserves on the word of a header. Larger frames get more as they come.
const ANNOUNCED_BYTES_MAX: usize = 64 * 1024;

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $value:literal,)*) => {
        /// What a frame carries.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u16)]
        pub enum Kind {
            $($(#[$doc])* $name = $value,)*
        }

        impl Kind {
            /// All kinds.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The kind with this number.
            pub fn from_number(number: u16) -> Result<Self, DecodeError> {
                match number {
                    $($value => Ok(Self::$name),)*
                    other => Err(DecodeError::UnknownKind(other)),
                }
            }
        }
    };
}

kinds! {
    /// Handshake, dialer to listener: who dials, and a nonce.
    Hello = 1,
    /// Handshake, listener to dialer: a nonce and a signature.
    Challenge = 2,
    /// Handshake, dialer to listener: a signature.
    Proof = 3,
    /// Handshake, listener to dialer: the connection stands.
    Welcome = 4,
    /// Handshake, listener to dialer: why it does not stand.
    Refused = 5,
    /// Client to home replica: signed operations.
    Bundle = 16,
    /// Client to replica: which session's replies this connection wants.
    Attach = 17,
    /// Replica to client: results of a bundle, or their digest.
    Reply = 18,
    /// Replica to client: a bundle was not taken; send it again later.
    Busy = 19,
    /// Client to replica: asks for a report.
    ReportRequest = 20,
    /// Replica to client: a report in JSON.
    Report = 21,
    /// Replica to client: its connection is attached, and how far the replica has executed.
    Attached = 22,
    /// A batch of bundles, from the origin of its lane.
    Batch = 32,
    /// Acknowledgements of lanes.
    LaneAcks = 33,
    /// Asks for batches by chain digest.
    FetchBatches = 34,
    /// Batches that link backwards from what was asked for.
    FetchedBatches = 35,
    /// Asks which tips of lanes are acknowledged.
    AskLanes = 36,
    /// A header proposed by the primary.
    PrePrepare = 48,
    /// A PREPARE range.
    Prepare = 49,
    /// A COMMIT.
    Commit = 50,
    /// A vote for the state after a seq.
    Checkpoint = 51,
    /// Votes of a quorum for the state after a seq.
    CheckpointCertificate = 52,
    /// What a replica has.
    Status = 53,
    /// Asks for headers by digest.
    FetchHeaders = 54,
    /// Headers that link backwards from what was asked for.
    FetchedHeaders = 55,
    /// A replica wants the view after one.
    Suspect = 56,
    /// A replica has left all views below one.
    ViewChange = 57,
    /// The primary of a view says where it begins.
    NewView = 58,
    /// Asks for pages of the state's tree by digest; peers and clients do.
    FetchPages = 64,
    /// Pages of the state's tree.
    FetchedPages = 65,
    /// Client to replica: asks for the certificate of a state whose pages it can fetch.
    FetchCertificate = 66,
    /// Replica to client: the certificate of its newest durable state.
    FetchedCertificate = 67,
}

/// A frame in borrowed memory, its checksums verified.
#[derive(Clone, Copy, Debug)]
pub struct FrameRef<'a> {
    /// What it carries.
    pub kind: Kind,
    /// The payload.
    pub payload: &'a [u8],
    /// Header and payload.
    whole: &'a [u8],
    /// The memory of a frame that was put together from pieces: whoever keeps the frame shares it.
    shared: Option<&'a Arc<Vec<u8>>>,
}

impl PartialEq for FrameRef<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.whole == other.whole
    }
}

impl Eq for FrameRef<'_> {}

/// An encoded frame, immutable and shared: one encoding serves every receiver.
#[derive(Clone, Debug)]
pub struct Frame {
    kind: Kind,
    bytes: Arc<Vec<u8>>,
}

impl Frame {
    /// Encodes a frame; `write` appends the payload.
    ///
    /// # Panics
    /// When the payload exceeds [`quorate_types::limits::FRAME_BYTES_MAX`]: senders keep their messages
    /// below it.
    #[must_use]
    pub fn encode(kind: Kind, write: impl FnOnce(&mut Vec<u8>)) -> Self {
        let mut bytes = Vec::with_capacity(256);
        encode_into(&mut bytes, kind, write);
        Self { kind, bytes: Arc::new(bytes) }
    }

    /// A frame that was received, its bytes unchanged, to be kept. What was put together from pieces is not copied
    /// once more.
    #[must_use]
    pub fn keep(frame: FrameRef<'_>) -> Self {
        // What is kept is counted by its length: memory beyond that would be nobody's.
        let fits = frame.shared.filter(|bytes| bytes.capacity() <= bytes.len() + bytes.len() / 4);
        let bytes = fits.map_or_else(|| Arc::new(frame.whole.to_vec()), Arc::clone);
        Self { kind: frame.kind, bytes }
    }

    /// What the frame carries.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Header and payload.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Header and payload, shared: what is sent is not copied.
    #[must_use]
    pub fn shared(&self) -> Arc<Vec<u8>> {
        Arc::clone(&self.bytes)
    }

    /// The payload alone.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.bytes[HEADER_BYTES..]
    }

    /// The frame as a reader sees it.
    #[must_use]
    pub fn as_frame_ref(&self) -> FrameRef<'_> {
        FrameRef { kind: self.kind, payload: self.payload(), whole: &self.bytes, shared: Some(&self.bytes) }
    }
}

impl AsRef<[u8]> for Frame {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Appends a frame to `bytes`; `write` appends the payload.
///
/// # Panics
/// As [`Frame::encode`].
pub fn encode_into(bytes: &mut Vec<u8>, kind: Kind, write: impl FnOnce(&mut Vec<u8>)) {
    let start = bytes.len();
    bytes.extend_from_slice(&[0; HEADER_BYTES]);
    write(bytes);
    let length = bytes.len() - start - HEADER_BYTES;
    assert!(length <= quorate_types::limits::FRAME_BYTES_MAX, "own {kind:?} frame of {length} bytes");
    let checksum = crc32c::crc32c(&bytes[start + HEADER_BYTES..]);
    let header = &mut bytes[start..start + HEADER_BYTES];
    header[0..4].copy_from_slice(&u32::try_from(length).expect("invariant: below 4 MiB").to_le_bytes());
    header[4..6].copy_from_slice(&(kind as u16).to_le_bytes());
    header[6..8].copy_from_slice(&VERSION.to_le_bytes());
    header[8..12].copy_from_slice(&checksum.to_le_bytes());
    let header_checksum = crc32c::crc32c(&header[..12]);
    header[12..16].copy_from_slice(&header_checksum.to_le_bytes());
}

struct HeaderFields {
    kind: Kind,
    length: usize,
    checksum: u32,
}

fn decode_header(bytes: &[u8; HEADER_BYTES], limit: usize) -> Result<HeaderFields, DecodeError> {
    let u32_at = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    if crc32c::crc32c(&bytes[..12]) != u32_at(12) {
        return Err(DecodeError::HeaderChecksum);
    }
    let version = u16::from_le_bytes([bytes[6], bytes[7]]);
    if version != VERSION {
        return Err(DecodeError::Version(version));
    }
    let kind = Kind::from_number(u16::from_le_bytes([bytes[4], bytes[5]]))?;
    let length = u32_at(0) as usize;
    if length > limit {
        return Err(DecodeError::TooLong { length, limit });
    }
    Ok(HeaderFields { kind, length, checksum: u32_at(8) })
}

/// Finds frames in a stream of bytes that arrives in pieces.
///
/// A frame that lies whole in one piece is handed out in place; only a frame that straddles pieces is
/// copied. At most one frame is buffered, and the buffer grows with what has arrived: a header alone reserves
/// no more than [`ANNOUNCED_BYTES_MAX`].
#[derive(Debug)]
pub struct Assembler {
    /// Used again for the next frame, unless somebody keeps this one.
    partial: Arc<Vec<u8>>,
    /// The frame in `partial` was handed out and goes with the next call.
    delivered: bool,
    limit: usize,
}

impl Assembler {
    /// An assembler that refuses payloads longer than `limit` bytes.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { partial: Arc::default(), delivered: false, limit }
    }

    /// Changes the limit for frames whose header has not been read yet: it rises after the handshake.
    pub fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// The memory of a frame that is not whole yet, or was handed out last.
    #[must_use]
    pub fn partial_bytes(&self) -> usize {
        if self.partial.is_empty() { 0 } else { self.partial.capacity() }
    }

    /// Gives the memory of the frame that was handed out last back, as the next call does. For those who make none for now.
    pub fn let_go(&mut self) {
        if self.delivered {
            match Arc::get_mut(&mut self.partial) {
                Some(partial) if partial.capacity() <= REUSED_BYTES_MAX => partial.clear(),
                _ => self.partial = Arc::default(),
            }
            self.delivered = false;
        }
    }

    /// Takes the next frame from the front of `input`, or all of `input` when it ends inside a frame.
    ///
    /// Call it until it returns `Ok(None)`. After an error the stream has no frame boundary any more and
    /// the connection must be closed.
    pub fn next<'a, 'i: 'a>(&'a mut self, input: &mut &'i [u8]) -> Result<Option<FrameRef<'a>>, DecodeError> {
        self.let_go();
        if self.partial.is_empty()
            && let Some(header) = input.first_chunk::<HEADER_BYTES>()
        {
            let fields = decode_header(header, self.limit)?;
            if let Some(whole) = input.get(..HEADER_BYTES + fields.length) {
                *input = &input[whole.len()..];
                return check(&fields, whole, None).map(Some);
            }
        }
        self.next_from_pieces(input)
    }

    fn next_from_pieces<'a>(&'a mut self, input: &mut &[u8]) -> Result<Option<FrameRef<'a>>, DecodeError> {
        if !self.take_up_to(HEADER_BYTES, input) {
            return Ok(None);
        }
        let header = self.partial.first_chunk::<HEADER_BYTES>().expect("invariant: just filled");
        let fields = decode_header(header, self.limit)?;
        if !self.take_up_to(HEADER_BYTES + fields.length, input) {
            return Ok(None);
        }
        self.delivered = true;
        check(&fields, &self.partial, Some(&self.partial)).map(Some)
    }

    /// Moves bytes from `input` until `partial` has `length`; says whether it has.
    fn take_up_to(&mut self, length: usize, input: &mut &[u8]) -> bool {
        let partial = Arc::get_mut(&mut self.partial).expect("invariant: only a delivered frame is shared");
        let missing = length.saturating_sub(partial.len());
        let (piece, rest) = input.split_at(missing.min(input.len()));
        if partial.capacity() < partial.len() + piece.len() {
            // Exactly what the frame needs, as it may be kept, but never far ahead of what has come.
            let ahead = (partial.len() + piece.len()).max(ANNOUNCED_BYTES_MAX);
            partial.reserve_exact(missing.min(ahead));
        }
        partial.extend_from_slice(piece);
        *input = rest;
        partial.len() >= length
    }
}

fn check<'a>(
    fields: &HeaderFields,
    whole: &'a [u8],
    shared: Option<&'a Arc<Vec<u8>>>,
) -> Result<FrameRef<'a>, DecodeError> {
    let payload = &whole[HEADER_BYTES..];
    if crc32c::crc32c(payload) != fields.checksum {
        return Err(DecodeError::PayloadChecksum);
    }
    Ok(FrameRef { kind: fields.kind, payload, whole, shared })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(kind: Kind, payload: &[u8]) -> Vec<u8> {
        Frame::encode(kind, |out| out.extend_from_slice(payload)).bytes().to_vec()
    }

    fn collect(assembler: &mut Assembler, mut piece: &[u8]) -> Result<Vec<(Kind, Vec<u8>)>, DecodeError> {
        let mut found = Vec::new();
        while let Some(frame) = assembler.next(&mut piece)? {
            found.push((frame.kind, frame.payload.to_vec()));
        }
        assert!(piece.is_empty());
        Ok(found)
    }

    #[test]
    fn golden_frame() {
        expect_test::expect!["0300000032000100b73f4b367a3fcc64"]
            .assert_eq(&hex(&frame(Kind::Commit, b"abc")[..16]));
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    proptest! {
        #[test]
        fn frames_survive_any_cut(payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 1..8),
                                  cuts in prop::collection::vec(1usize..64, 1..64)) {
            let mut stream = Vec::new();
            for payload in &payloads {
                stream.extend(frame(Kind::Batch, payload));
            }
            let mut assembler = Assembler::new(1024);
            let mut found = Vec::new();
            let mut rest = &stream[..];
            for cut in cuts.iter().cycle() {
                if rest.is_empty() { break; }
                let (piece, after) = rest.split_at((*cut).min(rest.len()));
                found.extend(collect(&mut assembler, piece).unwrap());
                rest = after;
            }
            let expected: Vec<_> = payloads.into_iter().map(|payload| (Kind::Batch, payload)).collect();
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn random_bytes_never_panic_nor_grow(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let mut assembler = Assembler::new(1024);
            let _ = collect(&mut assembler, &bytes);
            prop_assert!(assembler.partial.capacity() <= ANNOUNCED_BYTES_MAX.min(1024 + HEADER_BYTES));
        }

        #[test]
        fn a_flipped_bit_is_found(payload in prop::collection::vec(any::<u8>(), 0..100), at in any::<prop::sample::Index>(), bit in 0u8..8) {
            let mut bytes = frame(Kind::Prepare, &payload);
            let index = at.index(bytes.len());
            bytes[index] ^= 1 << bit;
            let mut assembler = Assembler::new(1024);
            prop_assert!(collect(&mut assembler, &bytes).is_err());
        }
    }

    #[test]
    fn memory_of_a_frame_counts_until_it_is_whole() {
        let stream = [frame(Kind::Batch, &[1; 300_000]), frame(Kind::Batch, b"short")].concat();
        let mut assembler = Assembler::new(1 << 20);
        assert_eq!(assembler.partial_bytes(), 0);
        assert!(collect(&mut assembler, &stream[..20]).unwrap().is_empty());
        let announced = assembler.partial_bytes();
        assert!(
            (ANNOUNCED_BYTES_MAX..2 * ANNOUNCED_BYTES_MAX).contains(&announced),
            "what is reserved: {announced}"
        );
        assert!(collect(&mut assembler, &stream[20..250_000]).unwrap().is_empty());
        assert!((250_000..=300_000 + HEADER_BYTES).contains(&assembler.partial_bytes()));
        assert_eq!(collect(&mut assembler, &stream[250_000..]).unwrap().len(), 2);
        assert_eq!(assembler.partial_bytes(), 0);
    }

    #[test]
    fn a_kept_frame_is_not_overwritten_by_the_next_one() {
        let (first, second) = (frame(Kind::Batch, &[1; 3000]), frame(Kind::Batch, &[2; 3000]));
        let mut assembler = Assembler::new(4096);
        let mut kept = Vec::new();
        for piece in [first, second].concat().chunks(1000) {
            let mut piece = piece;
            while let Some(frame) = assembler.next(&mut piece).unwrap() {
                kept.push(Frame::keep(frame));
            }
        }
        assert_eq!(kept.len(), 2);
        assert!(kept[0].payload().iter().all(|byte| *byte == 1) && kept[0].payload().len() == 3000);
        assert!(kept[1].payload().iter().all(|byte| *byte == 2) && kept[1].payload().len() == 3000);
    }

    #[test]
    fn a_kept_frame_holds_no_more_memory_than_is_counted_for_it() {
        let mut assembler = Assembler::new(4 * 1024 * 1024);
        for small in [20, 300, 5000, 20_000] {
            let stream =
                [frame(Kind::Batch, &vec![1; 3_000_000]), frame(Kind::Batch, &vec![2; small])].concat();
            let mut kept = Vec::new();
            for mut piece in stream.chunks(stream.len() - small / 2) {
                while let Some(frame) = assembler.next(&mut piece).unwrap() {
                    if frame.payload.len() == small {
                        kept.push(Frame::keep(frame));
                    }
                }
            }
            assert_eq!(kept.len(), 1);
            assert!(
                kept[0].bytes.capacity() <= 2 * kept[0].bytes.len(),
                "{small}: {}",
                kept[0].bytes.capacity()
            );
        }
    }

    #[test]
    fn giant_lengths_and_unknown_kinds_are_refused_from_the_header_alone() {
        let bytes = frame(Kind::Batch, &[0; 2000]);
        assert_eq!(
            collect(&mut Assembler::new(1999), &bytes[..16]),
            Err(DecodeError::TooLong { length: 2000, limit: 1999 })
        );
        let mut unknown = frame(Kind::Batch, b"");
        unknown[4] = 250;
        let checksum = crc32c::crc32c(&unknown[..12]);
        unknown[12..16].copy_from_slice(&checksum.to_le_bytes());
        assert_eq!(collect(&mut Assembler::new(10), &unknown), Err(DecodeError::UnknownKind(250)));
    }
}
