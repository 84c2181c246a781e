//! What can go wrong between a client and its cluster, and the remedy.

use crate::SubmitError;
use quorate_types::{BundleNumber, ReplicaId, Seq};
use quorate_wire::DecodeError;
use quorate_wire::handshake::HandshakeError;
use quorate_wire::message::BusyReason;
use thiserror::Error;

/// What an error says of the bundle that it is about (DESIGN section 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was not executed and never will be.
    NotDone,
    /// It was executed; only its results are not known.
    Done,
    /// It may have been executed, or may be yet.
    Unknown,
}

/// Why a bundle was definitely not executed, although it was sent.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum NotDone {
    /// No replica took it, and an empty bundle was executed in its place.
    #[error("no replica took it: {}", .0.describe())]
    Declined(BusyReason),
    /// Its number was used by another bundle: somebody else has a copy of this session.
    #[error(
        "its number was used by another bundle of the same session; let each process open its own session"
    )]
    NumberUsed,
}

/// Why the cluster could not be reached or a bundle has no result. Whatever is said about replicas is one
/// line per replica.
#[derive(Debug, Error)]
pub enum ClientError {
    /// Too few replicas could be reached.
    #[error(
        "{connected} of {replicas} replicas connected after {seconds} s, {quorum} are needed; start the others, \
         or correct their client addresses in cluster.toml:{states}"
    )]
    Unreachable {
        /// How many are connected.
        connected: usize,
        /// How many there are.
        replicas: usize,
        /// How many are needed.
        quorum: usize,
        /// How long was waited, in seconds.
        seconds: u64,
        /// One line per replica.
        states: String,
    },
    /// So many replicas refuse this client that waiting is of no use.
    #[error("the cluster refuses this client:{states}")]
    Refused {
        /// One line per replica.
        states: String,
    },
    /// Enough replicas are connected, but they do not agree on the registration of the session.
    #[error(
        "{connected} replicas connected, but the session was not registered within {seconds} s: the cluster makes \
         no progress; `quorate status` says why:{states}"
    )]
    NotRegistered {
        /// How many are connected.
        connected: usize,
        /// How long was waited, in seconds.
        seconds: u64,
        /// One line per replica.
        states: String,
    },
    /// The system gave no random bytes for the registration.
    #[error("the system's random source failed: {0}")]
    Random(String),
    /// The bundle was not taken.
    #[error(transparent)]
    Submit(#[from] SubmitError),
    /// The bundle was executed, but so long ago that its results are no longer kept.
    #[error(
        "bundle {number} was executed at seq {seq}, but its results are no longer kept; read the keys again"
    )]
    ResultsGone {
        /// The bundle.
        number: BundleNumber,
        /// Where it was executed.
        seq: Seq,
    },
    /// The bundle was sent, but not executed, and it never will be.
    #[error("the bundle was not executed and will not be: {0}")]
    NotDone(NotDone),
    /// The session was evicted, as the key has opened too many others since, and the cluster does not know any more how
    /// far it came.
    #[error(
        "the session was evicted while the bundle was open; whether it was executed is unknown; read the keys again"
    )]
    Evicted,
    /// As many bundles as allowed were open all the time: this one was not sent.
    #[error(
        "{} bundles were open for {seconds} s and none of them was answered; this one was not sent:{states}",
        quorate_types::limits::OPEN_BUNDLES_MAX
    )]
    NoRoom {
        /// How long was waited, in seconds.
        seconds: u64,
        /// One line per replica.
        states: String,
    },
    /// Nobody answered in time.
    #[error(
        "no agreed answer within {seconds} s; whether the bundle was or will be executed is unknown; \
         `quorate status` says whether the cluster makes progress:{states}"
    )]
    Unanswered {
        /// How long was waited, in seconds.
        seconds: u64,
        /// One line per replica.
        states: String,
    },
    /// A report was asked of a replica that is not in the configuration.
    #[error("there is no replica {replica}; this cluster has {replicas}")]
    NoSuchReplica {
        /// The one asked for.
        replica: ReplicaId,
        /// How many there are.
        replicas: usize,
    },
    /// A report was asked of a replica that cannot be reached, or that does not answer.
    #[error("no report:{state}")]
    NoReport {
        /// The line about the replica.
        state: String,
    },
    /// The client was closed while the bundle was open; its outcome is unknown.
    #[error("the client was closed; whether the bundle was executed is unknown")]
    Closed,
}

impl ClientError {
    /// What this says of the bundle that it is about.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Unreachable { .. }
            | Self::Refused { .. }
            | Self::NotRegistered { .. }
            | Self::Random(_)
            | Self::Submit(_)
            | Self::NotDone(_)
            | Self::NoRoom { .. }
            | Self::NoSuchReplica { .. }
            | Self::NoReport { .. } => Outcome::NotDone,
            Self::ResultsGone { .. } => Outcome::Done,
            Self::Unanswered { .. } | Self::Evicted | Self::Closed => Outcome::Unknown,
        }
    }
}

/// Why a connection to one replica does not stand.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum LinkError {
    /// Nothing was tried yet.
    #[error("not tried yet")]
    NotTried,
    /// The connection could not be made, or broke.
    #[error("{0}")]
    Io(String),
    /// The connection could not be made in time.
    #[error("no answer to the connection; is the host up?")]
    ConnectDeadline,
    /// The handshake took too long.
    #[error(
        "it accepted the connection but did not complete the handshake in time; is it stopped or overloaded?"
    )]
    HandshakeDeadline,
    /// The handshake failed.
    #[error(transparent)]
    Handshake(HandshakeError),
    /// The replica sent what is no message.
    #[error("it does not speak the protocol: {0}")]
    Protocol(DecodeError),
    /// The replica takes nothing in.
    #[error("{bytes} bytes wait to be sent to it; it does not read")]
    Stalled {
        /// The bytes that waited.
        bytes: usize,
    },
    /// The replica closed the connection.
    #[error("it closed the connection")]
    Ended,
    /// The system gave no random bytes for the handshake.
    #[error("the system's random source failed: {0}")]
    Random(String),
}
