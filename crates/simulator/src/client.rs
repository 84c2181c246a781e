//! One client under simulation: the session of the client crate, its connections and what it has asked.

use crate::network::ConnectionId;
use crate::oracle::history::Completion;
use crate::plan::WorkloadPlan;
use crate::workload::Workload;
use quorate_client::{Session, Timing};
use quorate_types::{BundleNumber, ClusterConfig, Nanoseconds, Operation, ReplicaId, Seq, SigningKey};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A bundle that has no answer yet.
#[derive(Debug)]
pub struct OpenBundle {
    operations: Vec<Operation>,
    submitted_at: Nanoseconds,
}

/// One client.
#[derive(Debug)]
pub struct Client {
    /// The session core.
    pub session: Session,
    secret: SigningKey,
    /// The public key.
    pub key: [u8; 32],
    /// The connections, by replica.
    pub connections: Vec<ConnectionId>,
    /// What it asks.
    pub workload: Workload,
    /// The bundles that it has still to submit.
    pub remaining: u64,
    /// The bundles without an answer.
    pub open: BTreeMap<BundleNumber, OpenBundle>,
    /// When its session wants to be woken; a patience event at another time is void.
    pub wake_at: Option<Nanoseconds>,
}

impl Client {
    /// A client that has no connection yet.
    #[must_use]
    pub fn new(
        config: Arc<ClusterConfig>,
        key: SigningKey,
        home: ReplicaId,
        index: usize,
        plan: WorkloadPlan,
    ) -> Self {
        let public = *key.public().as_bytes();
        Self {
            session: Session::new(config, key.clone(), 1, home).with_timing(timing()),
            secret: key,
            key: public,
            connections: Vec::new(),
            workload: Workload::new(plan, index),
            remaining: plan.bundles,
            open: BTreeMap::new(),
            wake_at: None,
        }
    }

    /// Forgets what is open and begins the next session. Its connections must be broken.
    pub fn restart(&mut self, config: Arc<ClusterConfig>) {
        let (home, counter) = (self.session.home(), self.session.counter() + 1);
        self.session = Session::new(config, self.secret.clone(), counter, home).with_timing(timing());
        self.remaining += self.open.len() as u64;
        self.open.clear();
        self.wake_at = None;
    }

    /// Whether everything that was to be asked was asked and answered.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.remaining == 0 && self.open.is_empty()
    }

    /// Notes that a bundle was submitted.
    pub fn on_submitted(&mut self, now: Nanoseconds, number: BundleNumber, operations: Vec<Operation>) {
        self.open.insert(number, OpenBundle { operations, submitted_at: now });
    }

    /// The completion of a bundle; nothing when it was not open.
    pub fn on_completed(
        &mut self,
        now: Nanoseconds,
        number: BundleNumber,
        seq: Seq,
        results: &[u8],
    ) -> Option<Completion> {
        let open = self.open.remove(&number)?;
        let results = rkyv::from_bytes::<Vec<_>, rkyv::rancor::Failure>(results).ok()?;
        self.workload.on_results(&open.operations, &results);
        Some(Completion {
            session: self.session.id(),
            number,
            operations: open.operations,
            submitted_at: open.submitted_at,
            completed_at: now,
            seq,
            results,
        })
    }
}

/// Impatient, so that short histories see clients move to other homes.
fn timing() -> Timing {
    Timing {
        patience: Nanoseconds::from_millis(150),
        patience_max: Nanoseconds::from_millis(1200),
        ..Timing::default()
    }
}
