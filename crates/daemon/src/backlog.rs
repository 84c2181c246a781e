//! How much of what comes on one connection a tick takes: what is over waits, so that who sends as fast as it can waits
//! behind itself, and nobody behind it. It waits for credit in time and not for the next tick: a core that always had
//! something to do would be the last to be given a processor where others want it too. A connection of which something
//! waits is not received from. Whoever is behind after a stall is taken in faster all the same than any replica sends.

use crate::connection::{Connection, Phase};
use crate::driver::Driver;
use quorate_reactor::ConnectionId;
use quorate_replica::Reject;
use quorate_telemetry::Counter;
use quorate_types::{Credit, limits};
use quorate_wire::{Assembler, DecodeError, FrameRef};
use std::time::{Duration, Instant};

/// What has come and is not taken, in the order in which it came.
#[derive(Debug, Default)]
pub(crate) struct Backlog {
    bytes: Vec<u8>,
    /// The first so many of them are taken.
    taken: usize,
    /// What later ticks have taken, of one that has not said who it is.
    credit: Credit,
}

impl Backlog {
    fn is_empty(&self) -> bool {
        self.taken == self.bytes.len()
    }

    /// Its memory.
    pub(crate) fn held_bytes(&self) -> usize {
        self.bytes.capacity()
    }
}

/// What a tick has taken of one connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Taken {
    /// When the tick began.
    tick: Instant,
    frames: usize,
    bytes: usize,
}

impl Taken {
    pub(crate) fn nothing(tick: Instant) -> Self {
        Self { tick, frames: 0, bytes: 0 }
    }

    fn in_tick(self, tick: Instant) -> Self {
        if self.tick == tick { self } else { Self::nothing(tick) }
    }

    /// What it costs to have gone so far.
    fn cost(self) -> u64 {
        let frames = self.frames as u64 * limits::BACKLOG_TIME.0 / limits::TICK_FRAMES_MAX as u64;
        frames.max(self.bytes as u64 * limits::BACKLOG_BYTE_TIME.0)
    }

    fn is_enough(self) -> bool {
        self.frames >= limits::TICK_FRAMES_MAX || self.bytes >= limits::TICK_BYTES_MAX
    }
}

impl Driver {
    /// Takes what arrived, as far as this tick may; the rest waits.
    pub(crate) fn on_received(&mut self, id: ConnectionId, bytes: &[u8]) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if !connection.backlog.is_empty() {
            connection.backlog.bytes.extend_from_slice(bytes);
            return self.note_half_sent(id);
        }
        let left = self.take_frames(id, bytes);
        if left > 0
            && let Some(connection) = self.connections.get_mut(&id)
        {
            connection.backlog.bytes.extend_from_slice(&bytes[bytes.len() - left..]);
            self.put_off(id);
            self.reactor.pause(id);
            self.count(Counter::ConnectionsHeldBack);
        }
        self.note_half_sent(id);
    }

    /// Takes what ticks before have left, where there is credit for that, as far as this tick may.
    pub(crate) fn take_backlogs(&mut self) {
        for _ in 0..limits::TICK_BACKLOGS_MAX {
            let Some((_, id)) = self.backlogs.first().copied().filter(|(due, _)| *due <= self.tick) else {
                break;
            };
            self.backlogs.pop_first();
            let Some(connection) = self.connections.get_mut(&id) else { continue };
            let mut backlog = std::mem::take(&mut connection.backlog);
            let left = self.take_frames(id, &backlog.bytes[backlog.taken..]);
            backlog.taken = backlog.bytes.len() - left;
            let Some(connection) = self.connections.get_mut(&id) else { continue };
            if left > 0 {
                connection.backlog = backlog;
                self.put_off(id);
            } else {
                connection.backlog.credit = backlog.credit;
                self.reactor.resume(id);
            }
            self.note_half_sent(id);
        }
    }

    /// As much was taken as a tick may: that is paid for, and the rest waits for credit, until the next tick at least.
    fn put_off(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let cost = connection.taken.in_tick(self.tick).cost();
        let own = &mut connection.backlog.credit;
        // Of a client all connections of its key pay together, of a peer all of its link that come after each other.
        let credit = match &connection.phase {
            Phase::Client { held, .. } => self.accounts.credit(held),
            Phase::Peer { peer, link } => {
                self.peers.get_mut(*peer, *link).map_or(own, |state| &mut state.credit)
            }
            _ => own,
        };
        credit.spend(self.clock.now(), cost);
        let due = self.clock.instant_of(credit.due(limits::BACKLOG_BURST.0));
        self.backlogs.insert((due.max(self.tick + Duration::from_nanos(1)), id));
    }

    /// Finds frames in bytes of a connection and handles them, as many as this tick may; says how many bytes are left. After
    /// a malformed frame the connection is closed.
    fn take_frames(&mut self, id: ConnectionId, mut bytes: &[u8]) -> usize {
        let Some(connection) = self.connections.get_mut(&id) else { return 0 };
        let mut taken = connection.taken.in_tick(self.tick);
        if let Phase::Client { held, .. } = &connection.phase
            && self.accounts.has_enough(held, self.tick)
        {
            return bytes.len();
        }
        let before = taken.frames;
        // The assembler lends frames out while the rest of the driver handles them.
        let spare = self.spare_assembler.take().unwrap_or_else(|| Assembler::new(0));
        let mut assembler = std::mem::replace(&mut connection.assembler, spare);
        let result = take(&mut assembler, &mut bytes, &mut taken, |frame| {
            self.count(Counter::FramesReceived);
            let established = self.on_frame(id, frame);
            self.connections.get(&id).filter(|_| established).map(Connection::frame_bytes_max)
        });
        if let Err(error) = result {
            self.count(Counter::FramesRefused);
            let from = self.connections.get(&id).map(|found| found.address);
            self.count_reject(Reject::Malformed(error), from);
            self.refuse(id, &error);
        }
        let Some(connection) = self.connections.get_mut(&id) else { return 0 };
        connection.taken = taken;
        if let Phase::Client { held, .. } = &connection.phase {
            self.accounts.note_frames(held, self.tick, taken.frames - before);
        }
        self.spare_assembler = Some(std::mem::replace(&mut connection.assembler, assembler));
        bytes.len()
    }
}

/// Hands frames out, as many as a tick may take; what comes back is the longest that may come from there on, if that
/// changes.
fn take(
    assembler: &mut Assembler,
    bytes: &mut &[u8],
    taken: &mut Taken,
    mut handle: impl FnMut(FrameRef<'_>) -> Option<usize>,
) -> Result<(), DecodeError> {
    let mut result = Ok(());
    while !taken.is_enough() {
        let before = bytes.len();
        let next = assembler.next(bytes);
        taken.bytes += before - bytes.len();
        let limit = match next {
            Ok(Some(frame)) => handle(frame),
            Ok(None) => break,
            Err(error) => {
                result = Err(error);
                break;
            }
        };
        taken.frames += 1;
        if let Some(limit) = limit {
            assembler.set_limit(limit);
        }
    }
    // The next tick may be long in coming.
    assembler.let_go();
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_wire::{Frame, Kind};

    #[test]
    fn a_tick_takes_so_much_and_keeps_no_frame_that_it_has_handled() {
        let frame = |length: usize| Frame::encode(Kind::Bundle, |out| out.resize(out.len() + length, 7));
        let (short, long) = (frame(30), frame(500_000));
        let mut stream = short.bytes().repeat(limits::TICK_FRAMES_MAX - 1);
        stream.extend_from_slice(long.bytes());
        let cut = stream.len() - 9;
        stream.extend_from_slice(&short.bytes().repeat(5));
        let (mut assembler, mut taken) = (Assembler::new(1 << 20), Taken::nothing(Instant::now()));
        let mut frames = 0;
        let mut handle = |_: FrameRef<'_>| {
            frames += 1;
            None
        };
        let mut first = &stream[..cut];
        take(&mut assembler, &mut first, &mut taken, &mut handle).expect("all of it is sound");
        assert!(first.is_empty() && assembler.partial_bytes() > 400_000);
        let mut second = &stream[cut..];
        take(&mut assembler, &mut second, &mut taken, &mut handle).expect("all of it is sound");
        assert_eq!((second.len(), assembler.partial_bytes()), (5 * short.bytes().len(), 0));
        assert_eq!(frames, limits::TICK_FRAMES_MAX);
    }
}
