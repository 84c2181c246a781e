//! One replica under simulation: its cores with their inboxes, its disk, its clock and what faults do to it.

use crate::disk::Disk;
use quorate_replica::mail::Mail;
use quorate_replica::{ClientConnection, Core, Input};
use quorate_types::{CoreId, Digest, JournalId, LinkId, Lsn, Nanoseconds, ReplicaId};
use quorate_wire::{Frame, Position};
use std::collections::{BTreeSet, VecDeque};

/// An input that waits for a core; the owned form of [`Input`].
#[derive(Debug)]
pub enum Arrival {
    /// See [`Input::PeerConnected`].
    PeerConnected(ReplicaId, LinkId),
    /// See [`Input::PeerDisconnected`].
    PeerDisconnected(ReplicaId, LinkId),
    /// See [`Input::PeerDrained`].
    PeerDrained(ReplicaId, LinkId),
    /// See [`Input::PeerFrame`].
    PeerFrame(ReplicaId, LinkId, Frame),
    /// See [`Input::ClientConnected`].
    ClientConnected(ClientConnection, [u8; 32]),
    /// See [`Input::ClientDisconnected`].
    ClientDisconnected(ClientConnection),
    /// See [`Input::ClientFrame`].
    ClientFrame(ClientConnection, Frame),
    /// See [`Input::Mail`].
    Mail(Mail),
    /// See [`Input::Durable`].
    Durable(JournalId, Lsn),
    /// See [`Input::Checkpointed`].
    Checkpointed(Position, Digest),
}

impl Arrival {
    /// Hands the input to `step`.
    pub fn hand_to<T>(self, step: impl FnOnce(Input<'_>) -> T) -> T {
        match self {
            Self::PeerConnected(peer, link) => step(Input::PeerConnected { peer, link }),
            Self::PeerDisconnected(peer, link) => step(Input::PeerDisconnected { peer, link }),
            Self::PeerDrained(peer, link) => step(Input::PeerDrained { peer, link }),
            Self::PeerFrame(peer, link, frame) => {
                step(Input::PeerFrame { peer, link, frame: frame.as_frame_ref() })
            }
            Self::ClientConnected(connection, key) => step(Input::ClientConnected { connection, key }),
            Self::ClientDisconnected(connection) => step(Input::ClientDisconnected { connection }),
            Self::ClientFrame(connection, frame) => {
                step(Input::ClientFrame { connection, frame: frame.as_frame_ref() })
            }
            Self::Mail(mail) => step(Input::Mail(mail)),
            Self::Durable(journal, upto) => step(Input::Durable { journal, upto }),
            Self::Checkpointed(position, root) => step(Input::Checkpointed { position, root }),
        }
    }
}

/// One core of a replica.
#[derive(Debug)]
pub struct CoreHost {
    /// The state machine.
    pub core: Core,
    /// What it has not taken yet.
    pub inbox: VecDeque<Arrival>,
    /// When it ticks next; a tick event at another time is void.
    pub tick_at: Option<Nanoseconds>,
    /// Messages on their way from each core of the replica.
    pub mail: Vec<VecDeque<Mail>>,
    /// Ticks in a row that had no input and left a deadline that was over already.
    pub spins: u32,
}

/// One replica.
#[derive(Debug)]
pub struct Host {
    /// Its cores.
    pub cores: Vec<CoreHost>,
    /// Its journals.
    pub disk: Disk,
    /// Which core appends to a journal.
    pub journal_core: Vec<Option<CoreId>>,
    /// How far its clock is ahead of the true one.
    pub clock: Nanoseconds,
    /// How many faults pause it.
    pub pauses: u32,
    /// How many times as long its cores take.
    pub slowness: u64,
    /// How many faults stall its disk.
    pub stalls: u32,
    /// Writes that fell due while the disk was stalled.
    pub stalled_writes: Vec<(JournalId, Lsn)>,
    /// When the last state that was to be hashed is.
    pub checkpointed_at: Nanoseconds,
    /// The links that its cores know to stand.
    pub links: BTreeSet<(ReplicaId, LinkId)>,
    /// The number of the next client connection.
    pub client_connections: u64,
}

impl Host {
    /// A replica that has seen nothing yet.
    #[must_use]
    pub fn new(cores: Vec<Core>, clock: Nanoseconds) -> Self {
        let count = cores.len();
        let host = |core| CoreHost {
            core,
            inbox: VecDeque::new(),
            tick_at: None,
            mail: (0..count).map(|_| VecDeque::new()).collect(),
            spins: 0,
        };
        // One journal for consensus, one per core for batches.
        let journals = count + 1;
        Self {
            cores: cores.into_iter().map(host).collect(),
            disk: Disk::new(journals),
            journal_core: vec![None; journals],
            clock,
            pauses: 0,
            slowness: 1,
            stalls: 0,
            stalled_writes: Vec::new(),
            checkpointed_at: Nanoseconds(0),
            links: BTreeSet::new(),
            client_connections: 0,
        }
    }

    /// The time on the replica's clock.
    #[must_use]
    pub fn local(&self, now: Nanoseconds) -> Nanoseconds {
        now.plus(self.clock.0)
    }

    /// The true time when the replica's clock shows `local`, but not before `now`.
    #[must_use]
    pub fn global(&self, local: Nanoseconds, now: Nanoseconds) -> Nanoseconds {
        Nanoseconds(local.since(self.clock)).max(now)
    }
}
