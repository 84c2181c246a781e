//! The typed messages between the roles of one replica.

use crate::interface::ClientConnection;
use crate::report::{Extras, RoleReport};
use crate::timeline::HeaderTimes;
use quorate_lanes::Batch;
use quorate_types::{
    CoreId, Digest, JournalId, LaneId, LaneNumber, LaneUpdate, Lsn, Mark, Nanoseconds, Nonce, ReplicaId, Seq,
    SessionId, View,
};
use quorate_wire::message::{CheckpointCertificate, FetchCertificate, FetchPages, FetchedPages};
use quorate_wire::{Frame, Header, LaneTip, Position};
use std::sync::Arc;

/// Which replies a client's connection wants. Always those of its own key: others' sessions are none of its business.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wanted {
    /// Those of a session of this key.
    Session(SessionId, [u8; 32]),
    /// Those of the registration of this key with the nonce and, once it has opened one, of its session.
    Registration(Nonce, [u8; 32]),
}

/// A message to one of the roles on a core.
#[derive(Debug, Clone)]
pub enum Mail {
    /// To the core's link role.
    Link(LinkMail),
    /// To the ordering role.
    Ordering(OrderingMail),
    /// To the execution role.
    Execution(ExecutionMail),
    /// To the core itself: a journal of another core is durable up to a position.
    Durable {
        /// The journal.
        journal: JournalId,
        /// The end of its contiguous durable prefix.
        upto: Lsn,
    },
}

/// What a link role is told.
#[derive(Debug, Clone)]
pub enum LinkMail {
    /// Lanes are executed up to these tips.
    Executed(Arc<[LaneTip]>),
    /// What clients' keys have used of execution lately, by their places in the configuration.
    Used(Arc<[u32]>),
    /// A committed header names a tip that is not held.
    Want(LaneTip),
    /// A proposal names a tip that has not come for a while, or that too few are known to hold.
    WantProposed {
        /// The tip.
        tip: LaneTip,
        /// Where the header before leaves its lane.
        floor: Mark,
        /// Who has proposed it.
        primary: ReplicaId,
    },
    /// No header names these any more that may come back.
    Unname(Vec<LaneTip>),
    /// Whether others are known to have committed more than this replica.
    Behind(bool),
    /// A state with these tips came from others and is durable: the lanes go on from there.
    Install(Arc<[LaneTip]>),
    /// Whether clients' bundles are declined because the replica catches up by taking over a state.
    Following(bool),
    /// Somebody copies the state with these tips, or nobody does any more.
    Pin(Option<Arc<[LaneTip]>>),
    /// A frame for a peer, from the execution role; nothing durable stands behind it.
    Send {
        /// The peer.
        peer: ReplicaId,
        /// The frame.
        frame: Frame,
    },
    /// A peer sent a page that is not what was asked for.
    Condemn(ReplicaId),
    /// The state with these tips is durable and certified: what led to it may be trimmed from the journal.
    Trim(Arc<[LaneTip]>),
    /// A reply for one of its clients.
    Reply {
        /// The client's connection.
        connection: ClientConnection,
        /// The encoded reply.
        frame: Frame,
    },
    /// A newer connection wants the replies that one of its clients has got so far.
    Replaced(ClientConnection),
    /// A committed header names an own lane up to a batch.
    Ordered {
        /// The lane.
        lane: LaneId,
        /// The batch.
        upto: LaneNumber,
        /// When the header passed its stages.
        times: HeaderTimes,
    },
    /// The replies before this one were the results of so many bundles.
    Replied {
        /// The number of bundles.
        bundles: u64,
        /// When they were executed. Set by the driver when it hands this to another core, as it alone knows when the
        /// step that executed them ended.
        executed: Option<Nanoseconds>,
    },
    /// A finished report: what the roles know.
    Report(Box<RoleReport>),
}

/// What the ordering role is told.
#[derive(Debug, Clone)]
pub enum OrderingMail {
    /// A lane has moved.
    Lane(LaneUpdate),
    /// Headers are executed up to here.
    Executed(Position),
    /// A certified state came from others and is durable: consensus goes on from its slot.
    Installed {
        /// The slot.
        position: Position,
        /// The timestamp of its header.
        timestamp: Nanoseconds,
        /// Where the lanes stand.
        tips: Arc<[LaneTip]>,
    },
    /// The root of the state after a slot at which a checkpoint is due.
    Root {
        /// The slot.
        position: Position,
        /// The root.
        root: Digest,
    },
    /// A report is asked for.
    Report {
        /// The core whose clients ask.
        core: CoreId,
        /// What they ask for.
        extras: Extras,
    },
}

/// What the execution role is told.
#[derive(Debug, Clone)]
pub enum ExecutionMail {
    /// A batch is held.
    Held(Arc<Batch>),
    /// A batch is held no more, and can never be named again.
    LetGo(LaneTip),
    /// As many others as answer for certain have nothing of a batch that leads to what a header names; or somebody has served
    /// it after all.
    UnservedBatch(LaneId, Option<LaneTip>),
    /// As many others as answer for certain have nothing of a header that leads to a certified slot; or somebody has served it
    /// after all.
    UnservedHeader(Option<Position>),
    /// The next header is committed.
    Committed {
        /// The header.
        header: Arc<Header>,
        /// Its position.
        position: Position,
        /// The view in which this replica learned of it; a hint for clients.
        view: View,
        /// When it was committed.
        committed: Nanoseconds,
    },
    /// Of the durable states, only those after these slots are needed, and later ones; the lowest is certified.
    States(Vec<Seq>),
    /// The connection to a peer has come or gone.
    Peer {
        /// The peer.
        peer: ReplicaId,
        /// Whether it stands.
        connected: bool,
    },
    /// A peer asks for pages of a state.
    FetchPages(ReplicaId, FetchPages),
    /// A peer has taken the last answer with pages.
    PagesTaken(ReplicaId),
    /// A client asks for pages of a state.
    ClientPages(ClientConnection, FetchPages),
    /// A client asks for the certificate of a state whose pages it can have.
    ClientCertificate(ClientConnection, FetchCertificate),
    /// A peer answers with pages of a state.
    FetchedPages(ReplicaId, Box<FetchedPages>),
    /// A state is certified.
    Stable(Arc<CheckpointCertificate>),
    /// A connection wants replies.
    Attach {
        /// The connection.
        connection: ClientConnection,
        /// Which.
        wanted: Wanted,
    },
    /// A client's connection is gone.
    Gone(ClientConnection),
    /// A report on its way, the ordering role's part filled in.
    Report {
        /// The core whose clients ask.
        core: CoreId,
        /// What is known so far.
        report: Box<RoleReport>,
    },
}
