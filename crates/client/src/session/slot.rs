//! One open bundle of a session: what was signed for it, and what was answered.

use crate::answers::Asked;
use quorate_types::{Digest, Seq};
use quorate_wire::bundle::HEAD_BYTES;
use quorate_wire::message::BusyReason;
use quorate_wire::{Frame, Kind};
use std::sync::Arc;

#[allow(clippy::large_enum_variant, reason = "nearly all slots of a window wait")]
#[derive(Debug)]
pub(super) enum Slot {
    Waiting(Waiting),
    /// Complete, but not the first of the window.
    Complete,
}

impl Slot {
    /// Whether anything was sent for it.
    pub(super) fn was_sent(&self) -> bool {
        match self {
            Self::Waiting(Waiting { content: Content::Signed { sent, .. }, void, .. }) => {
                *sent || void.is_some()
            }
            Self::Waiting(_) => false,
            Self::Complete => true,
        }
    }

    /// The session is gone, and it was not executed: as it was before it was signed.
    pub(super) fn return_to_unsigned(&mut self) {
        if let Self::Waiting(waiting) = self
            && let Content::Signed { frame, .. } = &waiting.content
        {
            *waiting = Waiting::unsigned(frame.payload()[HEAD_BYTES..].to_vec());
        }
    }
}

/// The operations of a bundle.
#[derive(Debug)]
enum Content {
    /// Encoded; there is no session yet over which they could be signed.
    Unsigned(Vec<u8>),
    /// Signed over the present session.
    Signed { frame: Frame, request: Digest, sent: bool },
}

/// The empty bundle in the place of one that nobody took.
#[derive(Debug)]
struct Void {
    frame: Frame,
    request: Digest,
    reason: BusyReason,
}

/// Results whose digest f+1 replicas may not have confirmed yet.
#[derive(Debug)]
struct Body {
    digest: Digest,
    results: Arc<[u8]>,
}

/// A bundle of which it is not known what has become.
#[derive(Debug)]
pub(super) struct Waiting {
    content: Content,
    void: Option<Void>,
    body: Option<Body>,
    /// What f+1 replicas agree on, when only the body is missing.
    agreed: Option<(Seq, Digest)>,
}

impl Waiting {
    pub(super) fn unsigned(operations: Vec<u8>) -> Self {
        Self { content: Content::Unsigned(operations), void: None, body: None, agreed: None }
    }

    pub(super) fn signed(frame: Frame, request: Digest) -> Self {
        let content = Content::Signed { frame, request, sent: false };
        Self { content, void: None, body: None, agreed: None }
    }

    /// The length that it has on the wire, or will have.
    pub(super) fn bundle_bytes(&self) -> usize {
        match &self.content {
            Content::Unsigned(operations) => HEAD_BYTES + operations.len(),
            Content::Signed { frame, .. } => frame.payload().len(),
        }
    }

    /// Signs it, if it is not signed.
    pub(super) fn sign(&mut self, write: impl FnOnce(&mut Vec<u8>, &[u8]) -> Digest) {
        if let Content::Unsigned(operations) = &self.content {
            let mut request = Digest::ZERO;
            let frame = Frame::encode(Kind::Bundle, |out| request = write(out, operations));
            self.content = Content::Signed { frame, request, sent: false };
        }
    }

    /// What is to be sent for it, if it is signed.
    pub(super) fn next_frame(&mut self) -> Option<Frame> {
        if let Some(void) = &self.void {
            return Some(void.frame.clone());
        }
        match &mut self.content {
            Content::Unsigned(_) => None,
            Content::Signed { frame, sent, .. } => {
                *sent = true;
                Some(frame.clone())
            }
        }
    }

    /// What is to be sent of the bundle itself, if another stands in its place.
    pub(super) fn voided(&mut self) -> Option<Frame> {
        match (&self.void, &mut self.content) {
            (Some(_), Content::Signed { frame, sent, .. }) => {
                *sent = true;
                Some(frame.clone())
            }
            _ => None,
        }
    }

    /// Puts an empty bundle in its place, unless there is one.
    pub(super) fn void(&mut self, reason: BusyReason, write: impl FnOnce(&mut Vec<u8>) -> Digest) {
        if self.void.is_none() {
            let mut request = Digest::ZERO;
            let frame = Frame::encode(Kind::Bundle, |out| request = write(out));
            self.void = Some(Void { frame, request, reason });
        }
    }

    /// Why another bundle stands in its place, if one does.
    pub(super) fn reason(&self) -> Option<BusyReason> {
        self.void.as_ref().map(|void| void.reason)
    }

    /// Which of the bundles that were signed with its number a reply answers; none if it is somebody else's.
    pub(super) fn asked(&self, answered: &Digest) -> Option<Asked> {
        match (&self.content, &self.void) {
            (Content::Signed { request, .. }, _) if request == answered => Some(Asked::Bundle),
            (_, Some(void)) if &void.request == answered => Some(Asked::Void),
            _ => None,
        }
    }

    /// f+1 replicas say that the results have this digest.
    pub(super) fn agree(&mut self, seq: Seq, digest: Digest) {
        self.agreed = Some((seq, digest));
    }

    /// One body is kept per bundle. One that f+1 replicas confirm is taken from anybody; before that, the home's
    /// has precedence, so that another replica cannot displace it with a lie.
    pub(super) fn keep_body(&mut self, from_home: bool, digest: Digest, results: &[u8]) {
        let keep = match self.agreed {
            Some((_, confirmed)) => confirmed == digest,
            None => from_home || self.body.is_none(),
        };
        if keep && self.body.as_ref().is_none_or(|kept| kept.digest != digest) {
            self.body = Some(Body { digest, results: Arc::from(results) });
        }
    }

    /// Whether f+1 replicas have said what came of it.
    pub(super) fn is_agreed(&self) -> bool {
        self.agreed.is_some()
    }

    /// The results that f+1 replicas confirm, if they are here.
    pub(super) fn agreed_results(&self) -> Option<(Seq, Arc<[u8]>)> {
        let (seq, digest) = self.agreed?;
        let body = self.body.as_ref().filter(|body| body.digest == digest)?;
        Some((seq, Arc::clone(&body.results)))
    }
}
