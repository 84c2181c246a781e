//! The clients' side: sessions are driven by the same queue as everything else.

use super::Cluster;
use crate::event::Event;
use crate::network::{Notice, Side};
use crate::oracle::outcomes::Told;
use crate::oracle::{Finding, Violation};
use crate::trace::Detail;
use crate::workload::Workload;
use quorate_client::{Action, NotDone};
use quorate_types::{BundleNumber, Operation, ReplicaId, Seq};
use quorate_wire::Kind;

/// How many of a hundred submissions come with a registration that was sent before.
const REPLAYED_PERCENT: u64 = 10;

impl Cluster {
    /// Lets a client submit as many bundles as it may keep open, each after a while.
    pub(super) fn schedule_submissions(&mut self, client: usize) {
        for _ in 0..self.clients[client].plan.depth {
            self.schedule_submission(client);
        }
    }

    fn schedule_submission(&mut self, client: usize) {
        let workload = &self.clients[client].plan;
        // Who could not submit all of its bundles while there were faults does not take its time after them.
        let is_late = self.clients[client].remaining > workload.bundles_after;
        let hurries = self.phase.is_faulty() || is_late;
        let longest = if hurries { workload.think_max } else { workload.think_after_max };
        let at = self.now.plus(self.workload_random.below(longest.0.max(1)));
        self.queue.push(at, Event::Submit { client });
    }

    pub(super) fn on_submit(&mut self, client: usize) -> Result<(), Finding> {
        let target = &mut self.clients[client];
        let depth = usize::try_from(target.plan.depth).expect("invariant: small");
        if target.remaining == 0 || target.open.len() >= depth {
            return Ok(());
        }
        target.remaining -= 1;
        let operations = target.workload.bundle(&mut self.workload_random);
        self.replay_a_registration(client);
        self.submit(client, operations)
    }

    /// Somebody sends an old registration again: of a session that goes on, is evicted, or never was.
    fn replay_a_registration(&mut self, client: usize) {
        let target = &self.clients[client];
        if !target.registrations.is_empty() && self.sessions_random.percent(REPLAYED_PERCENT) {
            let frame = self.sessions_random.pick(&target.registrations).clone();
            let connection = *self.sessions_random.pick(&target.connections);
            self.network.send(self.now, connection, Side::Dialer, frame, &mut self.queue);
        }
    }

    /// Lets a client read everything there is.
    pub(super) fn submit_closing_read(&mut self, client: usize) -> Result<(), Finding> {
        self.submit(client, Workload::read_everything())
    }

    fn submit(&mut self, client: usize, operations: Vec<Operation>) -> Result<(), Finding> {
        let now = self.now;
        let mut actions = Vec::new();
        let target = &mut self.clients[client];
        let submitted = target.session.submit(now, &operations, &mut actions);
        let number = match submitted {
            Ok(number) => number,
            Err(error) => {
                let text = format!("client {client} cannot submit: {error}");
                return Err(self.finding(None, Violation::new("client", text)));
            }
        };
        self.trace.note(now, Detail::Readable, &[8, client as u64, number.0], || {
            format!("client {client} submits {number:?}, {} operations", operations.len())
        });
        self.clients[client].on_submitted(now, number, operations);
        self.act(client, actions)
    }

    pub(super) fn on_client_notice(
        &mut self,
        client: usize,
        replica: ReplicaId,
        notice: Notice,
    ) -> Result<(), Finding> {
        let now = self.now;
        let mut actions = Vec::new();
        let session = &mut self.clients[client].session;
        let taken = match notice {
            Notice::Opened => {
                session.on_connected(now, replica, &mut actions);
                Ok(())
            }
            Notice::Closed => {
                session.on_disconnected(now, replica, &mut actions);
                Ok(())
            }
            Notice::Frame(frame) => session.on_frame(now, replica, frame.as_frame_ref(), &mut actions),
            Notice::Drained | Notice::Took(_) | Notice::Garbled(_) => Ok(()),
        };
        if let Err(error) = taken {
            let text = format!("client {client} cannot read what replica {replica} sent: {error}");
            return Err(self.finding(Some(replica), Violation::new("client", text)));
        }
        self.act(client, actions)
    }

    pub(super) fn on_patience(&mut self, client: usize) -> Result<(), Finding> {
        let now = self.now;
        let target = &mut self.clients[client];
        if target.wake_at != Some(now) {
            return Ok(());
        }
        target.wake_at = None;
        let mut actions = Vec::new();
        target.session.on_time(now, &mut actions);
        self.act(client, actions)
    }

    fn act(&mut self, client: usize, actions: Vec<Action>) -> Result<(), Finding> {
        for action in actions {
            match action {
                Action::Send { replica, frame } => {
                    if frame.kind() == Kind::Bundle {
                        let noted = self.clients[client].on_signed(&frame);
                        noted.map_err(|text| {
                            self.finding(None, Violation::new("client", format!("client {client}: {text}")))
                        })?;
                    }
                    let connection = self.clients[client].connections[replica.index()];
                    self.network.send(self.now, connection, Side::Dialer, frame, &mut self.queue);
                }
                Action::Completed { number, seq, results } => {
                    self.on_completed(client, number, seq, &results)?;
                }
                // The session was evicted, and before that the bundle executed.
                Action::ResultsGone { number, .. } => self.on_ended(client, number, Told::Done)?,
                Action::NotDone { number, reason: NotDone::Declined(_) } => {
                    self.on_ended(client, number, Told::NotDone)?;
                }
                Action::NotDone { number, reason: NotDone::NumberUsed } => {
                    let text = format!("client {client}: {number:?} has the number of another bundle");
                    return Err(self.finding(None, Violation::new("client", text)));
                }
                Action::Unknown { number } => self.on_ended(client, number, Told::Nothing)?,
            }
        }
        self.schedule_patience(client);
        Ok(())
    }

    fn schedule_patience(&mut self, client: usize) {
        let target = &mut self.clients[client];
        let Some(deadline) = target.session.deadline() else { return };
        let at = deadline.max(self.now.next());
        if target.wake_at.is_none_or(|due| at < due) {
            target.wake_at = Some(at);
            self.queue.push(at, Event::Patience { client });
        }
    }

    fn on_ended(&mut self, client: usize, number: BundleNumber, told: Told) -> Result<(), Finding> {
        let now = self.now;
        let Some(asked) = self.clients[client].on_ended(number, told) else {
            let text = format!("client {client}: {number:?} is at its end, but it was not open");
            return Err(self.finding(None, Violation::new("client", text)));
        };
        self.trace.note(now, Detail::Readable, &[15, client as u64, number.0], || {
            format!("client {client} is told of {number:?}: {told:?}")
        });
        self.oracles.asked.push(asked);
        self.schedule_submission(client);
        Ok(())
    }

    fn on_completed(
        &mut self,
        client: usize,
        number: BundleNumber,
        seq: Seq,
        results: &[u8],
    ) -> Result<(), Finding> {
        let now = self.now;
        let Some((completion, asked)) = self.clients[client].on_completed(now, number, seq, results) else {
            let text = format!("client {client}: {number:?} is complete, but it was not open");
            return Err(self.finding(None, Violation::new("client", text)));
        };
        self.trace.bytes(results);
        self.trace.note(now, Detail::Readable, &[9, client as u64, number.0, seq.0], || {
            format!("client {client} has {number:?} at {seq:?}")
        });
        self.oracles.completions.push(completion);
        self.oracles.asked.push(asked);
        self.check_acknowledged(client, number, seq)?;
        self.schedule_submission(client);
        Ok(())
    }

    /// What a client was told must lie in q disks, or a crash could take it back.
    fn check_acknowledged(&self, client: usize, number: BundleNumber, seq: Seq) -> Result<(), Finding> {
        let Some(position) = self.oracles.agreement.decided(seq) else {
            let text = format!("client {client}: {number:?} is complete at {seq:?}, which nobody committed");
            return Err(self.finding(None, Violation::new("nothing acknowledged is lost", text)));
        };
        let holders = self.oracles.durability.replicas_with_certificate(&self.oracles.ledger, position);
        let quorum = self.config.quorums().quorum;
        if holders < quorum {
            let text = format!(
                "client {client}: {number:?} is complete at {seq:?}, but {holders} of {quorum} disks hold its certificate"
            );
            return Err(self.finding(None, Violation::new("nothing acknowledged is lost", text)));
        }
        Ok(())
    }
}
