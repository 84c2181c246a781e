//! Drives one [`Session`] over tokio-uring: one connection per replica, one timer.
//!
//! A [`Client`] belongs to the thread of its tokio-uring runtime. Clones share the session, so several tasks
//! may use one client, up to the window of the session. The runtime must be made with tokio-uring's default
//! builder: version 0.5 hangs with DEFER_TASKRUN. End a client with [`Client::close`] before its runtime ends,
//! so that no read is in flight when tokio-uring frees the buffers.

use crate::link::{Link, keep_connected};
use crate::{Action, ClientError, LinkError, Session, SubmitError, Timing};
use quorate_types::{
    BundleNumber, ClusterConfig, Nanoseconds, Operation, OperationResult, ReplicaId, Seq, SigningKey,
};
use quorate_wire::message::{Message, ReportRequest};
use quorate_wire::{DecodeError, FrameRef};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;

/// What a client may be told besides the cluster and its key.
#[derive(Clone, Copy, Debug)]
pub struct ClientOptions {
    /// The replica that gets the requests as long as it answers. Default replica 0; spread the clients.
    pub home: ReplicaId,
    /// When to lose patience with the home.
    pub timing: Timing,
    /// How long [`Client::connect`] tries. Default 10 s.
    pub connect_deadline: Duration,
    /// How long [`Client::execute`] and [`Client::report`] wait for an answer. Default 30 s.
    pub answer_deadline: Duration,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            home: ReplicaId(0),
            timing: Timing::default(),
            connect_deadline: Duration::from_secs(10),
            answer_deadline: Duration::from_secs(30),
        }
    }
}

/// What f+1 replicas agree on about a bundle.
#[derive(Clone, Debug)]
pub struct Completion {
    /// The bundle.
    pub number: BundleNumber,
    /// Where it was executed.
    pub seq: Seq,
    /// The archive of `Vec<OperationResult>`, checked; nothing when it is no longer kept.
    pub results: Option<Arc<[u8]>>,
}

/// A bundle that is open; a future of its completion, or of why there is none. Dropping it does not take the bundle
/// back.
#[derive(Debug)]
pub struct Pending(oneshot::Receiver<Result<Completion, ClientError>>);

impl Future for Pending {
    type Output = Result<Completion, ClientError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map(|told| told.unwrap_or(Err(ClientError::Closed)))
    }
}

/// A client of a cluster; see the module. The connections end with the last clone, and in order with
/// [`Client::close`].
#[derive(Clone, Debug)]
pub struct Client {
    handle: Rc<Handle>,
}

/// Closes the connections when the last client is dropped; the tasks hold [`Shared`] alone.
#[derive(Debug)]
struct Handle {
    shared: Rc<Shared>,
    tasks: RefCell<Vec<JoinHandle<()>>>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.close();
    }
}

impl Client {
    /// A client whose session is registered and which is connected to a quorum, so that its bundles make
    /// progress. The other replicas are connected as they come.
    pub async fn connect(
        config: Arc<ClusterConfig>,
        key: SigningKey,
        options: ClientOptions,
    ) -> Result<Self, ClientError> {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(|error| ClientError::Random(error.to_string()))?;
        let shared = Rc::new(Shared::new(config, key, seed, options));
        let replicas = shared.config.replica_ids();
        let mut tasks: Vec<_> =
            replicas.map(|id| tokio_uring::spawn(keep_connected(Rc::clone(&shared), id))).collect();
        tasks.push(tokio_uring::spawn(keep_time(Rc::clone(&shared))));
        let client = Self { handle: Rc::new(Handle { shared, tasks: RefCell::new(tasks) }) };
        match client.wait_until_ready().await {
            Ok(()) => Ok(client),
            Err(error) => {
                client.close().await;
                Err(error)
            }
        }
    }

    async fn wait_until_ready(&self) -> Result<(), ClientError> {
        let shared = &self.handle.shared;
        let quorums = shared.config.quorums();
        let deadline = shared.started + shared.options.connect_deadline;
        let seconds = shared.options.connect_deadline.as_secs();
        loop {
            let connected = shared.links.iter().filter(|link| link.is_connected()).count();
            let refused = shared.links.iter().filter(|link| link.is_refused()).count();
            if connected >= quorums.quorum && shared.session.borrow().is_registered() {
                return Ok(());
            }
            if refused > quorums.replicas - quorums.quorum {
                return Err(ClientError::Refused { states: shared.describe() });
            }
            let changed = tokio::time::timeout_at(deadline.into(), shared.changed.notified()).await;
            if changed.is_err() {
                let states = shared.describe();
                let (replicas, quorum) = (quorums.replicas, quorums.quorum);
                return Err(if connected < quorum {
                    ClientError::Unreachable { connected, replicas, quorum, seconds, states }
                } else {
                    ClientError::NotRegistered { connected, seconds, states }
                });
            }
        }
    }

    /// Where the bundle was executed and what came out, one result per operation. Waits while the window is
    /// full. [`ClientError::outcome`] says what an error means for the bundle.
    pub async fn execute(
        &self,
        operations: &Vec<Operation>,
    ) -> Result<(Seq, Vec<OperationResult>), ClientError> {
        let shared = &self.handle.shared;
        let submitted = Cell::new(false);
        let completion = tokio::time::timeout(shared.options.answer_deadline, async {
            while !self.can_submit() {
                shared.room.notified().await;
            }
            let pending = self.submit(operations)?;
            submitted.set(true);
            pending.await
        });
        let Ok(completion) = completion.await else {
            let (seconds, states) = (shared.options.answer_deadline.as_secs(), shared.describe());
            return Err(if submitted.get() {
                ClientError::Unanswered { seconds, states }
            } else {
                ClientError::NoRoom { seconds, states }
            });
        };
        let Completion { number, seq, results } = completion?;
        let results = results.ok_or(ClientError::ResultsGone { number, seq })?;
        let results = rkyv::from_bytes::<Vec<OperationResult>, rkyv::rancor::Failure>(&results)
            .expect("invariant: the session takes only results that it could access");
        Ok((seq, results))
    }

    /// Whether [`Client::submit`] has room for another bundle.
    #[must_use]
    pub fn can_submit(&self) -> bool {
        self.handle.shared.session.borrow().can_submit()
    }

    /// Signs and sends a bundle at once; its results come undecoded, and without a deadline.
    pub fn submit(&self, operations: &Vec<Operation>) -> Result<Pending, SubmitError> {
        let shared = &self.handle.shared;
        let number = shared.step(|session, now, out| session.submit(now, operations, out))?;
        Ok(Pending(shared.waiting.borrow_mut().push(number)))
    }

    /// The replica to which requests go now.
    #[must_use]
    pub fn home(&self) -> ReplicaId {
        self.handle.shared.session.borrow().home()
    }

    /// The report of one replica, as JSON. With `root` it includes the root of the state, which costs the
    /// replica the hashing of what changed since the last one.
    pub async fn report(&self, replica: ReplicaId, root: bool) -> Result<String, ClientError> {
        self.ask(replica, &ReportRequest { root, histograms: false }).await
    }

    /// The report of one replica with its histograms, as JSON, which is some tens of kilobytes long.
    pub async fn report_with_histograms(&self, replica: ReplicaId) -> Result<String, ClientError> {
        self.ask(replica, &ReportRequest { root: false, histograms: true }).await
    }

    async fn ask(&self, replica: ReplicaId, request: &ReportRequest) -> Result<String, ClientError> {
        let shared = &self.handle.shared;
        let replicas = shared.links.len();
        let link =
            shared.links.get(replica.index()).ok_or(ClientError::NoSuchReplica { replica, replicas })?;
        if !link.is_connected() {
            return Err(ClientError::NoReport { state: link.describe() });
        }
        let answer = link.ask(&request.encode());
        match tokio::time::timeout(shared.options.answer_deadline, answer).await {
            Ok(Ok(json)) => Ok(json),
            Ok(Err(_)) => Err(ClientError::NoReport { state: link.describe() }),
            Err(_) => {
                let seconds = shared.options.answer_deadline.as_secs();
                let state = format!("{}, but silent for {seconds} s", link.describe());
                Err(ClientError::NoReport { state })
            }
        }
    }

    /// Ends all connections and waits until their tasks have ended. Bundles that are open end with
    /// [`ClientError::Closed`].
    pub async fn close(self) {
        self.handle.shared.close();
        let tasks = self.handle.tasks.take();
        for task in tasks {
            if let Err(error) = task.await {
                tracing::error!(%error, "a task of the client failed");
            }
        }
    }
}

/// Who waits for which bundle.
#[derive(Debug, Default)]
struct Waiting {
    first: BundleNumber,
    waiters: VecDeque<Option<oneshot::Sender<Result<Completion, ClientError>>>>,
}

impl Waiting {
    fn push(&mut self, number: BundleNumber) -> oneshot::Receiver<Result<Completion, ClientError>> {
        if self.waiters.is_empty() {
            self.first = number;
        }
        assert_eq!(number, self.first.plus(self.waiters.len() as u64), "bundles are numbered in order");
        let (sender, receiver) = oneshot::channel();
        self.waiters.push_back(Some(sender));
        receiver
    }

    fn resolve(&mut self, number: BundleNumber, told: Result<Completion, ClientError>) {
        let index = usize::try_from(number.since(self.first)).expect("invariant: in the window");
        if let Some(sender) = self.waiters.get_mut(index).and_then(Option::take) {
            // Whoever submitted may have given up.
            let _ = sender.send(told);
        }
        while matches!(self.waiters.front(), Some(None)) {
            self.waiters.pop_front();
            self.first = self.first.next();
        }
    }

    fn clear(&mut self) {
        self.waiters.clear();
    }
}

/// What the tasks of one client share. All of them run on one thread, and no borrow is held across an await.
#[derive(Debug)]
pub(crate) struct Shared {
    config: Arc<ClusterConfig>,
    key: SigningKey,
    options: ClientOptions,
    started: Instant,
    session: RefCell<Session>,
    /// What the session wants done; kept to reuse its memory.
    actions: RefCell<Vec<Action>>,
    links: Vec<Link>,
    waiting: RefCell<Waiting>,
    /// When the timer task wakes.
    armed: Cell<Option<Nanoseconds>>,
    timer: Notify,
    /// A connection came or went, or the session was registered.
    changed: Notify,
    /// A bundle is complete.
    room: Notify,
    closed: Cell<bool>,
    closing: Notify,
}

impl Shared {
    fn new(config: Arc<ClusterConfig>, key: SigningKey, seed: [u8; 32], options: ClientOptions) -> Self {
        let members = config.replica_ids().zip(config.members());
        let links = members.map(|(replica, member)| Link::new(replica, member.client)).collect();
        let session =
            Session::new(Arc::clone(&config), key.clone(), seed, options.home).with_timing(options.timing);
        Self {
            config,
            key,
            options,
            started: Instant::now(),
            session: RefCell::new(session),
            actions: RefCell::default(),
            links,
            waiting: RefCell::default(),
            armed: Cell::new(None),
            timer: Notify::new(),
            changed: Notify::new(),
            room: Notify::new(),
            closed: Cell::new(false),
            closing: Notify::new(),
        }
    }

    pub(crate) fn config(&self) -> &Arc<ClusterConfig> {
        &self.config
    }

    pub(crate) fn key(&self) -> &SigningKey {
        &self.key
    }

    pub(crate) fn link(&self, replica: ReplicaId) -> &Link {
        &self.links[replica.index()]
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.get()
    }

    /// Waits, but not beyond the end of the client.
    pub(crate) async fn pause(&self, wait: Duration) {
        let _ = tokio::time::timeout(wait, self.closing.notified()).await;
    }

    pub(crate) fn on_connected(&self, replica: ReplicaId) {
        self.step(|session, now, out| session.on_connected(now, replica, out));
        self.changed.notify_waiters();
    }

    pub(crate) fn on_disconnected(&self, replica: ReplicaId) {
        self.step(|session, now, out| session.on_disconnected(now, replica, out));
        self.changed.notify_waiters();
    }

    pub(crate) fn on_frame(&self, replica: ReplicaId, frame: FrameRef<'_>) -> Result<(), DecodeError> {
        self.step(|session, now, out| session.on_frame(now, replica, frame, out))
    }

    fn close(&self) {
        self.closed.set(true);
        self.closing.notify_waiters();
        self.timer.notify_one();
        self.waiting.borrow_mut().clear();
        self.links.iter().for_each(|link| link.shut(LinkError::Ended));
    }

    fn describe(&self) -> String {
        let session = self.session.borrow();
        let described = self.config.replica_ids().zip(&self.links).map(|(replica, link)| {
            let declined = session.declined(replica).map(|reason| format!("; {}", reason.describe()));
            link.describe() + &declined.unwrap_or_default()
        });
        described.collect()
    }

    fn now(&self) -> Nanoseconds {
        Nanoseconds(u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    /// Lets the session do one step, then does what it asks for.
    fn step<T>(&self, step: impl FnOnce(&mut Session, Nanoseconds, &mut Vec<Action>) -> T) -> T {
        let mut session = self.session.borrow_mut();
        let mut actions = self.actions.borrow_mut();
        let was_registered = session.is_registered();
        let result = step(&mut session, self.now(), &mut actions);
        for action in actions.drain(..) {
            match action {
                Action::Send { replica, frame } => self.link(replica).queue(&frame),
                Action::Completed { number, seq, results } => {
                    self.resolve(number, Ok(Completion { number, seq, results: Some(results) }));
                }
                Action::ResultsGone { number, seq } => {
                    self.resolve(number, Ok(Completion { number, seq, results: None }));
                }
                Action::NotDone { number, reason } => self.resolve(number, Err(ClientError::NotDone(reason))),
                Action::Unknown { number } => self.resolve(number, Err(ClientError::Evicted)),
            }
        }
        if session.is_registered() && !was_registered {
            self.changed.notify_waiters();
        }
        if session.deadline().is_some_and(|at| self.armed.get().is_none_or(|armed| at < armed)) {
            self.timer.notify_one();
        }
        result
    }

    fn resolve(&self, number: BundleNumber, told: Result<Completion, ClientError>) {
        self.waiting.borrow_mut().resolve(number, told);
        self.room.notify_waiters();
    }
}

/// Wakes the session at its deadlines. One that has moved to a later time is noticed at the earlier one.
async fn keep_time(shared: Rc<Shared>) {
    while !shared.is_closed() {
        let deadline = shared.session.borrow().deadline();
        shared.armed.set(deadline);
        match deadline {
            None => shared.timer.notified().await,
            Some(at) => {
                let at = shared.started + Duration::from_nanos(at.0);
                let _ = tokio::time::timeout_at(at.into(), shared.timer.notified()).await;
            }
        }
        if shared.session.borrow().deadline().is_some_and(|at| at <= shared.now()) {
            shared.step(|session, now, out| session.on_time(now, out));
        }
    }
}

#[cfg(test)]
mod tests;
