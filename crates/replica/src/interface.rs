//! What a core of a replica takes in and gives out: the whole boundary between the pure parts and the world.
//!
//! The daemon feeds inputs from its reactor and carries effects out; the simulator does the same with its
//! network and disks. Both must deliver [`Input::TickEnd`] after every burst of inputs: what coalesces (batches,
//! acknowledgements, votes) leaves then.

use crate::mail::Mail;
use quorate_journal::Record;
use quorate_state::{Forest, Frozen};
use quorate_types::{
    CoreId, Digest, JournalId, LinkId, Lsn, Nanoseconds, ReplicaId, Seq, Stage, StageTime, View,
};
use quorate_wire::{DecodeError, Frame, FrameRef, LaneTip, Position, SuspectReason};
use thiserror::Error;

/// One client's connection to this replica; numbers are the driver's and never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientConnection {
    /// The core that owns the connection.
    pub core: CoreId,
    /// The connection on that core.
    pub number: u64,
}

/// What happens to a core.
#[derive(Debug)]
pub enum Input<'a> {
    /// The connection to a peer on a link of this core stands, its handshake done.
    PeerConnected {
        /// The peer.
        peer: ReplicaId,
        /// The link.
        link: LinkId,
    },
    /// The connection to a peer is gone.
    PeerDisconnected {
        /// The peer.
        peer: ReplicaId,
        /// The link.
        link: LinkId,
    },
    /// Frames to a peer were dropped because its queue was full, and the queue is empty again.
    PeerDrained {
        /// The peer.
        peer: ReplicaId,
        /// The link.
        link: LinkId,
    },
    /// The connection to a peer has taken what it was sent before an [`Effect::AwaitTaken`]; one that is gone has
    /// [`Input::PeerDisconnected`] instead.
    PeerTook {
        /// The peer.
        peer: ReplicaId,
        /// The link.
        link: LinkId,
        /// What it was for.
        answered: Answered,
    },
    /// A frame from a peer, authenticated by its connection.
    PeerFrame {
        /// The peer.
        peer: ReplicaId,
        /// The link.
        link: LinkId,
        /// The frame.
        frame: FrameRef<'a>,
    },
    /// A client's connection stands, its handshake done.
    ClientConnected {
        /// The connection; its core is this one.
        connection: ClientConnection,
        /// The client's key.
        key: [u8; 32],
    },
    /// A client's connection is gone.
    ClientDisconnected {
        /// The connection.
        connection: ClientConnection,
    },
    /// A frame from a client, authenticated by its connection.
    ClientFrame {
        /// The connection.
        connection: ClientConnection,
        /// The frame.
        frame: FrameRef<'a>,
    },
    /// A message from another core of this replica.
    Mail(Mail),
    /// A journal of this core is durable up to a position.
    Durable {
        /// The journal.
        journal: JournalId,
        /// The end of its contiguous durable prefix.
        upto: Lsn,
    },
    /// A state that [`Effect::Checkpoint`] gave out is durable, and this is its root; for the execution core. In the
    /// order of the effects, though a state that another one overtook may be left out.
    Checkpointed {
        /// The slot after which the state was such.
        position: Position,
        /// Its root.
        root: Digest,
    },
    /// What [`Effect::ReadBack`] asked for; each is answered once, in any order.
    ReadBack {
        /// The journal.
        journal: JournalId,
        /// The record's position.
        lsn: Lsn,
        /// The record as it was appended; nothing if it is not durable, trimmed, or unreadable.
        record: Option<Record>,
    },
    /// A record of a journal of this core that was durable cannot be read any more.
    Lost {
        /// The journal.
        journal: JournalId,
        /// The record's position.
        lsn: Lsn,
    },
    /// How much of what clients send there is room for. For every core.
    Intake(Intake),
    /// The burst of inputs is over, or a deadline has passed.
    TickEnd,
}

/// What is taken of clients: the less room there is for it on the disk, the less. Reads and what ends something are ordered
/// too, and stand in the log as writes do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Intake {
    /// Nothing at all: what room there is, is for what the others send.
    Nothing,
    /// Registrations and void bundles: with them a client learns what has become of what it has asked for.
    Endings,
    /// Those, and what only reads.
    Reads,
    /// Everything.
    #[default]
    All,
}

/// What an answer to a peer is for; the next one of its kind follows when it is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answered {
    /// Batches of lanes: asked for, or lacking at the peer's frontier.
    Batches,
    /// Pages of a state.
    Pages,
}

/// What a core wants done, in order.
#[derive(Debug)]
pub enum Effect {
    /// Append a record; report [`Input::Durable`] when it is durable. Positions are consecutive per journal.
    Append {
        /// The journal.
        journal: JournalId,
        /// The record's position.
        lsn: Lsn,
        /// The record.
        record: Record,
        /// Which batch it is, if it is one: the log has the name beside it, and knows it when the batch has gone bad.
        batch: Option<LaneTip>,
    },
    /// A journal is not needed any more up to and with a position: what lies there may be overwritten.
    Trim {
        /// The journal.
        journal: JournalId,
        /// The position.
        upto: Lsn,
    },
    /// Read a record of a journal of this core back, which is durable and left memory; report [`Input::ReadBack`]. A
    /// driver reads a few at a time, whatever is asked.
    ReadBack {
        /// The journal.
        journal: JournalId,
        /// The record's position.
        lsn: Lsn,
    },
    /// Send a frame to a peer. All it depends on is durable. Dropped if there is no connection or its queue
    /// is full.
    SendPeer {
        /// The peer.
        peer: ReplicaId,
        /// The link; its connection is on this core.
        link: LinkId,
        /// The frame.
        frame: Frame,
    },
    /// Report [`Input::PeerTook`] when the connection to a peer has taken all that was sent on it so far, also if some of
    /// that was dropped; nothing if there is no connection.
    AwaitTaken {
        /// The peer.
        peer: ReplicaId,
        /// The link; its connection is on this core.
        link: LinkId,
        /// What it is for.
        answered: Answered,
    },
    /// Send a frame to a client.
    SendClient {
        /// The connection; it is on this core.
        connection: ClientConnection,
        /// The frame.
        frame: Frame,
    },
    /// Close a connection to a peer: it broke the rules.
    ClosePeer {
        /// The peer.
        peer: ReplicaId,
        /// The link.
        link: LinkId,
        /// Which rule.
        reject: Reject,
    },
    /// Close a client's connection: it broke the rules.
    CloseClient {
        /// The connection.
        connection: ClientConnection,
        /// Which rule.
        reject: Reject,
    },
    /// Close a client's connection, which has broken no rule: a newer one wants the replies of its session.
    ClientReplaced {
        /// The connection; it is on this core.
        connection: ClientConnection,
    },
    /// Hand a message to another core of this replica.
    Mail {
        /// The core.
        core: CoreId,
        /// The message.
        mail: Mail,
    },
    /// A report that clients of this core asked for is ready.
    Report {
        /// The connections that asked, each as often as it did; some may be gone.
        connections: Vec<ClientConnection>,
        /// What the roles know.
        report: Box<crate::report::RoleReport>,
    },
    /// Make a state durable and compute its root, away from the cores, as it takes long; then report
    /// [`Input::Checkpointed`]: nothing vouches for a state that a crash could take back.
    Checkpoint {
        /// The slot after which the state was such.
        position: Position,
        /// The timestamp of its header.
        timestamp: Nanoseconds,
        /// The state.
        state: Frozen,
    },
    /// Of the states that are durable, only those after these slots are needed, ascending, and those that become durable
    /// from now on: the log leads on from the lowest.
    KeepStates(Vec<Seq>),
    /// Keep what a transfer has received of a state, so that it need not come again after a restart. Nothing waits for
    /// this.
    KeepPart {
        /// The slot after which the state is such.
        position: Position,
        /// Its root.
        root: Digest,
        /// What has come.
        received: Forest,
    },
    /// Something was refused; counted by its name.
    Rejected(Reject),
    /// Bundles were admitted and wait, as their keys have enough on its way; for the counters.
    BundlesWait {
        /// How many.
        bundles: u64,
    },
    /// What an account of a peer has bitten, so often; for the counters.
    Bitten {
        /// Answers that have used a credit up: what is asked next waits.
        credits_used_up: u64,
        /// Messages that were not looked at, or wait, as a credit does not cover their signature checks.
        checks_uncovered: u64,
    },
    /// Operations were executed; for the counters.
    Executed {
        /// Bundles that took effect.
        bundles: u64,
        /// Operations in them.
        operations: u64,
        /// Those of them that the state had no room for.
        declined_full: u64,
    },
    /// Bundles of this replica's clients have passed a stage; for the histograms.
    Stage(StageTime),
    /// Bundles of this replica's clients pass a stage with the step that gives this effect, whose end the driver
    /// alone knows; for the histograms.
    StageEnds {
        /// The stage.
        stage: Stage,
        /// The end of the stage before; none when that is the end of the same step.
        since: Option<Nanoseconds>,
        /// The number of bundles.
        bundles: u64,
    },
    /// The replica works in a view; for the log.
    ViewEntered {
        /// The view.
        view: View,
        /// The one in which it worked before.
        from: View,
        /// Who has wished to leave that or a later one, and why, as far as it was told here.
        why: Vec<(ReplicaId, SuspectReason)>,
    },
    /// The replica has left a view and waits for another one to begin; for the log.
    ViewLeft {
        /// The view that it has left, or waited for.
        view: View,
        /// The one that it waits for.
        target: View,
        /// As above.
        why: Vec<(ReplicaId, SuspectReason)>,
    },
    /// The replica must stop at once and keep its evidence: going on would not be safe.
    Halt {
        /// What was found, in words.
        reason: String,
    },
}

/// Why something from outside was refused. The name is the label of a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Reject {
    /// Bytes that are no message, or one that has no place here.
    #[error("malformed: {0}")]
    Malformed(#[from] DecodeError),
    /// A bundle under another key than the connection's.
    #[error("a bundle of another client than the one connected")]
    ForeignBundle,
    /// A bundle whose signature does not match.
    #[error("a bundle with a wrong signature")]
    BundleSignature,
    /// A client has more open than it may; it is told to try again later.
    #[error("a client with too much in flight")]
    Busy,
    /// A batch on a lane that is not its sender's, or not of this link.
    #[error("a batch on a lane that is not the sender's")]
    ForeignBatch,
    /// A batch that does not extend what is held of its lane.
    #[error("a batch that does not continue its lane")]
    BatchGap,
    /// Two different batches at one position of a lane.
    #[error("a second batch at one position of a lane")]
    BatchFork,
    /// An origin has more unexecuted than receivers hold.
    #[error("a lane over its budget")]
    LaneBudget,
    /// A batch of a lane in which forged bundles were found.
    #[error("a batch of a lane that is closed for a while because of forged bundles in it")]
    LaneThrottled,
    /// Fetched data that is not what was asked for.
    #[error("fetched data that does not match the digest asked for")]
    FetchMismatch,
    /// A page of a state that is not what was asked for.
    #[error("a page of a state that does not match the digest asked for")]
    StatePage,
    /// A peer asks for more pages of states while as much as it may ask for is unanswered.
    #[error("a peer with too many questions for pages of states open")]
    PageQuestions,
    /// An answer to nothing that was asked, which is not read: whoever is slow may send one.
    #[error("an answer that nobody has asked for")]
    Unasked,
    /// A consensus message whose signature does not match.
    #[error("a consensus message with a wrong signature")]
    ConsensusSignature,
    /// A handshake that failed; counted by the driver.
    #[error("a handshake that failed")]
    Handshake,
    /// A consensus message that breaks a rule of acceptance.
    #[error("a consensus message against the rules: {0}")]
    Consensus(#[from] quorate_consensus::Reject),
}

impl Reject {
    /// All labels.
    pub const LABELS: &'static [&'static str] = &[
        "malformed",
        "foreign_bundle",
        "bundle_signature",
        "busy",
        "foreign_batch",
        "batch_gap",
        "batch_fork",
        "lane_budget",
        "lane_throttled",
        "fetch_mismatch",
        "state_page",
        "page_questions",
        "unasked",
        "consensus_signature",
        "handshake",
        "header_parent",
        "header_epoch",
        "header_timestamp",
        "header_cut",
        "equivocation",
        "double_vote",
        "header_fetch_mismatch",
        "certificate",
        "new_view",
    ];

    /// The label under which it is counted.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "malformed",
            Self::ForeignBundle => "foreign_bundle",
            Self::BundleSignature => "bundle_signature",
            Self::Busy => "busy",
            Self::ForeignBatch => "foreign_batch",
            Self::BatchGap => "batch_gap",
            Self::BatchFork => "batch_fork",
            Self::LaneBudget => "lane_budget",
            Self::LaneThrottled => "lane_throttled",
            Self::FetchMismatch => "fetch_mismatch",
            Self::StatePage => "state_page",
            Self::PageQuestions => "page_questions",
            Self::Unasked => "unasked",
            Self::ConsensusSignature => "consensus_signature",
            Self::Handshake => "handshake",
            Self::Consensus(reject) => reject.label(),
        }
    }
}
