//! The end of a history: heal, make progress, fall silent, and compare everything with the model.

use super::{Cluster, PROBE};
use crate::event::Event;
use crate::host::Arrival;
use crate::oracle::history::Replay;
use crate::oracle::{Finding, Violation, history, outcomes, versions};
use crate::trace::Detail;
use quorate_replica::ClientConnection;
use quorate_replica::report::RoleReport;
use quorate_types::{CoreId, Digest, KeyIndex, Nanoseconds, ReplicaId, Seq};
use quorate_wire::message::{Message, ReportRequest};
use quorate_wire::testing;
use std::collections::BTreeMap;

/// The number of the connection over which the simulator asks for reports; no client's has it.
const REPORT_CONNECTION: u64 = u64::MAX;
/// How long all replicas must have been level and idle, beside two idle Status, to count as silent.
const SETTLING: Nanoseconds = Nanoseconds::from_millis(500);
/// How long a silent cluster may take to answer a report request.
const REPORT_PATIENCE: Nanoseconds = Nanoseconds::from_millis(10_000);

/// What a replica says of its state at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FinalReport {
    executed: Seq,
    root: Option<Digest>,
    user_keys: u64,
    sessions: u64,
    reply_bytes: u64,
    user_bytes: u64,
}

/// How far a history is.
#[derive(Debug)]
pub(super) enum Phase {
    /// Faults happen.
    Faults,
    /// All is well again; clients go on.
    Healed,
    /// Every client has its answers and reads everything.
    Reading,
    /// Every client has its answers; until then nothing more may be ordered, or it begins anew.
    Settling { until: Nanoseconds, executed: Seq },
    /// Replicas are asked for their roots; the answers so far.
    Reporting { until: Nanoseconds, reports: BTreeMap<ReplicaId, FinalReport> },
}

impl Phase {
    pub(super) fn is_faulty(&self) -> bool {
        matches!(self, Self::Faults)
    }
}

impl Cluster {
    pub(super) fn on_heal(&mut self) {
        self.trace.note(self.now, Detail::Readable, &[12], || "all faults are over".to_owned());
        self.phase = Phase::Healed;
        self.network.heal();
        for client in 0..self.clients.len() {
            let target = &mut self.clients[client];
            target.remaining += target.plan.bundles_after;
            self.schedule_submissions(client);
        }
        self.queue.push(self.now.plus(PROBE.0), Event::Probe);
    }

    /// Looks at the whole cluster; says whether the history goes on.
    pub(super) fn on_probe(&mut self) -> Result<bool, Finding> {
        let answered = self.clients.iter().all(crate::client::Client::is_done);
        match &self.phase {
            Phase::Faults => {}
            Phase::Healed => {
                if answered {
                    self.phase = Phase::Reading;
                    for client in 0..self.clients.len() {
                        self.submit_closing_read(client)?;
                    }
                }
            }
            Phase::Reading => {
                if answered {
                    self.trace
                        .note(self.now, Detail::Readable, &[13], || "everything is answered".to_owned());
                    self.settle();
                }
            }
            Phase::Settling { until, executed } => {
                let (until, executed) = (*until, *executed);
                let level = self.oracles.agreement.is_level(self.plan.unreliable());
                if !level || self.oracles.agreement.executed_highest().seq != executed {
                    self.settle();
                } else if self.now >= until {
                    self.check_silence()?;
                    self.trace.note(self.now, Detail::Readable, &[15, executed.0], || {
                        format!("all replicas have executed {executed:?} and are silent")
                    });
                    self.ask_for_reports();
                }
            }
            Phase::Reporting { until, reports } => {
                let expected = self.hosts.len() - self.plan.unreliable().len();
                if reports.len() == expected {
                    let reports = reports.clone();
                    let tip = self.oracles.agreement.executed_highest().seq;
                    let is_level = reports.values().all(|report| report.executed == tip);
                    if is_level || self.now > self.plan.deadline {
                        self.check_everything(&reports)?;
                        return Ok(false);
                    }
                    // A liar has had something ordered meanwhile: nobody can keep it from that.
                    self.settle();
                } else if self.now > *until {
                    let text = "a replica does not answer a report request".to_owned();
                    return Err(self.finding(None, Violation::new("progress", text)));
                }
            }
        }
        let open = matches!(self.phase, Phase::Healed | Phase::Reading | Phase::Settling { .. });
        if self.now > self.plan.deadline && open {
            let text = self.describe_standstill();
            return Err(self.finding(None, Violation::new("progress", text)));
        }
        self.queue.push(self.now.plus(PROBE.0), Event::Probe);
        Ok(true)
    }

    /// An idle cluster orders nothing: bundles that were sent twice may still come up, but not for ever.
    fn settle(&mut self) {
        let until = self.now.plus(2 * self.plan.tuning.idle.0 + SETTLING.0);
        let executed = self.oracles.agreement.executed_highest().seq;
        self.phase = Phase::Settling { until, executed };
    }

    /// Where nothing is open, nothing is held back.
    fn check_silence(&self) -> Result<(), Finding> {
        for replica in self.config.replica_ids().filter(|replica| !self.plan.unreliable().contains(*replica))
        {
            for core in &self.hosts[replica.index()].cores {
                let open = (0..).map(KeyIndex).zip(self.config.clients());
                let open: usize = open.map(|(key, _)| core.core.open_bundles(key)).sum();
                if open > 0 {
                    let text = format!("{open} bundles stand in accounts, though all is executed");
                    return Err(self.finding(Some(replica), Violation::new("silence", text)));
                }
                let held = core.core.audit().held_effects;
                if held > 0 {
                    let text = format!("{held} effects still wait for the disk, though all is durable");
                    return Err(self.finding(Some(replica), Violation::new("silence", text)));
                }
            }
        }
        Ok(())
    }

    fn ask_for_reports(&mut self) {
        let until = self.now.plus(REPORT_PATIENCE.0);
        self.phase = Phase::Reporting { until, reports: BTreeMap::new() };
        let connection = ClientConnection { core: CoreId(0), number: REPORT_CONNECTION };
        let key = *testing::client_key_number(7).public().as_bytes();
        for replica in self.config.replica_ids() {
            self.deliver(replica, CoreId(0), Arrival::ClientConnected(connection, key));
            let frame = ReportRequest { root: true, histograms: false }.encode();
            self.deliver(replica, CoreId(0), Arrival::ClientFrame(connection, frame));
        }
    }

    pub(super) fn on_report(&mut self, replica: ReplicaId, report: &RoleReport) {
        let execution = &report.execution;
        let found = FinalReport {
            executed: execution.executed.seq,
            root: execution.root,
            user_keys: execution.user_keys,
            sessions: execution.sessions,
            reply_bytes: execution.reply_bytes,
            user_bytes: execution.user_bytes,
        };
        self.trace.note(self.now, Detail::Readable, &[14, super::id(replica)], || {
            format!("r{replica} reports {found:?}")
        });
        if let Phase::Reporting { reports, .. } = &mut self.phase
            && !self.agents.contains_key(&replica)
        {
            reports.insert(replica, found);
        }
    }

    fn check_everything(&mut self, reports: &BTreeMap<ReplicaId, FinalReport>) -> Result<(), Finding> {
        let tip = self.oracles.agreement.executed_highest();
        let Some(order) = self.oracles.ledger.order(tip) else {
            let text = format!("the order up to {tip:?} names what nobody wrote down");
            return Err(self.finding(None, Violation::new("agreement", text)));
        };
        let Replay { executed, answers, model } =
            history::replay(&order, self.plan.tuning.state, self.config.clients().len());
        let compare = |violation| self.finding(None, violation);
        let told = |found: &history::Executed| self.oracles.replies.told(found);
        versions::check(executed.iter().map(|found| (found, told(found)))).map_err(compare)?;
        history::check(&executed, &self.oracles.completions).map_err(compare)?;
        self.oracles.replies.check(&answers, model.gone()).map_err(compare)?;
        outcomes::check(&executed, &self.oracles.asked).map_err(compare)?;
        let Some(first) = reports.first_key_value().map(|(_, report)| report) else { return Ok(()) };
        for (replica, report) in reports {
            let same = report == first && report.root.is_some();
            let counted = report.user_keys == model.keys() as u64
                && report.sessions == model.sessions() as u64
                && report.reply_bytes == model.reply_bytes()
                && report.user_bytes == model.bytes()
                && report.executed == tip.seq;
            if !same || !counted {
                let text = format!(
                    "reports {report:?}, another {first:?}, the model has {} keys of {} bytes, {} sessions and {} bytes of replies at {:?}",
                    model.keys(),
                    model.bytes(),
                    model.sessions(),
                    model.reply_bytes(),
                    tip.seq
                );
                return Err(self.finding(Some(*replica), Violation::new("equal roots", text)));
            }
        }
        Ok(())
    }

    fn describe_standstill(&self) -> String {
        let replicas: Vec<String> = self
            .config
            .replica_ids()
            .map(|replica| {
                let (committed, executed) =
                    (self.oracles.agreement.committed(replica), self.oracles.agreement.executed(replica));
                format!("r{replica} committed {:?} executed {:?}", committed.seq, executed.seq)
            })
            .collect();
        let clients: Vec<String> = self
            .clients
            .iter()
            .enumerate()
            .filter(|(_, client)| !client.is_done())
            .map(|(index, client)| {
                let open: Vec<_> = client.open.keys().collect();
                format!(
                    "client {index} (home {}, registered {}) waits for {open:?}, {} to come",
                    client.session.home(),
                    client.session.is_registered(),
                    client.remaining
                )
            })
            .collect();
        format!("no end long after all faults: {}; {}", replicas.join(", "), clients.join("; "))
    }
}
