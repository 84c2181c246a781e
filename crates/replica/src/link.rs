//! The link role: the mesh links and clients of one core.

use crate::interface::{ClientConnection, Effect, Intake, Reject};
use crate::mail::{ExecutionMail, Wanted};
use crate::report::Extras;
use crate::reports::Reports;
use quorate_lanes::{Lanes, Sender};
use quorate_types::{
    ArchivedOperation, ClusterConfig, KeyIndex, LinkId, Nanoseconds, PublicKey, ReplicaId, SessionId, limits,
};
use quorate_wire::message::{Attach, Busy, BusyReason, FetchCertificate, FetchPages, Message, ReportRequest};
use quorate_wire::{BundleView, DecodeError, FrameRef, Kind, bundle};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What one client may have on its way to execution. A client holds [`limits::OPEN_BUNDLES_MAX`] bundles open;
/// those it sends again after a reconnect may still be under way.
const OPEN_PER_CLIENT_MAX: usize = 2 * limits::OPEN_BUNDLES_MAX;

#[derive(Debug)]
struct Client {
    key: PublicKey,
    index: KeyIndex,
    link: LinkId,
}

impl Client {
    fn sender(&self, connection: ClientConnection) -> Sender {
        Sender { owner: connection.number, key: self.index }
    }
}

/// The link role of one core.
#[derive(Debug)]
pub(crate) struct LinkRole {
    config: Arc<ClusterConfig>,
    links: Vec<LinkId>,
    pub(crate) lanes: Lanes,
    clients: BTreeMap<ClientConnection, Client>,
    /// The questions for pages of states that each peer has asked and execution has not answered.
    page_questions: BTreeMap<ReplicaId, usize>,
    /// The questions for such pages that each peer was asked and has not answered.
    pages_asked: BTreeMap<ReplicaId, usize>,
    pub(crate) reports: Reports,
    /// What there is room for on the disk.
    pub(crate) intake: Intake,
    /// All bundles are declined: this replica catches up, or is a learner.
    pub(crate) following: bool,
    /// The bundle that this step has admitted: its link, and when it arrived. The next step, which comes at once,
    /// tells how long its check took.
    pub(crate) admitted: Option<(LinkId, Nanoseconds)>,
}

impl LinkRole {
    /// The role on one of `cores` cores.
    pub(crate) fn new(config: Arc<ClusterConfig>, cores: usize, links: Vec<LinkId>, lanes: Lanes) -> Self {
        Self {
            config,
            links,
            lanes,
            clients: BTreeMap::new(),
            page_questions: BTreeMap::new(),
            pages_asked: BTreeMap::new(),
            reports: Reports::new(cores),
            intake: Intake::All,
            following: false,
            admitted: None,
        }
    }

    pub(crate) fn on_client_connected(&mut self, connection: ClientConnection, key: &[u8; 32]) {
        let index = self.config.client_index(key).expect("invariant: the handshake let in an allowed client");
        let key = &self.config.clients()[index.0 as usize];
        // Clients are spread over the links of the core; a core without links accepts none.
        let place = usize::try_from(connection.number).unwrap_or(0) % self.links.len().max(1);
        let Some(link) = self.links.get(place) else { return };
        self.clients.insert(connection, Client { key: key.clone(), index, link: *link });
    }

    pub(crate) fn on_client_disconnected(&mut self, connection: ClientConnection) {
        if let Some(Client { key, .. }) = self.clients.remove(&connection) {
            self.reports.forget(connection, key.as_bytes());
        }
    }

    /// When the role is to be run without any input.
    pub(crate) fn deadline(&self) -> Option<Nanoseconds> {
        let lanes = self.lanes.deadline();
        Some(self.reports.deadline().map_or(lanes, |reports| reports.min(lanes)))
    }

    /// Counts a question for pages of states, unless the peer has as many open as it may: each is small, its answer is
    /// large, and another core makes it.
    pub(crate) fn on_page_question(&mut self, peer: ReplicaId) -> Result<(), Reject> {
        let open = self.page_questions.entry(peer).or_default();
        if *open >= limits::PAGE_REQUESTS_MAX {
            return Err(Reject::PageQuestions);
        }
        *open += 1;
        Ok(())
    }

    /// One of them is answered.
    pub(crate) fn on_page_answer(&mut self, peer: ReplicaId) {
        if let Some(open) = self.page_questions.get_mut(&peer) {
            // An answer that crosses a reconnect is to a question that is forgotten.
            *open = open.saturating_sub(1);
        }
    }

    /// The connection is gone: nothing is answered any more.
    pub(crate) fn forget_page_questions(&mut self, peer: ReplicaId) {
        self.page_questions.remove(&peer);
        self.pages_asked.remove(&peer);
    }

    /// A peer is asked for pages.
    pub(crate) fn ask_for_pages(&mut self, peer: ReplicaId) {
        *self.pages_asked.entry(peer).or_default() += 1;
    }

    /// A peer answers with pages: whether it was asked. What nobody has asked for need not be decoded.
    pub(crate) fn on_pages(&mut self, peer: ReplicaId) -> Result<(), Reject> {
        let asked = self.pages_asked.get_mut(&peer).filter(|asked| **asked > 0).ok_or(Reject::Unasked)?;
        *asked -= 1;
        Ok(())
    }

    /// Takes a client's frame; what the execution role is to know of it comes back. On an error the connection is to be closed.
    pub(crate) fn on_client_frame(
        &mut self,
        now: Nanoseconds,
        connection: ClientConnection,
        frame: FrameRef<'_>,
        effects: &mut Vec<Effect>,
    ) -> Result<Option<ExecutionMail>, Reject> {
        if !self.clients.contains_key(&connection) {
            return Ok(None);
        }
        match frame.kind {
            Kind::Bundle => self.on_bundle(now, connection, frame, effects).map(|()| None),
            Kind::Attach => {
                let Attach { nonce, session } = Attach::from_frame(frame)?;
                let Some(client) = self.clients.get(&connection) else { return Ok(None) };
                let key = *client.key.as_bytes();
                let wanted = match session {
                    SessionId::NONE => Wanted::Registration(nonce, key),
                    session => Wanted::Session(session, key),
                };
                Ok(Some(ExecutionMail::Attach { connection, wanted }))
            }
            Kind::ReportRequest => {
                let ReportRequest { root, histograms } = ReportRequest::from_frame(frame)?;
                let Some(client) = self.clients.get(&connection) else { return Ok(None) };
                self.reports.ask(Extras { root, histograms }, connection, *client.key.as_bytes());
                Ok(None)
            }
            Kind::FetchPages => {
                let question = FetchPages::from_frame(frame)?;
                Ok(Some(ExecutionMail::ClientPages(connection, question)))
            }
            Kind::FetchCertificate => {
                let question = FetchCertificate::from_frame(frame)?;
                Ok(Some(ExecutionMail::ClientCertificate(connection, question)))
            }
            other => Err(DecodeError::Misplaced(other).into()),
        }
    }

    /// All checks but that of the signature, which comes when the bundle is about to be sealed: many at once cost a
    /// third.
    fn on_bundle(
        &mut self,
        now: Nanoseconds,
        connection: ClientConnection,
        frame: FrameRef<'_>,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Reject> {
        let Some(client) = self.clients.get(&connection) else { return Ok(()) };
        let (link, sender) = (client.link, client.sender(connection));
        let (key, session, number) = bundle::peek(frame.payload)?;
        if &key != client.key.as_bytes() {
            return Err(Reject::ForeignBundle);
        }
        let (bytes, most) = (frame.payload.len(), OPEN_PER_CLIENT_MAX);
        // Who is told so is told before anything is spent on reading.
        let reason = if self.following {
            Some(BusyReason::Following)
        } else if bytes > limits::ENDING_BYTES_MAX && !self.lanes.has_room(link, sender, bytes, most) {
            Some(BusyReason::InFlight)
        } else {
            let bundle = BundleView::parse(frame.payload)?;
            let lack = self.lack_of_room(&bundle);
            let admits = lack.is_none() && self.lanes.admit(link, sender, &bundle, most);
            lack.or((!admits).then_some(BusyReason::InFlight))
        };
        match reason {
            Some(reason) => {
                let busy = Busy { session, number, reason };
                effects.push(Effect::SendClient { connection, frame: busy.encode() });
                effects.push(Effect::Rejected(Reject::Busy));
            }
            None => self.admitted = Some((link, now)),
        }
        Ok(())
    }
}

impl LinkRole {
    /// Why there is no room for a bundle, if there is none.
    fn lack_of_room(&self, bundle: &BundleView<'_>) -> Option<BusyReason> {
        if self.intake == Intake::All {
            return None;
        }
        let operations = bundle.operations();
        if operations.iter().any(ArchivedOperation::writes) {
            return Some(BusyReason::ReadOnly);
        }
        let needed = if !operations.is_empty() && operations.iter().all(ArchivedOperation::opens_or_ends) {
            Intake::Endings
        } else {
            Intake::Reads
        };
        (self.intake < needed).then_some(BusyReason::Full)
    }
}

impl From<quorate_lanes::Reject> for Reject {
    fn from(reject: quorate_lanes::Reject) -> Self {
        match reject {
            quorate_lanes::Reject::Malformed(error) => Self::Malformed(error),
            quorate_lanes::Reject::ForeignLane => Self::ForeignBatch,
            quorate_lanes::Reject::Gap => Self::BatchGap,
            quorate_lanes::Reject::Fork => Self::BatchFork,
            quorate_lanes::Reject::Budget => Self::LaneBudget,
            quorate_lanes::Reject::Throttled => Self::LaneThrottled,
            quorate_lanes::Reject::FetchMismatch => Self::FetchMismatch,
        }
    }
}
