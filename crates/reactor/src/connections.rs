//! The slab of connections and the state of each.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use crate::address::KernelAddress;
use crate::operation::{INDEX_MAX, Kind, Operation};
use crate::outgoing::Outgoing;

/// A connection of one reactor. An id whose connection is over is harmless everywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

impl ConnectionId {
    pub(crate) fn operation(self, kind: Kind) -> Operation {
        Operation::new(kind, self.index, self.generation)
    }
}

/// A listener of one reactor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ListenerId {
    pub(crate) index: u32,
}

/// Where a connection is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The caller uses it; it may still be connecting.
    Open,
    /// The caller called finish: what is queued leaves, what arrives is dropped.
    Draining,
    /// Everything left, our half is shut, and the peer's end of stream is awaited.
    Lingering,
    /// Over for the caller. The slot stays until the kernel has let go of it.
    Closing,
}

/// What the receiving side does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Receiving {
    /// Nothing is armed.
    Idle,
    /// A receive is with the kernel.
    Armed,
    /// Waits in the queue of those that found no buffer.
    Starved,
    /// The peer's stream is at its end.
    Ended,
}

/// One connection. It is freed only when none of its operations is with the kernel.
pub(crate) struct Connection {
    pub(crate) socket: OwnedFd,
    pub(crate) phase: Phase,
    pub(crate) receiving: Receiving,
    /// The caller takes nothing for now: no receive is armed again.
    pub(crate) paused: bool,
    /// The address of a connect in flight; the kernel reads it.
    pub(crate) connecting: Option<Box<KernelAddress>>,
    pub(crate) outgoing: Outgoing,
    /// Whether the connection is in the reactor's list of those with something to send.
    pub(crate) listed: bool,
}

impl Connection {
    pub(crate) fn new(socket: OwnedFd) -> Connection {
        Connection {
            socket,
            phase: Phase::Open,
            receiving: Receiving::Idle,
            paused: false,
            connecting: None,
            outgoing: Outgoing::default(),
            listed: false,
        }
    }

    pub(crate) fn descriptor(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// Whether the kernel may still touch memory of this connection or complete an operation on it.
    pub(crate) fn is_with_kernel(&self) -> bool {
        self.receiving == Receiving::Armed || self.connecting.is_some() || self.outgoing.is_in_flight()
    }
}

#[derive(Default)]
struct Slot {
    generation: u32,
    connection: Option<Connection>,
}

/// All connections of a reactor.
#[derive(Default)]
pub(crate) struct Connections {
    slots: Vec<Slot>,
    free: Vec<u32>,
}

impl Connections {
    /// Takes in a connection, or drops it when the slab is full, which needs 16 million of them.
    pub(crate) fn insert(&mut self, connection: Connection) -> Option<ConnectionId> {
        let index = match self.free.pop() {
            Some(index) => index,
            None => {
                let index = u32::try_from(self.slots.len()).unwrap_or(INDEX_MAX);
                if index >= INDEX_MAX {
                    return None;
                }
                self.slots.push(Slot::default());
                index
            }
        };
        let slot = &mut self.slots[index as usize];
        assert!(slot.connection.is_none(), "invariant: the free list names empty slots");
        slot.connection = Some(connection);
        Some(ConnectionId { index, generation: slot.generation })
    }

    /// The connection, unless it is over for the caller.
    pub(crate) fn live(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        self.any(id).filter(|connection| connection.phase != Phase::Closing)
    }

    /// The same for reading.
    pub(crate) fn live_ref(&self, id: ConnectionId) -> Option<&Connection> {
        let slot = self.slots.get(id.index as usize).filter(|slot| slot.generation == id.generation)?;
        slot.connection.as_ref().filter(|connection| connection.phase != Phase::Closing)
    }

    /// The connection, even while it is only waiting for the kernel.
    pub(crate) fn any(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        let slot = self.slots.get_mut(id.index as usize).filter(|slot| slot.generation == id.generation)?;
        slot.connection.as_mut()
    }

    /// The connection of a completion, which must still be there.
    pub(crate) fn of_completion(&mut self, operation: Operation) -> (ConnectionId, &mut Connection) {
        let id = ConnectionId { index: operation.index, generation: operation.generation };
        let connection = self.any(id).expect("invariant: a slot outlives the operations that name it");
        (id, connection)
    }

    /// Takes a connection out; its id is stale from here on, and its slot may be used again.
    pub(crate) fn remove(&mut self, id: ConnectionId) -> Connection {
        let slot = &mut self.slots[id.index as usize];
        assert!(slot.generation == id.generation, "invariant: only the present connection is removed");
        let connection = slot.connection.take().expect("invariant: a connection is removed once");
        assert!(!connection.is_with_kernel(), "invariant: the kernel has let go of the connection");
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(id.index);
        connection
    }
}
