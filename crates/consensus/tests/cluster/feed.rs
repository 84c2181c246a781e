//! Frames go into a machine as a replica hands them in: decoded, asked for whether they say anything new, checked,
//! taken.

use quorate_consensus::{Consensus, Output};
use quorate_types::{Nanoseconds, ReplicaId};
use quorate_wire::message::{
    Checkpoint, CheckpointCertificate, Commit, FetchHeaders, FetchedHeaders, Message, NewView, PrePrepare,
    Prepare, Status, Suspect, ViewChange,
};
use quorate_wire::{Frame, Kind};

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    Yes,
    /// It says nothing new, or nothing that could count here.
    Ignored,
    Forged,
}

/// Takes a frame as a replica does: decode, ask whether it is worth the check, check, take.
///
/// # Panics
/// When the frame does not decode: these are frames of this test.
pub(crate) fn feed(
    consensus: &mut Consensus,
    now: Nanoseconds,
    from: ReplicaId,
    frame: &Frame,
    out: &mut Vec<Output>,
) -> Taken {
    let bytes = frame.payload();
    let keyring = consensus.keyring().clone();
    match frame.kind() {
        Kind::PrePrepare => {
            let message = PrePrepare::decode(bytes).expect("a test message");
            if !consensus.wants_pre_prepare(&message) {
                return Taken::Ignored;
            }
            let Some(message) = keyring.pre_prepare(message) else { return Taken::Forged };
            consensus.on_pre_prepare(message, out);
        }
        Kind::Prepare => {
            let message = Prepare::decode(bytes).expect("a test message");
            if !consensus.wants_prepare(from, &message) {
                return Taken::Ignored;
            }
            let Some(message) = keyring.prepare(from, message) else { return Taken::Forged };
            consensus.on_prepare(message, out);
        }
        Kind::Commit => {
            consensus.on_commit(from, &Commit::decode(bytes).expect("a test message"), out);
        }
        Kind::Checkpoint => {
            let message = Checkpoint::decode(bytes).expect("a test message");
            if !consensus.wants_checkpoint(from, &message) {
                return Taken::Ignored;
            }
            let Some(message) = keyring.checkpoint(from, message) else { return Taken::Forged };
            consensus.on_checkpoint(message, out);
        }
        Kind::CheckpointCertificate => {
            let message = CheckpointCertificate::decode(bytes).expect("a test message");
            if !consensus.wants_certificate(&message) {
                return Taken::Ignored;
            }
            let Some(message) = keyring.certificate(message) else { return Taken::Forged };
            consensus.on_certificate(message, out);
        }
        Kind::Status => {
            consensus.on_status(from, Status::decode(bytes).expect("a test message"), out);
            consensus.send_again(from, out);
        }
        Kind::FetchHeaders => {
            consensus.on_fetch_headers(from, &FetchHeaders::decode(bytes).expect("a test message"), out);
        }
        Kind::FetchedHeaders => {
            let message = FetchedHeaders::decode(bytes).expect("a test message");
            if let Err(reject) = consensus.on_fetched_headers(now, from, message, out) {
                out.push(Output::Rejected(reject));
            }
        }
        Kind::Suspect => {
            let message = Suspect::decode(bytes).expect("a test message");
            if !consensus.wants_suspect(from, &message) {
                return Taken::Ignored;
            }
            let Some(message) = keyring.suspect(from, message) else { return Taken::Forged };
            consensus.on_suspect(message);
        }
        Kind::ViewChange => {
            let message = ViewChange::decode(bytes).expect("a test message");
            let Some(news) = consensus.news_of_view_change(from, message) else { return Taken::Ignored };
            let Some(message) = keyring.view_change(from, news) else { return Taken::Forged };
            consensus.on_view_change(message);
        }
        Kind::NewView => {
            let message = NewView::decode(bytes).expect("a test message");
            if !consensus.wants_new_view(&message) {
                return Taken::Ignored;
            }
            let Some(message) = keyring.new_view(message) else { return Taken::Forged };
            consensus.on_new_view(message, out);
        }
        other => panic!("consensus takes no {other:?}"),
    }
    Taken::Yes
}
