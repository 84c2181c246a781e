//! The messages that are rkyv archives. Each is checked on access; small ones are then read out whole,
//! while bundles, batches and replies (their own modules) are read in place.
#![allow(
    missing_debug_implementations,
    reason = "the archives and resolvers that rkyv derives inside a macro"
)]

use crate::batch::parse_head;
use crate::summary::{PreparedCertificate, SuspectReason, ViewChangeSummary};
use crate::{DecodeError, Frame, FrameRef, Header, Kind, LaneTip, Position, Statement};
use quorate_types::{
    BundleNumber, ClusterConfig, Digest, LaneId, LaneNumber, LinkId, Nonce, PageName, ReplicaId, Seq,
    SessionId, Signature, View, limits,
};
use rkyv::api::high::{HighDeserializer, HighSerializer, HighValidator};
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::Failure;
use rkyv::ser::allocator::ArenaHandle;
use rkyv::{Archive, Deserialize, Serialize};
use std::collections::BTreeSet;

/// A message that travels as one frame of its own kind.
pub trait Message: Sized {
    /// The kind of its frame.
    const KIND: Kind;

    /// Encodes it as a frame.
    fn encode(&self) -> Frame;

    /// Reads it; any bytes give a message or an error.
    fn decode(payload: &[u8]) -> Result<Self, DecodeError>;

    /// Reads it from a frame of its kind.
    fn from_frame(frame: FrameRef<'_>) -> Result<Self, DecodeError> {
        if frame.kind != Self::KIND {
            return Err(DecodeError::Misplaced(frame.kind));
        }
        Self::decode(frame.payload)
    }
}

/// Appends the archive of `value` to `out`.
pub(crate) fn append_archive(
    out: &mut Vec<u8>,
    value: &impl for<'a> Serialize<HighSerializer<Vec<u8>, ArenaHandle<'a>, Failure>>,
) {
    let bytes = std::mem::take(out);
    *out = rkyv::api::high::to_bytes_in(value, bytes).expect("invariant: writing to a vector cannot fail");
}

fn read_archive<T>(kind: Kind, payload: &[u8]) -> Result<T, DecodeError>
where
    T: Archive,
    T::Archived: for<'a> CheckBytes<HighValidator<'a, Failure>> + Deserialize<T, HighDeserializer<Failure>>,
{
    rkyv::from_bytes::<T, Failure>(payload).map_err(|_| DecodeError::Malformed(kind))
}

fn within(what: &'static str, value: usize, limit: usize) -> Result<(), DecodeError> {
    if value > limit {
        return Err(DecodeError::Limit { what, value: value as u64, limit: limit as u64 });
    }
    Ok(())
}

macro_rules! messages {
    ($($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* } check $check:expr;)*) => {
        $(
            $(#[$doc])*
            #[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
            pub struct $name {
                $($(#[$field_doc])* pub $field: $type,)*
            }

            impl Message for $name {
                const KIND: Kind = Kind::$name;

                fn encode(&self) -> Frame {
                    Frame::encode(Self::KIND, |out| append_archive(out, self))
                }

                fn decode(payload: &[u8]) -> Result<Self, DecodeError> {
                    let message: Self = read_archive(Self::KIND, payload)?;
                    let check: fn(&Self) -> Result<(), DecodeError> = $check;
                    check(&message)?;
                    Ok(message)
                }
            }
        )*
    };
}

/// P as a count of slots.
const PREPARE_SLOTS_MAX: usize = 64;
const _: () = assert!(PREPARE_SLOTS_MAX as u64 == limits::PROPOSALS_MAX);
const LANES_MAX: usize = limits::REPLICAS_MAX * limits::LINKS_MAX;

fn check_cut(header: &Header) -> Result<(), DecodeError> {
    within("lanes in a cut", header.cut.len(), LANES_MAX)
}

/// Why a bundle was not taken.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[rkyv(derive(Debug))]
pub enum BusyReason {
    /// Too much of this client or lane is under way: soon there is room again.
    InFlight,
    /// The replica takes no writes for now, as its disk or journal is nearly full.
    ReadOnly,
    /// The replica takes no bundles at all: it catches up, or follows without a vote.
    Following,
    /// The replica takes no reads for now either, as its disk or journal is fuller still.
    Full,
}

impl BusyReason {
    /// What a user may make of it.
    #[must_use]
    pub fn describe(self) -> &'static str {
        match self {
            Self::InFlight => "it has too much under way",
            Self::ReadOnly => {
                "it takes no writes because its disk or journal is nearly full; `quorate status` says which limit"
            }
            Self::Full => {
                "it takes nothing because its disk or journal is full; `quorate status` says which limit"
            }
            Self::Following => "it takes no requests because it catches up or is a learner",
        }
    }
}

fn check_prepare(message: &Prepare) -> Result<(), DecodeError> {
    if message.digests.is_empty() {
        return Err(DecodeError::Malformed(Kind::Prepare));
    }
    within("slots in a PREPARE", message.digests.len(), PREPARE_SLOTS_MAX)
}

fn check_certificates(
    prepared: Option<&PreparedCertificate>,
    stable: Option<&CheckpointCertificate>,
) -> Result<(), DecodeError> {
    let signatures = stable.map_or(0, |certificate| certificate.signatures.len());
    within("signatures in a certificate", signatures, limits::REPLICAS_MAX)?;
    let votes = prepared.map_or(&[][..], |certificate| &certificate.votes);
    within("votes in a certificate", votes.len(), limits::REPLICAS_MAX)?;
    votes.iter().try_for_each(|(_, vote)| check_prepare(vote))
}

messages! {
    /// Which replies a connection wants: those of a session of its client's key or, as long as there is none, those of a
    /// registration and of the session that it opens.
    Attach {
        /// The nonce of the registration.
        nonce: Nonce,
        /// The session; none as long as it is not open.
        session: SessionId,
    } check |_| Ok(());

    /// The connection is attached.
    Attached {
        /// The last seq that the replica has executed; a registration names one that f+1 have reached.
        executed: Seq,
    } check |_| Ok(());

    /// A bundle was not taken.
    Busy {
        /// The session.
        session: SessionId,
        /// The bundle.
        number: BundleNumber,
        /// Why.
        reason: BusyReason,
    } check |_| Ok(());

    /// Asks for a report.
    ReportRequest {
        /// Whether the root of the state is wanted; it costs hashing what changed.
        root: bool,
        /// Whether histograms are wanted; they are long, and encoding them takes a millisecond.
        histograms: bool,
    } check |_| Ok(());

    /// A report in JSON; its form is the daemon's.
    Report {
        /// The text.
        json: String,
    } check |_| Ok(());

    /// Acknowledgements of lanes: the sender holds each named chain durably up to `upto`. That stays true whatever it
    /// says later.
    LaneAcks {
        /// Whether these are all live tips of the lanes in here, so that origins send what is above.
        full: bool,
        /// The tips; a lane may have several, which stand together.
        tips: Vec<LaneTip>,
    } check |message| within("acknowledged lanes", message.tips.len(), LANES_MAX);

    /// Asks which of these the receiver has acknowledged, be it by acknowledging what descends from them.
    AskLanes {
        /// The tips.
        tips: Vec<LaneTip>,
    } check |message| within("lanes asked for", message.tips.len(), LANES_MAX);

    /// Asks for the batches of a lane that end with chain digest `chain` at `upto`, down to `above` (which is
    /// not wanted any more).
    FetchBatches {
        /// The lane.
        lane: LaneId,
        /// The last batch wanted.
        upto: LaneNumber,
        /// Its chain digest.
        chain: Digest,
        /// The number below which nothing is wanted.
        above: LaneNumber,
    } check |_| Ok(());

    /// A proposal.
    PrePrepare {
        /// The view in which it is proposed.
        view: View,
        /// The header.
        header: Header,
        /// The primary's signature.
        signature: Signature,
    } check |message| check_cut(&message.header);

    /// A vote for exactly the slots `lo` and following, one chain digest each.
    Prepare {
        /// The view.
        view: View,
        /// The first slot.
        lo: Seq,
        /// The chain digests.
        digests: Vec<Digest>,
        /// The signature of the replica that votes.
        signature: Signature,
    } check check_prepare;

    /// A vote for a slot and every ancestor.
    Commit {
        /// The view.
        view: View,
        /// The slot with its chain digest.
        position: Position,
    } check |_| Ok(());

    /// A vote for the state after a slot.
    Checkpoint {
        /// The slot with its chain digest.
        position: Position,
        /// The root of the state after it.
        root: Digest,
        /// The configuration from the next slot on.
        next_config: Digest,
        /// The signature of the replica that votes.
        signature: Signature,
    } check |_| Ok(());

    /// q votes for the state after a slot.
    CheckpointCertificate {
        /// The slot with its chain digest.
        position: Position,
        /// The root of the state after it.
        root: Digest,
        /// The configuration from the next slot on.
        next_config: Digest,
        /// The signatures with their signers, ascending.
        signatures: Vec<(ReplicaId, Signature)>,
    } check |message| within("signatures in a certificate", message.signatures.len(), limits::REPLICAS_MAX);

    /// What a replica has.
    Status {
        /// The view that it works in or, if it has not `entered` that, waits for.
        view: View,
        /// Whether it knows where the view begins and votes in it.
        entered: bool,
        /// The highest slot with a checkpoint certificate.
        stable: Position,
        /// The highest accepted slot.
        accepted: Position,
        /// The highest prepared slot.
        prepared: Position,
        /// The highest committed slot.
        committed: Position,
        /// The highest executed slot.
        executed: Position,
    } check |_| Ok(());

    /// Asks for the headers that end with `last`, down to `above` (which is not wanted any more).
    FetchHeaders {
        /// The last header wanted.
        last: Position,
        /// The slot below which nothing is wanted.
        above: Seq,
    } check |_| Ok(());

    /// Headers in descending order, each the parent of the one before.
    FetchedHeaders {
        /// The headers.
        headers: Vec<Header>,
    } check |message| {
        within("fetched headers", message.headers.len(), limits::FETCH_HEADERS_MAX)?;
        message.headers.iter().try_for_each(check_cut)
    };

    /// Asks for pages of the tree of a state.
    FetchPages {
        /// Repeated in the answer.
        request: u64,
        /// The root of the state.
        root: Digest,
        /// The pages; none when only the top is wanted.
        wanted: Vec<PageName>,
    } check |message| {
        within("pages asked for", message.wanted.len(), limits::FETCH_PAGES_MAX)?;
        message.wanted.iter().try_for_each(|name| within("levels of a tree", name.path.len(), limits::TREE_HEIGHT_MAX))
    };

    /// What the sender has of the pages that it was asked for, up to its limit of bytes.
    FetchedPages {
        /// The number of the request.
        request: u64,
        /// The root of the state.
        root: Digest,
        /// The number of levels of its tree and the digest of its root node; nothing if the sender does not have it.
        top: Option<(u8, Digest)>,
        /// Pages, in the order asked for.
        pages: Vec<Vec<u8>>,
        /// Long values, in the order asked for.
        values: Vec<Vec<u8>>,
    } check |message| within("fetched pages", message.pages.len() + message.values.len(), limits::FETCH_PAGES_MAX);

    /// Asks for the certificate of the newest state that the receiver has durably and can serve.
    FetchCertificate {
        /// Repeated in the answer.
        request: u64,
    } check |_| Ok(());

    /// The certificate of the newest state that the sender has durably and can serve.
    FetchedCertificate {
        /// The number of the request.
        request: u64,
        /// The certificate; nothing if there is no such state.
        certificate: Option<CheckpointCertificate>,
    } check |message| check_certificates(None, message.certificate.as_ref());

    /// A wish for the view after `view`.
    Suspect {
        /// The view that is to end.
        view: View,
        /// Why.
        reason: SuspectReason,
        /// The signature of the replica that wishes it.
        signature: Signature,
    } check |_| Ok(());

    /// The sender votes in no view below `new_view` any more, and this is what it had prepared.
    ViewChange {
        /// The view that it waits for.
        new_view: View,
        /// Its highest checkpoint certificate; none before the first.
        stable: Option<CheckpointCertificate>,
        /// Its highest prepared certificate, of a lower view.
        prepared: Option<PreparedCertificate>,
        /// The wishes that made it move, its own among them, each with its signer; whoever reads this takes them
        /// as if they had come by themselves.
        suspects: Vec<(ReplicaId, Suspect)>,
        /// Two proposals of the primary of the view before for one slot, if those made it move; or nothing.
        proposals: Vec<PrePrepare>,
        /// The sender's signature over the summary.
        signature: Signature,
    } check |message| {
        check_certificates(message.prepared.as_ref(), message.stable.as_ref())?;
        within("wishes for a view", message.suspects.len(), limits::REPLICAS_MAX)?;
        within("proposals as evidence", message.proposals.len(), 2)?;
        message.proposals.iter().try_for_each(|proposal| check_cut(&proposal.header))
    };

    /// A view begins, on top of what q view changes prove.
    NewView {
        /// The view.
        view: View,
        /// The summaries of exactly q view changes for this view with their signers, ascending.
        summaries: Vec<(ReplicaId, ViewChangeSummary)>,
        /// Proof of the highest prepared slot among them, by view first.
        prepared: Option<PreparedCertificate>,
        /// Proof of the highest checkpoint among them.
        stable: Option<CheckpointCertificate>,
        /// The signature of the view's primary over the summaries.
        signature: Signature,
    } check |message| {
        within("summaries", message.summaries.len(), limits::REPLICAS_MAX)?;
        check_certificates(message.prepared.as_ref(), message.stable.as_ref())
    };
}

impl CheckpointCertificate {
    /// The number of distinct replicas that have signed it; it proves what it says when they are a quorum.
    #[must_use]
    pub fn signers(&self, config: &ClusterConfig) -> usize {
        let Self { position, root, next_config, signatures } = self;
        let statement = Statement::checkpoint(config, position.seq, &position.digest, root, next_config);
        let genuine = signatures
            .iter()
            .filter(|(signer, signature)| statement.is_signed_by_replica(config, *signer, signature));
        genuine.map(|(signer, _)| *signer).collect::<BTreeSet<ReplicaId>>().len()
    }
}

impl ViewChange {
    /// What its signature covers, beside the new view.
    #[must_use]
    pub fn summary(&self, genesis: Position) -> ViewChangeSummary {
        let stable = self.stable.as_ref();
        ViewChangeSummary {
            stable: stable.map_or(genesis, |certificate| certificate.position),
            root: stable.map_or(Digest::ZERO, |certificate| certificate.root),
            prepared: self.prepared.as_ref().map(|certificate| (certificate.view, certificate.position)),
            signature: self.signature,
        }
    }
}

impl NewView {
    /// What its signature covers, beside the view.
    #[must_use]
    pub fn digest(&self) -> Digest {
        crate::summary::digest(self.view, &self.summaries)
    }
}

/// The answer to a question for the batches that end with `asked`, in descending order, each the predecessor of the one
/// before: the lane in four bytes, the number (u64) and the chain digest that were asked for, then the payload of each
/// batch, its length (u32) in front.
#[must_use]
pub fn encode_fetched_batches<'a>(asked: &LaneTip, payloads: impl Iterator<Item = &'a [u8]>) -> Frame {
    Frame::encode(Kind::FetchedBatches, |out| {
        out.extend_from_slice(&asked.lane.to_bytes());
        out.extend_from_slice(&[0, 0]);
        out.extend_from_slice(&asked.upto.0.to_le_bytes());
        out.extend_from_slice(&asked.chain.0);
        for payload in payloads {
            crate::batch::write_bundle(out, payload);
        }
    })
}

/// What was asked for, and the payloads of fetched batches in the order sent.
pub fn decode_fetched_batches(payload: &[u8]) -> Result<(LaneTip, Vec<&[u8]>), DecodeError> {
    let malformed = DecodeError::Malformed(Kind::FetchedBatches);
    let Some(([origin, link, 0, 0], rest)) = payload.split_first_chunk::<4>() else {
        return Err(malformed);
    };
    let lane = LaneId { origin: ReplicaId(*origin), link: LinkId(*link) };
    let (upto, rest) = rest.split_first_chunk::<8>().ok_or(malformed)?;
    let (chain, mut rest) = rest.split_first_chunk::<32>().ok_or(malformed)?;
    let asked = LaneTip { lane, upto: LaneNumber(u64::from_le_bytes(*upto)), chain: Digest(*chain) };
    let mut found = Vec::new();
    while !rest.is_empty() {
        let (length, after) = rest.split_first_chunk::<4>().ok_or(malformed)?;
        let length = u32::from_le_bytes(*length) as usize;
        let payload = after.get(..length).ok_or(malformed)?;
        parse_head(payload)?;
        found.push(payload);
        rest = &after[length..];
    }
    Ok((asked, found))
}
