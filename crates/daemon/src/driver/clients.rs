//! The clients of one core: who comes and goes, what they ask for, and what is sent to them.

use super::Driver;
use crate::clients::Welcome;
use crate::connection::{Connection, Phase, TooManyOpen};
use crate::report;
use quorate_reactor::ConnectionId;
use quorate_replica::report::RoleReport;
use quorate_replica::{ClientConnection, Input};
use quorate_telemetry::Counter;
use quorate_wire::message::{Message, Report};
use quorate_wire::{Frame, FrameRef, Kind};
use tracing::debug;

/// What may wait for one client. One that does not read its replies is disconnected; they are kept in the state.
const CLIENT_QUEUE_BYTES_MAX: usize = 8 * 1024 * 1024;

const _: () = assert!(CLIENT_QUEUE_BYTES_MAX > 2 * quorate_types::limits::RESULTS_BYTES_MAX);

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
        self.establish(id, Phase::Client { number, reports: 0, questions: 0 });
        self.clients.insert(number, id, key);
        self.shared.set_clients(self.id.index(), self.clients.len());
        let connection = ClientConnection { core: self.id, number };
        self.step(Input::ClientConnected { connection, key });
    }

    pub(super) fn on_client_closed(&mut self, number: u64) {
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
        if let Some(Connection { phase: Phase::Client { questions, .. }, heard, .. }) =
            self.connections.get_mut(&id)
        {
            // Whoever only listens, as all but a session's home are listened to, is not idle either.
            *heard = self.tick;
            if matches!(frame.kind(), Kind::FetchedPages | Kind::FetchedCertificate) {
                *questions = questions.saturating_sub(1);
            }
        }
        if self.reactor.queued_bytes(id) + frame.bytes().len() > CLIENT_QUEUE_BYTES_MAX {
            debug!("a client does not read its replies; closing its connection");
            self.refused.note("unread_replies", self.connections.get(&id).map(|found| found.address));
            return self.close(id);
        }
        self.shared.core(self.id.index()).increment(Counter::FramesToClients);
        self.send(id, frame);
    }
}
