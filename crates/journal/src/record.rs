//! The records of the journals, and their bytes.
//!
//! | kind | bytes, little-endian |
//! | --- | --- |
//! | 1 batch | the frame as it travelled; it came on the own link of its origin |
//! | 2 accept | view u64, voted u8, epoch u64, seq u64, parent 32, timestamp u64, count u32, each tip: origin u8, link u8, upto u64, chain 32 |
//! | 3 prepared | view u64, seq u64, digest 32, count u32, each vote: signer u8, view u64, lo u64, signature 64, count u32, digests 32 each |
//! | 4 checkpoint | seq u64, digest 32, root 32, next configuration 32, count u32, each: signer u8, signature 64 |
//! | 5 view state | view u64 |
//! | 6 enter view | view u64, digest of the NewView 32, seq u64, digest 32 |
//! | 8 batch acknowledged, 9 batch named | the same; f+1 others have acknowledged it, a header names it |
//! | 7 promised | view u64, has voted u8, voted: seq u64, digest 32, stable: seq u64, digest 32 |

use crate::bytes::{Reader, Writer};
use quorate_types::{
    CoreId, Digest, Epoch, JournalId, LaneId, LaneNumber, LinkId, Nanoseconds, ReplicaId, Seq, Signature,
    View, Why, limits,
};
use quorate_wire::message::{CheckpointCertificate, Prepare};
use quorate_wire::{Assembler, DecodeError, Frame, Header, Kind, LaneTip, Position};
use std::fmt;
use std::sync::Arc;
use thiserror::Error;

/// The journal of the ordering role.
pub const CONSENSUS_JOURNAL: JournalId = JournalId(0);

/// The journal of the batches that arrive on `core`.
#[must_use]
pub fn batch_journal(core: CoreId) -> JournalId {
    JournalId(core.0 + 1)
}

const POSITION_BYTES: usize = 8 + 32;
const TIP_BYTES: usize = 2 + 8 + 32;
const ACCEPT_BYTES: usize = 8 + 1 + 8 + 8 + 32 + 8 + 4;
const VOTE_BYTES: usize = 1 + 8 + 8 + 64 + 4;
const PREPARED_BYTES: usize = 8 + POSITION_BYTES + 4;
const SIGNED_BYTES: usize = 1 + 64;
const CHECKPOINT_BYTES: usize = POSITION_BYTES + 32 + 32 + 4;
const ENTER_VIEW_BYTES: usize = 8 + 32 + POSITION_BYTES;
const PROMISED_BYTES: usize = 8 + 1 + 2 * POSITION_BYTES;

/// One fact that must survive.
#[derive(Clone, Debug)]
pub enum Record {
    /// A batch, the frame as it travelled: it is not encoded again. And why it is held, which says what may be
    /// acknowledged after a restart.
    Batch(Frame, Why),
    /// A header accepted in a view.
    Accept {
        /// The view.
        view: View,
        /// The header.
        header: Arc<Header>,
        /// Whether a PREPARE may be signed for exactly this slot in this view; headers taken over from a NewView
        /// or a commit proof are never voted for one by one.
        voted: bool,
    },
    /// A certificate: q PREPAREs for a slot.
    Prepared {
        /// The view.
        view: View,
        /// The slot.
        position: Position,
        /// The votes, with the signers' ids ascending.
        votes: Vec<(ReplicaId, Arc<Prepare>)>,
    },
    /// A certificate for the state after a slot.
    Checkpoint(Arc<CheckpointCertificate>),
    /// From now on no vote below `view`.
    ViewState {
        /// The view.
        view: View,
    },
    /// A view is entered: at most one per view.
    EnterView {
        /// The view.
        view: View,
        /// The digest of the NewView that opens it.
        new_view: Digest,
        /// Its head.
        head: Position,
    },
    /// What trimmed records leave behind: in `view` no vote that is not above `voted` or on its chain, in lower ones
    /// none, and nothing accepted at or below `stable`.
    Promised {
        /// The view that was entered last.
        view: View,
        /// The highest slot that was written down to be voted for in it, if there was one.
        voted: Option<Position>,
        /// The highest slot with a checkpoint certificate.
        stable: Position,
    },
}

/// What a record is, without its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum RecordKind {
    /// [`Record::Batch`] from the own link of its origin.
    Batch = 1,
    /// [`Record::Accept`].
    Accept = 2,
    /// [`Record::Prepared`].
    Prepared = 3,
    /// [`Record::Checkpoint`].
    Checkpoint = 4,
    /// [`Record::ViewState`].
    ViewState = 5,
    /// [`Record::EnterView`].
    EnterView = 6,
    /// [`Record::Promised`].
    Promised = 7,
    /// [`Record::Batch`] that f+1 others have acknowledged.
    BatchAcknowledged = 8,
    /// [`Record::Batch`] that a header names.
    BatchNamed = 9,
}

impl RecordKind {
    /// All kinds.
    pub const ALL: [Self; 9] = [
        Self::Batch,
        Self::Accept,
        Self::Prepared,
        Self::Checkpoint,
        Self::ViewState,
        Self::EnterView,
        Self::Promised,
        Self::BatchAcknowledged,
        Self::BatchNamed,
    ];

    /// The kind with this number.
    pub fn from_number(number: u8) -> Result<Self, RecordError> {
        let found = Self::ALL.into_iter().find(|kind| *kind as u8 == number);
        found.ok_or(RecordError::UnknownKind(number))
    }

    /// Whether it cannot be had from others again: everything but batches. Such records stand twice on disk.
    #[must_use]
    pub fn is_critical(self) -> bool {
        self.why().is_none()
    }

    /// Why a batch of this kind is held; nothing for what is no batch.
    #[must_use]
    pub fn why(self) -> Option<Why> {
        match self {
            Self::Batch => Some(Why::OwnLink),
            Self::BatchAcknowledged => Some(Why::Acknowledged),
            Self::BatchNamed => Some(Why::Named),
            _ => None,
        }
    }

    /// The word for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Batch => "batch",
            Self::Accept => "accept",
            Self::Prepared => "prepared",
            Self::Checkpoint => "checkpoint",
            Self::ViewState => "view-state",
            Self::EnterView => "enter-view",
            Self::Promised => "promised",
            Self::BatchAcknowledged => "batch-acknowledged",
            Self::BatchNamed => "batch-named",
        }
    }
}

/// Why bytes are no record.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum RecordError {
    /// The number stands for no kind of record.
    #[error("unknown kind {0} of a record")]
    UnknownKind(u8),
    /// The bytes are no record of this kind.
    #[error("malformed {} record", .0.name())]
    Malformed(RecordKind),
    /// The frame of a batch is none.
    #[error("the frame of a batch record: {0}")]
    Frame(#[from] DecodeError),
}

impl Record {
    /// What it is.
    #[must_use]
    pub fn kind(&self) -> RecordKind {
        match self {
            Self::Batch(_, Why::OwnLink) => RecordKind::Batch,
            Self::Batch(_, Why::Acknowledged) => RecordKind::BatchAcknowledged,
            Self::Batch(_, Why::Named) => RecordKind::BatchNamed,
            Self::Accept { .. } => RecordKind::Accept,
            Self::Prepared { .. } => RecordKind::Prepared,
            Self::Checkpoint(_) => RecordKind::Checkpoint,
            Self::ViewState { .. } => RecordKind::ViewState,
            Self::EnterView { .. } => RecordKind::EnterView,
            Self::Promised { .. } => RecordKind::Promised,
        }
    }

    /// Whether it cannot be had from others again.
    #[must_use]
    pub fn is_critical(&self) -> bool {
        self.kind().is_critical()
    }

    /// The exact length of its bytes.
    #[must_use]
    pub fn encoded_bytes(&self) -> usize {
        match self {
            Self::Batch(frame, _) => frame.bytes().len(),
            Self::Accept { header, .. } => ACCEPT_BYTES + TIP_BYTES * header.cut.len(),
            Self::Prepared { votes, .. } => {
                let vote = |vote: &Prepare| VOTE_BYTES + 32 * vote.digests.len();
                PREPARED_BYTES + votes.iter().map(|(_, prepare)| vote(prepare)).sum::<usize>()
            }
            Self::Checkpoint(certificate) => CHECKPOINT_BYTES + SIGNED_BYTES * certificate.signatures.len(),
            Self::ViewState { .. } => 8,
            Self::EnterView { .. } => ENTER_VIEW_BYTES,
            Self::Promised { .. } => PROMISED_BYTES,
        }
    }

    /// Writes its bytes.
    ///
    /// # Panics
    /// When `out` is not [`Record::encoded_bytes`] long.
    pub fn encode(&self, out: &mut [u8]) {
        let expected = out.len();
        let mut writer = Writer::new(out);
        match self {
            Self::Batch(frame, _) => writer.bytes(frame.bytes()),
            Self::Accept { view, header, voted } => write_accept(&mut writer, *view, header, *voted),
            Self::Prepared { view, position, votes } => {
                write_prepared(&mut writer, *view, position, votes);
            }
            Self::Checkpoint(certificate) => write_checkpoint(&mut writer, certificate),
            Self::ViewState { view } => writer.u64(view.0),
            Self::EnterView { view, new_view, head } => {
                writer.u64(view.0);
                writer.bytes(&new_view.0);
                writer.position(head);
            }
            Self::Promised { view, voted, stable } => {
                writer.u64(view.0);
                writer.u8(u8::from(voted.is_some()));
                writer.position(&voted.unwrap_or_default());
                writer.position(stable);
            }
        }
        assert_eq!(writer.at(), expected, "a record fills what was planned for it");
    }

    /// Reads a record; any bytes give a record or an error. A batch is only checked to be a frame of its kind.
    pub fn decode(kind: RecordKind, bytes: &[u8]) -> Result<Self, RecordError> {
        if let Some(why) = kind.why() {
            return decode_batch(kind, bytes, why);
        }
        let mut reader = Reader::new(bytes);
        let record = match kind {
            RecordKind::Batch | RecordKind::BatchAcknowledged | RecordKind::BatchNamed => None,
            RecordKind::Accept => read_accept(&mut reader),
            RecordKind::Prepared => read_prepared(&mut reader),
            RecordKind::Checkpoint => read_checkpoint(&mut reader),
            RecordKind::ViewState => reader.u64().map(|view| Self::ViewState { view: View(view) }),
            RecordKind::EnterView => read_enter_view(&mut reader),
            RecordKind::Promised => read_promised(&mut reader),
        };
        record.filter(|_| reader.is_empty()).ok_or(RecordError::Malformed(kind))
    }

    /// What guards its bytes on disk. A frame's header holds the checksum of its payload, so that for a batch only
    /// the header has to be summed.
    pub(crate) fn checksum(kind: RecordKind, bytes: &[u8]) -> u32 {
        let covered = match kind.why() {
            Some(_) => &bytes[..bytes.len().min(quorate_wire::frame::HEADER_BYTES)],
            None => bytes,
        };
        crc32c::crc32c(covered)
    }
}

fn decode_batch(kind: RecordKind, bytes: &[u8], why: Why) -> Result<Record, RecordError> {
    let malformed = RecordError::Malformed(kind);
    let mut rest = bytes;
    let mut assembler = Assembler::new(limits::FRAME_BYTES_MAX);
    let whole = bytes.len() >= quorate_wire::frame::HEADER_BYTES && {
        let length: [u8; 4] = std::array::from_fn(|index| bytes[index]);
        u32::from_le_bytes(length) as usize == bytes.len() - quorate_wire::frame::HEADER_BYTES
    };
    if !whole {
        return Err(malformed);
    }
    let frame = assembler.next(&mut rest)?.ok_or(malformed)?;
    if frame.kind != Kind::Batch {
        return Err(malformed);
    }
    Ok(Record::Batch(Frame::keep(frame), why))
}

fn write_accept(writer: &mut Writer<'_>, view: View, header: &Header, voted: bool) {
    writer.u64(view.0);
    writer.u8(u8::from(voted));
    writer.u64(header.epoch.0);
    writer.u64(header.seq.0);
    writer.bytes(&header.parent.0);
    writer.u64(header.timestamp.0);
    writer.count(header.cut.len());
    for tip in &header.cut {
        writer.bytes(&tip.lane.to_bytes());
        writer.u64(tip.upto.0);
        writer.bytes(&tip.chain.0);
    }
}

fn read_accept(reader: &mut Reader<'_>) -> Option<Record> {
    let view = View(reader.u64()?);
    let voted = match reader.u8()? {
        0 => false,
        1 => true,
        _ => return None,
    };
    let (epoch, seq) = (Epoch(reader.u64()?), Seq(reader.u64()?));
    let (parent, timestamp) = (reader.digest()?, Nanoseconds(reader.u64()?));
    let count = reader.count(TIP_BYTES)?;
    let mut cut = Vec::with_capacity(count);
    for _ in 0..count {
        let lane = LaneId { origin: ReplicaId(reader.u8()?), link: LinkId(reader.u8()?) };
        cut.push(LaneTip { lane, upto: LaneNumber(reader.u64()?), chain: reader.digest()? });
    }
    let header = Arc::new(Header { epoch, seq, parent, timestamp, cut });
    Some(Record::Accept { view, header, voted })
}

fn write_prepared(
    writer: &mut Writer<'_>,
    view: View,
    position: &Position,
    votes: &[(ReplicaId, Arc<Prepare>)],
) {
    writer.u64(view.0);
    writer.position(position);
    writer.count(votes.len());
    for (signer, prepare) in votes {
        writer.u8(signer.0);
        writer.u64(prepare.view.0);
        writer.u64(prepare.lo.0);
        writer.bytes(&prepare.signature.0);
        writer.count(prepare.digests.len());
        prepare.digests.iter().for_each(|digest| writer.bytes(&digest.0));
    }
}

fn read_prepared(reader: &mut Reader<'_>) -> Option<Record> {
    let (view, position) = (View(reader.u64()?), reader.position()?);
    let count = reader.count(VOTE_BYTES)?;
    let mut votes = Vec::with_capacity(count);
    for _ in 0..count {
        let signer = ReplicaId(reader.u8()?);
        let (view, lo) = (View(reader.u64()?), Seq(reader.u64()?));
        let signature = Signature(reader.array()?);
        let count = reader.count(32)?;
        let digests: Option<Vec<Digest>> = (0..count).map(|_| reader.digest()).collect();
        votes.push((signer, Arc::new(Prepare { view, lo, digests: digests?, signature })));
    }
    Some(Record::Prepared { view, position, votes })
}

fn write_checkpoint(writer: &mut Writer<'_>, certificate: &CheckpointCertificate) {
    writer.position(&certificate.position);
    writer.bytes(&certificate.root.0);
    writer.bytes(&certificate.next_config.0);
    writer.count(certificate.signatures.len());
    for (signer, signature) in &certificate.signatures {
        writer.u8(signer.0);
        writer.bytes(&signature.0);
    }
}

fn read_checkpoint(reader: &mut Reader<'_>) -> Option<Record> {
    let (position, root, next_config) = (reader.position()?, reader.digest()?, reader.digest()?);
    let count = reader.count(SIGNED_BYTES)?;
    let mut signatures = Vec::with_capacity(count);
    for _ in 0..count {
        signatures.push((ReplicaId(reader.u8()?), Signature(reader.array()?)));
    }
    let certificate = CheckpointCertificate { position, root, next_config, signatures };
    Some(Record::Checkpoint(Arc::new(certificate)))
}

fn read_enter_view(reader: &mut Reader<'_>) -> Option<Record> {
    let (view, new_view, head) = (View(reader.u64()?), reader.digest()?, reader.position()?);
    Some(Record::EnterView { view, new_view, head })
}

fn read_promised(reader: &mut Reader<'_>) -> Option<Record> {
    let view = View(reader.u64()?);
    let has_voted = reader.u8()?;
    let (voted, stable) = (reader.position()?, reader.position()?);
    let voted = match has_voted {
        0 if voted == Position::default() => None,
        1 => Some(voted),
        _ => return None,
    };
    Some(Record::Promised { view, voted, stable })
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.kind().name();
        match self {
            Self::Batch(frame, _) => match quorate_wire::batch::parse_head(frame.payload()) {
                Ok(head) => {
                    write!(f, "{name} lane {} number {} after {:?}", head.lane, head.number, head.previous)
                }
                Err(_) => write!(f, "{name} that is malformed"),
            },
            Self::Accept { view, header, voted } => {
                let how = if *voted { "" } else { " taken over" };
                let (seq, digest, tips) = (header.seq, header.digest(), header.cut.len());
                write!(f, "{name}{how} view {view} seq {seq} {digest:?} tips {tips}")
            }
            Self::Prepared { view, position, votes } => {
                let (seq, digest) = (position.seq, position.digest);
                write!(f, "{name} view {view} seq {seq} {digest:?} votes {}", votes.len())
            }
            Self::Checkpoint(certificate) => {
                let (Position { seq, digest }, root) = (certificate.position, certificate.root);
                let count = certificate.signatures.len();
                write!(f, "{name} seq {seq} {digest:?} root {root:?} signatures {count}")
            }
            Self::ViewState { view } => write!(f, "{name} view {view}"),
            Self::EnterView { view, new_view, head } => {
                let Position { seq, digest } = head;
                write!(f, "{name} view {view} by {new_view:?} head {seq} {digest:?}")
            }
            Self::Promised { view, voted, stable } => {
                write!(f, "{name} view {view} ")?;
                match voted {
                    Some(Position { seq, digest }) => write!(f, "voted up to {seq} {digest:?}")?,
                    None => f.write_str("not voted in")?,
                }
                write!(f, ", stable at {} {:?}", stable.seq, stable.digest)
            }
        }
    }
}
