//! Faults begin and end.

use super::{Cluster, Route, core_id};
use crate::faults::{FaultKind, blocked_pairs};
use crate::network::{ConnectionId, Side};
use crate::oracle::Finding;
use crate::plan::Carriage;
use crate::trace::Detail;
use std::sync::Arc;

impl Cluster {
    pub(super) fn on_fault_begins(&mut self, fault: usize) {
        let kind = self.plan.faults[fault].kind;
        self.trace
            .note(self.now, Detail::Readable, &[10, fault as u64], || format!("fault begins: {kind:?}"));
        match kind {
            FaultKind::BreakPeer { from, to, link } => {
                let (low, high) = (from.min(to), from.max(to));
                let connection = self.peers[low.index()][high.index()][link.index()];
                self.network.disconnect(self.now, connection, &mut self.queue);
            }
            FaultKind::BreakClient { client, replica } => {
                let connection = self.clients[client].connections[replica.index()];
                self.network.disconnect(self.now, connection, &mut self.queue);
            }
            FaultKind::RestartClient { client } => {
                for connection in self.clients[client].connections.clone() {
                    self.network.disconnect(self.now, connection, &mut self.queue);
                }
                let asked = self.clients[client].restart(Arc::clone(&self.config));
                self.oracles.asked.extend(asked);
                self.schedule_submissions(client);
            }
            FaultKind::Pause { replica } => self.host(replica).pauses += 1,
            FaultKind::Slow { replica, factor } => self.host(replica).slowness *= factor,
            FaultKind::StallDisk { replica } => self.host(replica).stalls += 1,
            FaultKind::FillDisk { replica } => {
                let host = self.host(replica);
                host.fills += 1;
                // Each time it is another thing that there is still room for.
                host.filled = (host.filled + 1) % 3;
                self.tell_of_room(replica);
            }
            FaultKind::Crash { replica } => self.crash_soon(replica),
            FaultKind::LoseDisk { replica } => {
                self.host(replica).downs += 1;
                self.lose_disk(replica);
            }
            FaultKind::Corrupt { replica } => {
                self.host(replica).downs += 1;
                self.corrupt_disk(replica);
            }
            FaultKind::Rot { replica } => {
                self.host(replica).downs += 1;
                self.rot_disk(replica);
            }
            FaultKind::Decay { replica } => self.decay(replica),
            FaultKind::CutOneWay { .. }
            | FaultKind::CutBothWays { .. }
            | FaultKind::Split { .. }
            | FaultKind::Isolate { .. }
            | FaultKind::CutClient { .. } => {}
        }
        for (connection, side) in self.blocked_ways(kind) {
            self.network.block(connection, side);
        }
    }

    pub(super) fn on_fault_ends(&mut self, fault: usize) -> Result<(), Finding> {
        let kind = self.plan.faults[fault].kind;
        self.trace.note(self.now, Detail::Readable, &[11, fault as u64], || format!("fault ends: {kind:?}"));
        for (connection, side) in self.blocked_ways(kind) {
            self.network.unblock(self.now, connection, side, &mut self.queue);
        }
        match kind {
            FaultKind::Pause { replica } => {
                self.host(replica).pauses -= 1;
                for core in 0..self.plan.cores {
                    self.wake(replica, core_id(core));
                }
            }
            FaultKind::Slow { replica, factor } => self.host(replica).slowness /= factor,
            FaultKind::StallDisk { replica } => {
                self.host(replica).stalls -= 1;
                self.resume_disk(replica);
            }
            FaultKind::FillDisk { replica } => {
                self.host(replica).fills -= 1;
                self.tell_of_room(replica);
                self.resume_disk(replica);
            }
            FaultKind::Crash { replica }
            | FaultKind::LoseDisk { replica }
            | FaultKind::Corrupt { replica }
            | FaultKind::Rot { replica } => {
                self.end_down(replica)?;
            }
            _ => {}
        }
        Ok(())
    }

    /// The ways that a fault blocks: each a connection and the side that gets nothing.
    fn blocked_ways(&self, kind: FaultKind) -> Vec<(ConnectionId, Side)> {
        let single = matches!(self.plan.network.carriage, Carriage::Single { .. });
        let paused = matches!(kind, FaultKind::Pause { .. });
        let mut ways = Vec::new();
        // A blocked way of single frames loses them; a stopped process does not.
        let pairs = if single && paused { Vec::new() } else { blocked_pairs(kind, self.plan.replicas) };
        for (from, to) in pairs {
            let (low, high) = (from.min(to), from.max(to));
            let side = if to == low { Side::Dialer } else { Side::Listener };
            ways.extend(self.peers[low.index()][high.index()].iter().map(|connection| (*connection, side)));
        }
        for (index, route) in self.routes.iter().enumerate() {
            let Route::Client { client, replica, .. } = *route else { continue };
            match kind {
                FaultKind::CutClient { client: cut, replica: from } if (cut, from) == (client, replica) => {
                    ways.extend(Side::BOTH.map(|side| (ConnectionId(index), side)));
                }
                FaultKind::Pause { replica: paused } if paused == replica => {
                    ways.push((ConnectionId(index), Side::Listener));
                }
                _ => {}
            }
        }
        ways
    }
}
