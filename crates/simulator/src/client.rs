//! One client under simulation: the session of the client crate, its connections and what it has asked. Several may have
//! the same key and know nothing of each other, as processes on different hosts do.

use crate::network::ConnectionId;
use crate::oracle::history::Completion;
use crate::oracle::outcomes::{Asked, Told};
use crate::plan::WorkloadPlan;
use crate::workload::Workload;
use quorate_client::{Session, Timing};
use quorate_types::{
    BundleNumber, ClusterConfig, Nanoseconds, Operation, ReplicaId, Seq, SessionId, SigningKey,
};
use quorate_wire::bundle::{encode_operations, request_digest};
use quorate_wire::{BundleView, Frame};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The registrations that are kept to be sent again at the worst time.
const REPLAYS_MAX: usize = 8;

/// A bundle that has no answer yet.
#[derive(Debug)]
pub struct OpenBundle {
    operations: Vec<Operation>,
    submitted_at: Nanoseconds,
    asked: Asked,
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
    /// Registrations that were sent once, of this life and of those before.
    pub registrations: Vec<Frame>,
    /// How it asks.
    pub plan: WorkloadPlan,
    index: usize,
    lives: u64,
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
            session: Session::new(config, key.clone(), seed(index, 0), home).with_timing(timing()),
            secret: key,
            key: public,
            connections: Vec::new(),
            workload: Workload::new(plan, index),
            remaining: plan.bundles,
            open: BTreeMap::new(),
            wake_at: None,
            registrations: Vec::new(),
            plan,
            index,
            lives: 0,
        }
    }

    /// Forgets what is open and begins the next session; what was asked for without an answer. Its connections must be
    /// broken.
    pub fn restart(&mut self, config: Arc<ClusterConfig>) -> Vec<Asked> {
        self.lives += 1;
        let (key, seed, home) = (self.secret.clone(), seed(self.index, self.lives), self.session.home());
        self.session = Session::new(config, key, seed, home).with_timing(timing());
        self.remaining += self.open.len() as u64;
        self.wake_at = None;
        std::mem::take(&mut self.open).into_values().map(|open| open.asked).collect()
    }

    /// Whether everything that was to be asked was asked and answered.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.remaining == 0 && self.open.is_empty()
    }

    /// Notes that a bundle was submitted.
    pub fn on_submitted(&mut self, now: Nanoseconds, number: BundleNumber, operations: Vec<Operation>) {
        let request = request_digest(&encode_operations(&operations));
        let asked = Asked { request, signed: BTreeSet::new(), told: Told::Nothing };
        self.open.insert(number, OpenBundle { operations, submitted_at: now, asked });
    }

    /// Notes what a bundle was signed over. An error says that a number has content that it must not have.
    pub fn on_signed(&mut self, frame: &Frame) -> Result<(), String> {
        let view = BundleView::parse(frame.payload()).map_err(|error| error.to_string())?;
        let (session, number) = (view.head.session, view.head.number);
        if session == SessionId::NONE {
            let is_known = self.registrations.iter().any(|known| known.bytes() == frame.bytes());
            if self.registrations.len() < REPLAYS_MAX && !is_known {
                self.registrations.push(frame.clone());
            }
            return Ok(());
        }
        let open = self.session.submitted(session, number).and_then(|number| self.open.get_mut(&number));
        let Some(open) = open else {
            return Err(format!("{session:?} {number:?} was signed and is not open"));
        };
        let void = request_digest(&encode_operations(&vec![Operation::Void]));
        if ![void, open.asked.request].contains(&view.head.body) {
            return Err(format!("{session:?} {number:?} was signed with other content"));
        }
        open.asked.signed.insert((session, number));
        Ok(())
    }

    /// A bundle is at its end without results; nothing when it was not open.
    pub fn on_ended(&mut self, number: BundleNumber, told: Told) -> Option<Asked> {
        let open = self.open.remove(&number)?;
        Some(Asked { told, ..open.asked })
    }

    /// The completion of a bundle; nothing when it was not open.
    pub fn on_completed(
        &mut self,
        now: Nanoseconds,
        number: BundleNumber,
        seq: Seq,
        results: &[u8],
    ) -> Option<(Completion, Asked)> {
        let OpenBundle { operations, submitted_at, asked } = self.open.remove(&number)?;
        let results = rkyv::from_bytes::<Vec<_>, rkyv::rancor::Failure>(results).ok()?;
        self.workload.on_results(&operations, &results);
        let completion = Completion {
            session: self.session.id(),
            number: self.session.number_in_session(number),
            request: asked.request,
            operations,
            submitted_at,
            completed_at: now,
            seq,
            results,
        };
        Some((completion, Asked { told: Told::Done, ..asked }))
    }
}

/// What a process draws when it starts: different in every life of every client.
fn seed(index: usize, life: u64) -> [u8; 32] {
    request_digest(&[&(index as u64).to_le_bytes()[..], &life.to_le_bytes()].concat()).0
}

/// Impatient, so that short histories see clients move to other homes.
fn timing() -> Timing {
    Timing {
        patience: Nanoseconds::from_millis(150),
        patience_max: Nanoseconds::from_millis(1200),
        busy_deadline: Nanoseconds::from_millis(300),
        ..Timing::default()
    }
}
