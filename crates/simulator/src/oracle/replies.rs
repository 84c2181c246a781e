//! At most once, as replicas tell it: a bundle has one seq and one result, whoever answers and however often.

use super::Violation;
use super::history::Executed;
use quorate_types::{BundleNumber, Digest, OperationResult, ReplicaId, Seq, SessionId};
use quorate_wire::ReplyView;
use quorate_wire::reply::ReplyBody;
use rkyv::rancor::Failure;
use std::collections::BTreeMap;

const ORACLE: &str = "at most once";

#[derive(Debug)]
struct Answer {
    seq: Seq,
    digest: Digest,
    first: ReplicaId,
    results: Option<Vec<u8>>,
}

/// All answers of all replicas.
#[derive(Debug, Default)]
pub struct Replies {
    answers: BTreeMap<(SessionId, BundleNumber), Answer>,
}

impl Replies {
    /// A reply leaves a replica. Registrations are left out: a refused one has a new seq each time.
    pub fn on_reply(&mut self, replica: ReplicaId, reply: &ReplyView<'_>) -> Result<(), Violation> {
        if reply.number == BundleNumber(0) || reply.body == ReplyBody::Gone {
            return Ok(());
        }
        let (seq, digest) = (reply.seq, reply.digest);
        let answer = self.answers.entry((reply.session, reply.number)).or_insert(Answer {
            seq,
            digest,
            first: replica,
            results: None,
        });
        if (answer.seq, answer.digest) != (seq, digest) {
            let text = format!(
                "answers to {:?} {:?}: {seq:?} {digest:?}, but replica {} said {:?} {:?}",
                reply.session, reply.number, answer.first, answer.seq, answer.digest
            );
            return Err(Violation::new(ORACLE, text));
        }
        if let ReplyBody::Results(results) = reply.body
            && answer.results.is_none()
        {
            answer.results = Some(results.to_vec());
        }
        Ok(())
    }

    /// What replicas have told of the results of a bundle; nothing if none did, or if it cannot be read.
    #[must_use]
    pub fn told(&self, session: SessionId, number: BundleNumber) -> Option<Vec<OperationResult>> {
        let bytes = self.answers.get(&(session, number))?.results.as_ref()?;
        rkyv::from_bytes::<_, Failure>(bytes).ok()
    }

    /// Compares every answer with what was executed, those included that no client waited for.
    pub fn check(&self, executed: &[Executed]) -> Result<(), Violation> {
        let places: BTreeMap<(SessionId, BundleNumber), &Executed> =
            executed.iter().map(|found| ((found.session, found.number), found)).collect();
        for (name, answer) in &self.answers {
            let Some(found) = places.get(name).filter(|found| found.seq == answer.seq) else {
                let text = format!("{name:?} was answered at {:?} and not executed there", answer.seq);
                return Err(Violation::new(ORACLE, text));
            };
            let Some(bytes) = &answer.results else { continue };
            let told = rkyv::from_bytes::<Vec<OperationResult>, Failure>(bytes);
            if told.as_ref().ok() != Some(&found.results) {
                let text = format!("{name:?} was answered {told:?}, the model says {:?}", found.results);
                return Err(Violation::new(ORACLE, text));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_types::{Domain, View};

    fn archive(value: i64) -> Vec<u8> {
        let results = vec![OperationResult::Integer { value, version: 4 }];
        rkyv::to_bytes::<Failure>(&results).unwrap().to_vec()
    }

    fn reply(seq: u64, results: &[u8]) -> ReplyView<'_> {
        ReplyView {
            session: SessionId([1; 32]),
            number: BundleNumber(1),
            seq: Seq(seq),
            view: View(0),
            digest: Digest::of(Domain::Results, results),
            body: ReplyBody::Results(results),
        }
    }

    #[test]
    fn a_bundle_with_two_results_or_two_places_is_seen() {
        let (one, two) = (archive(1), archive(2));
        let mut replies = Replies::default();
        replies.on_reply(ReplicaId(0), &reply(4, &one)).unwrap();
        replies.on_reply(ReplicaId(1), &reply(4, &one)).unwrap();
        assert!(replies.on_reply(ReplicaId(1), &reply(4, &two)).is_err());
        assert!(replies.on_reply(ReplicaId(1), &reply(5, &one)).is_err());
    }

    #[test]
    fn an_answer_that_was_not_executed_is_seen() {
        let one = archive(1);
        let mut replies = Replies::default();
        replies.on_reply(ReplicaId(0), &reply(4, &one)).unwrap();
        let executed = |value| Executed {
            seq: Seq(4),
            session: SessionId([1; 32]),
            number: BundleNumber(1),
            operations: Vec::new(),
            results: vec![OperationResult::Integer { value, version: 4 }],
        };
        replies.check(&[executed(1)]).unwrap();
        assert!(replies.check(&[executed(2)]).is_err());
        assert!(replies.check(&[]).is_err());
    }
}
