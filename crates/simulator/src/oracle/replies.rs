//! At most once, as replicas tell it: a bundle has one seq and one result, whoever answers and however often, and nobody
//! gets the answer to somebody else's bundle.

use super::Violation;
use super::history::{Answered, Executed};
use quorate_types::{BundleNumber, Digest, OperationResult, ReplicaId, SessionId};
use quorate_wire::ReplyView;
use quorate_wire::reply::ReplyBody;
use rkyv::rancor::Failure;
use std::collections::{BTreeMap, BTreeSet};

const ORACLE: &str = "at most once";

#[derive(Debug)]
struct Answer {
    digest: Digest,
    first: ReplicaId,
    results: Option<Vec<u8>>,
}

/// All answers of all replicas.
#[derive(Debug, Default)]
pub struct Replies {
    answers: BTreeMap<Answered, Answer>,
    /// Of which it was said that it was executed and its results are gone, and who said so first.
    gone: BTreeMap<Answered, ReplicaId>,
}

impl Replies {
    /// A reply leaves a replica.
    pub fn on_reply(&mut self, replica: ReplicaId, reply: &ReplyView<'_>) -> Result<(), Violation> {
        let ReplyView { session, number, request, seq, digest, .. } = *reply;
        let results = match reply.body {
            ReplyBody::Results(results) => Some(results),
            ReplyBody::DigestOnly => None,
            ReplyBody::Gone => {
                let name = Answered { session, number, request, seq, evicted: false };
                self.gone.entry(name).or_insert(replica);
                return Ok(());
            }
        };
        let evicted = results.and_then(read).is_some_and(|results| Answered::says_evicted(&results));
        let name = Answered { session, number, request, seq, evicted };
        let answer = self.answers.entry(name).or_insert(Answer { digest, first: replica, results: None });
        if answer.digest != digest {
            let text = format!(
                "answers to {name:?}: {digest:?}, but replica {} said {:?}",
                answer.first, answer.digest
            );
            return Err(Violation::new(ORACLE, text));
        }
        if answer.results.is_none() {
            answer.results = results.map(<[u8]>::to_vec);
        }
        Ok(())
    }

    /// What replicas have told of the results of a bundle; nothing if none did, or if it cannot be read.
    #[must_use]
    pub fn told(&self, of: &Executed) -> Option<Vec<OperationResult>> {
        let Executed { session, number, request, seq, .. } = *of;
        let name = Answered { session, number, request, seq, evicted: false };
        read(self.answers.get(&name)?.results.as_ref()?)
    }

    /// Compares every answer with what may be answered, those included that no client waited for. Results are gone of
    /// what is in `gone`, and of nothing else.
    pub fn check(
        &self,
        answers: &BTreeMap<Answered, Vec<OperationResult>>,
        gone: &BTreeSet<(SessionId, BundleNumber)>,
    ) -> Result<(), Violation> {
        for (name, replica) in &self.gone {
            if !answers.contains_key(name) || !gone.contains(&(name.session, name.number)) {
                let text =
                    format!("replica {replica} says that the results of {name:?} are gone; they are kept");
                return Err(Violation::new(ORACLE, text));
            }
        }
        for (name, answer) in &self.answers {
            let Some(expected) = answers.get(name) else {
                let text = format!("{name:?} was answered and is not in the order");
                return Err(Violation::new(ORACLE, text));
            };
            let Some(bytes) = &answer.results else { continue };
            let told = read(bytes);
            if told.as_ref() != Some(expected) {
                let text = format!("{name:?} was answered {told:?}, the model says {expected:?}");
                return Err(Violation::new(ORACLE, text));
            }
        }
        Ok(())
    }
}

fn read(results: &[u8]) -> Option<Vec<OperationResult>> {
    rkyv::from_bytes::<_, Failure>(results).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_types::{Domain, OperationError, Seq, View};
    use quorate_wire::testing::SESSION;

    fn results(value: i64) -> Vec<OperationResult> {
        vec![OperationResult::Integer { value, version: 4 }]
    }

    fn archive(value: i64) -> Vec<u8> {
        rkyv::to_bytes::<Failure>(&results(value)).unwrap().to_vec()
    }

    fn reply(seq: u64, request: u8, results: &[u8]) -> ReplyView<'_> {
        ReplyView {
            session: SESSION,
            number: BundleNumber(1),
            seq: Seq(seq),
            view: View(0),
            request: Digest([request; 32]),
            digest: Digest::of(Domain::Results, results),
            body: ReplyBody::Results(results),
        }
    }

    #[test]
    fn a_bundle_with_two_results_is_seen() {
        let (one, two) = (archive(1), archive(2));
        let mut replies = Replies::default();
        replies.on_reply(ReplicaId(0), &reply(4, 1, &one)).unwrap();
        replies.on_reply(ReplicaId(1), &reply(4, 1, &one)).unwrap();
        assert!(replies.on_reply(ReplicaId(1), &reply(4, 1, &two)).is_err());
    }

    #[test]
    fn a_header_may_answer_a_bundle_and_then_evict_its_session() {
        let evicted = vec![OperationResult::Error(OperationError::SessionEvicted { next: 2 })];
        let evicted = rkyv::to_bytes::<Failure>(&evicted).unwrap();
        let mut replies = Replies::default();
        replies.on_reply(ReplicaId(0), &reply(4, 1, &archive(1))).unwrap();
        replies.on_reply(ReplicaId(0), &reply(4, 1, &evicted)).unwrap();
        assert!(replies.on_reply(ReplicaId(1), &reply(4, 1, &archive(2))).is_err());
    }

    #[test]
    fn an_answer_that_is_not_in_the_order_or_belongs_to_another_bundle_is_seen() {
        let one = archive(1);
        let answers = |seq: u64, request: u8, value| {
            let (session, number, request) = (SESSION, BundleNumber(1), Digest([request; 32]));
            let name = Answered { session, number, request, seq: Seq(seq), evicted: false };
            BTreeMap::from([(name, results(value))])
        };
        let mut replies = Replies::default();
        replies.on_reply(ReplicaId(0), &reply(4, 1, &one)).unwrap();
        let kept = BTreeSet::new();
        replies.check(&answers(4, 1, 1), &kept).unwrap();
        assert!(replies.check(&answers(4, 1, 2), &kept).is_err());
        assert!(replies.check(&answers(5, 1, 1), &kept).is_err());
        assert!(replies.check(&answers(4, 2, 1), &kept).is_err());
        // That results are gone is an answer too.
        let reply = ReplyView { body: ReplyBody::Gone, ..reply(4, 1, &[]) };
        replies.on_reply(ReplicaId(0), &reply).unwrap();
        assert!(replies.check(&answers(4, 1, 1), &kept).is_err());
        replies.check(&answers(4, 1, 1), &BTreeSet::from([(SESSION, BundleNumber(1))])).unwrap();
    }
}
