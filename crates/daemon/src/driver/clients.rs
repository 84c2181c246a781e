//! The clients of one core: who comes and goes, what they ask for, and what is sent to them.

use super::Driver;
use crate::accounts::{Excess, Held, Kind as HeldKind, Late};
use crate::clients::Welcome;
use crate::connection::{Connection, Phase, TooManyOpen};
use crate::report;
use quorate_reactor::ConnectionId;
use quorate_replica::report::RoleReport;
use quorate_replica::{ClientConnection, Input};
use quorate_telemetry::Counter;
use quorate_types::limits;
use quorate_wire::message::{Message, Report};
use quorate_wire::{Frame, FrameRef, Kind};
use std::collections::BTreeMap;

impl Driver {
    /// Whether another client with this key may come; one of a key that has more than its part may go for that.
    pub(super) fn makes_room(&mut self, key: &[u8; 32]) -> bool {
        let heard = |id| self.connections.get(&id).map(|connection| connection.heard);
        match self.clients.welcome(key, self.tick, heard) {
            Welcome::Room => true,
            Welcome::Instead(other) => {
                self.count(Counter::ClientsDisplaced);
                self.refused.displaced += 1;
                self.reactor.close(other);
                self.on_closed(other, false);
                true
            }
            Welcome::Full => {
                self.count(Counter::ClientsRefused);
                self.refused.full += 1;
                false
            }
        }
    }

    pub(super) fn on_client_established(&mut self, id: ConnectionId, key: [u8; 32]) {
        self.client_count += 1;
        let number = self.client_count;
        let place = self.config.cluster.clients().iter().position(|client| *client.as_bytes() == key);
        let held = Held::new(place.expect("invariant: the handshake let in an allowed client"));
        self.establish(id, Phase::Client { number, reports: 0, held });
        self.accounts.expect_look(self.tick);
        self.clients.insert(number, id, key);
        self.shared.set_clients(self.id.index(), self.clients.len());
        let connection = ClientConnection { core: self.id, number };
        self.step(Input::ClientConnected { connection, key });
    }

    pub(super) fn on_client_closed(&mut self, number: u64, held: &Held) {
        self.accounts.forget(held);
        self.clients.remove(number);
        self.shared.set_clients(self.id.index(), self.clients.len());
        let connection = ClientConnection { core: self.id, number };
        self.step(Input::ClientDisconnected { connection });
    }

    /// Handles one frame of an established client, which may or may not ask for that.
    pub(super) fn on_client_frame(
        &mut self,
        id: ConnectionId,
        asked: Result<u64, TooManyOpen>,
        frame: FrameRef<'_>,
    ) {
        match asked {
            Ok(number) => {
                let connection = ClientConnection { core: self.id, number };
                self.step(Input::ClientFrame { connection, frame });
            }
            Err(excess) => {
                self.count(Counter::QuestionsRefused);
                self.refused.note(excess.label(), self.connections.get(&id).map(|found| found.address));
                self.refuse(id, &excess);
            }
        }
    }

    /// Everybody gets the same.
    pub(crate) fn send_report(&mut self, connections: &[ClientConnection], report: &RoleReport) {
        let frame = Report { json: report::json(&self.config, &self.shared, report) }.encode();
        self.count(Counter::ReportsBuilt);
        for connection in connections {
            let Some(id) = self.clients.get(connection.number) else { continue };
            if let Some(Connection { phase: Phase::Client { reports, .. }, .. }) =
                self.connections.get_mut(&id)
            {
                *reports = reports.saturating_sub(1);
            }
            self.count(Counter::ReportsServed);
            self.send_client(*connection, &frame);
        }
    }

    pub(crate) fn send_client(&mut self, connection: ClientConnection, frame: &Frame) {
        let Some(id) = self.clients.get(connection.number) else { return };
        let (waiting, added) = (self.reactor.queued_bytes(id), frame.bytes().len());
        let mut excess = None;
        if let Some(Connection { phase: Phase::Client { held, .. }, heard, .. }) =
            self.connections.get_mut(&id)
        {
            // Whoever only listens, as all but a session's home are listened to, is not idle either.
            *heard = self.tick;
            if matches!(frame.kind(), Kind::FetchedPages | Kind::FetchedCertificate) {
                self.accounts.answered(held);
            }
            excess = self.accounts.queue(held, waiting, added);
        }
        if waiting + added > limits::CLIENT_QUEUE_BYTES_MAX {
            return self.cut(id, HeldKind::Unread);
        }
        self.count(Counter::FramesToClients);
        self.send(id, frame);
        if let Some(excess) = excess {
            self.settle(excess);
        }
    }

    /// Something has come of a connection: what is not a whole frame, or not taken yet, is held.
    pub(crate) fn note_half_sent(&mut self, id: ConnectionId) {
        let Some(Connection { phase: Phase::Client { held, .. }, assembler, backlog, .. }) =
            self.connections.get_mut(&id)
        else {
            return;
        };
        let excess =
            self.accounts.half_sent(held, assembler.partial_bytes(), backlog.held_bytes(), self.tick);
        if let Some(excess) = excess {
            self.settle(excess);
        }
    }

    /// Closes connections until no more is held than may be.
    fn settle(&mut self, excess: Excess) {
        if excess.kind == HeldKind::Unread {
            for (id, held) in held(&mut self.connections) {
                self.accounts.queue(held, self.reactor.queued_bytes(id), 0);
            }
        }
        let victim = |driver: &mut Self| {
            let clients = held(&mut driver.connections).map(|(id, held)| (id, &*held));
            driver.accounts.victim(excess, clients)
        };
        while let Some(id) = victim(self) {
            self.cut(id, excess.kind);
        }
    }

    /// Closes those that have taken nothing, or not ended a frame, for too long.
    pub(super) fn look_at_clients(&mut self) {
        if !self.accounts.begin_look(self.tick, self.clients.len()) {
            return;
        }
        let mut late = Vec::new();
        for (id, held) in held(&mut self.connections) {
            if let Err(Late(kind)) = self.accounts.look(held, self.reactor.queued_bytes(id), self.tick) {
                late.push((id, kind));
            }
        }
        late.into_iter().for_each(|(id, kind)| self.cut(id, kind));
    }

    /// Closes the connection of a client for what it makes this core hold.
    fn cut(&mut self, id: ConnectionId, kind: HeldKind) {
        let (counter, label) = match kind {
            HeldKind::Unread => (Counter::ClientsUnread, "unread_replies"),
            HeldKind::HalfSent => (Counter::FramesCutShort, "half_sent_frames"),
        };
        self.count(counter);
        self.refused.note(label, self.connections.get(&id).map(|found| found.address));
        self.close(id);
    }
}

/// What each client holds.
fn held(
    connections: &mut BTreeMap<ConnectionId, Connection>,
) -> impl Iterator<Item = (ConnectionId, &mut Held)> {
    connections.iter_mut().filter_map(|(id, connection)| match &mut connection.phase {
        Phase::Client { held, .. } => Some((*id, held)),
        _ => None,
    })
}
