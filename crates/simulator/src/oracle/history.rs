//! What clients saw: every answer is that of one order, which is the committed one and respects real time.
//!
//! The committed order is known, so linearizability needs no search: the answers must be those of a model
//! that replays the order, and a bundle that was complete before another was submitted must come before it.

use super::Violation;
use crate::ledger::{Ordered, WrittenBundle};
use crate::model::{Fate, Model};
use quorate_types::{
    BundleNumber, Digest, Nanoseconds, Operation, OperationError, OperationResult, Seq, SessionId,
    StateLimits,
};
use std::collections::BTreeMap;

const ORACLE: &str = "linearizable";

/// A bundle that took effect, at its place in the order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Executed {
    /// The slot.
    pub seq: Seq,
    /// The session.
    pub session: SessionId,
    /// The bundle.
    pub number: BundleNumber,
    /// The digest of its operations.
    pub request: Digest,
    /// What it asked.
    pub operations: Vec<Operation>,
    /// What the model says.
    pub results: Vec<OperationResult>,
}

/// A bundle that a client knows to be complete.
#[derive(Clone, Debug)]
pub struct Completion {
    /// The session.
    pub session: SessionId,
    /// The bundle.
    pub number: BundleNumber,
    /// The digest of its operations.
    pub request: Digest,
    /// What it asked.
    pub operations: Vec<Operation>,
    /// When the client handed it in.
    pub submitted_at: Nanoseconds,
    /// When the client had its answer.
    pub completed_at: Nanoseconds,
    /// Where it was executed, as the client was told.
    pub seq: Seq,
    /// What the client was told.
    pub results: Vec<OperationResult>,
}

/// What is answered to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Answered {
    /// The session.
    pub session: SessionId,
    /// The bundle.
    pub number: BundleNumber,
    /// The digest of its operations.
    pub request: Digest,
    /// The seq that the answer names.
    pub seq: Seq,
    /// Whether it says that the session is evicted. A header that executes a bundle may evict its session, and answer
    /// another copy of the bundle so: two answers with one seq, and both are true.
    pub evicted: bool,
}

impl Answered {
    /// Whether results say that the session is evicted.
    #[must_use]
    pub fn says_evicted(results: &[OperationResult]) -> bool {
        matches!(results, [OperationResult::Error(OperationError::SessionEvicted { .. })])
    }
}

/// What the committed order leads to.
#[derive(Debug)]
pub struct Replay {
    /// The bundles that took effect, in order.
    pub executed: Vec<Executed>,
    /// All that replicas may answer.
    pub answers: BTreeMap<Answered, Vec<OperationResult>>,
    /// The state at the end.
    pub model: Model,
}

impl Replay {
    fn bundle(&mut self, seq: Seq, bundle: &WrittenBundle) {
        let (session, number, request) = (bundle.session, bundle.number, bundle.request);
        match self.model.bundle(seq, bundle) {
            Fate::Executed(results) => {
                let operations = bundle.operations.clone();
                let name = Answered { session, number, request, seq, evicted: false };
                self.answers.insert(name, results.clone());
                self.executed.push(Executed { seq, session, number, request, operations, results });
            }
            Fate::Answered(at, result) => {
                let results = vec![result];
                let evicted = Answered::says_evicted(&results);
                self.answers.insert(Answered { session, number, request, seq: at, evicted }, results);
            }
            Fate::Nothing => {}
        }
    }
}

/// Replays the committed order of bundles of so many client keys.
#[must_use]
pub fn replay(order: &[Ordered<'_>], limits: StateLimits, clients: usize) -> Replay {
    let mut replay =
        Replay { executed: Vec::new(), answers: BTreeMap::new(), model: Model::new(limits, clients) };
    for Ordered { seq, timestamp, bundles } in order {
        bundles.iter().for_each(|bundle| replay.bundle(*seq, bundle));
        replay.model.header(*seq, *timestamp);
    }
    replay
}

/// Compares what clients saw with what was executed.
pub fn check(executed: &[Executed], completions: &[Completion]) -> Result<(), Violation> {
    let places: BTreeMap<(SessionId, BundleNumber), usize> =
        executed.iter().enumerate().map(|(place, found)| ((found.session, found.number), place)).collect();
    let mut seen: Vec<Option<&Completion>> = vec![None; executed.len()];
    for completion in completions {
        let name = (completion.session, completion.number);
        let Some(place) = places.get(&name) else {
            let text = format!("{name:?} was acknowledged at {:?} and is not in the order", completion.seq);
            return Err(Violation::new("nothing acknowledged is lost", text));
        };
        let found = &executed[*place];
        if found.request != completion.request {
            let text = format!("{name:?} at {:?} was told the answer to another bundle", found.seq);
            return Err(Violation::new("a reply belongs to its request", text));
        }
        if found.seq != completion.seq {
            let text =
                format!("{name:?} was acknowledged at {:?}, executed at {:?}", completion.seq, found.seq);
            return Err(Violation::new(ORACLE, text));
        }
        if found.results != completion.results {
            let text = difference(completion, found);
            return Err(Violation::new(ORACLE, format!("{name:?} at {:?}: {text}", found.seq)));
        }
        seen[*place] = Some(completion);
    }
    check_real_time(&seen)
}

fn difference(completion: &Completion, executed: &Executed) -> String {
    let told = completion.results.iter().zip(&executed.results);
    let first = completion.operations.iter().zip(told).find(|(_, (told, model))| told != model);
    match first {
        Some((operation, (told, model))) => {
            format!("{operation:?} answered {told:?}, the model says {model:?}")
        }
        None => {
            format!("{} results for {} operations", completion.results.len(), completion.operations.len())
        }
    }
}

/// `seen` is in the order of execution. From its end, the earliest completion so far must not lie before the
/// submission of what comes earlier in the order.
fn check_real_time(seen: &[Option<&Completion>]) -> Result<(), Violation> {
    let mut earliest: Option<&Completion> = None;
    for completion in seen.iter().rev().filter_map(|found| *found) {
        if let Some(later) = earliest
            && later.completed_at < completion.submitted_at
        {
            let text = format!(
                "{:?} was complete at {:?} before {:?} was submitted at {:?}, but was executed after it ({:?}, {:?})",
                (later.session, later.number),
                later.completed_at,
                (completion.session, completion.number),
                completion.submitted_at,
                later.seq,
                completion.seq,
            );
            return Err(Violation::new(ORACLE, text));
        }
        if earliest.is_none_or(|later| completion.completed_at < later.completed_at) {
            earliest = Some(completion);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(place: u32) -> SessionId {
        SessionId { seq: Seq(1), place }
    }

    fn executed(seq: u64, place: u32, value: i64) -> Executed {
        let results = vec![OperationResult::Integer { value, version: seq }];
        let (seq, session, number) = (Seq(seq), session(place), BundleNumber(1));
        Executed { seq, session, number, request: Digest::ZERO, operations: Vec::new(), results }
    }

    fn completion(of: &Executed, submitted: u64, completed: u64) -> Completion {
        Completion {
            session: of.session,
            number: of.number,
            request: of.request,
            operations: vec![Operation::IncrementBy { key: b"n".to_vec(), by: 1 }],
            submitted_at: Nanoseconds(submitted),
            completed_at: Nanoseconds(completed),
            seq: of.seq,
            results: of.results.clone(),
        }
    }

    #[test]
    fn an_acknowledged_bundle_that_is_not_in_the_order_is_lost() {
        let order = [executed(1, 1, 1), executed(2, 2, 2)];
        let completions = [completion(&order[0], 0, 10), completion(&order[1], 0, 10)];
        check(&order, &completions).unwrap();
        assert_eq!(check(&order[..1], &completions).unwrap_err().oracle, "nothing acknowledged is lost");
    }

    #[test]
    fn a_stale_or_doubled_answer_is_seen() {
        let order = [executed(1, 1, 1), executed(2, 2, 2)];
        let mut wrong = completion(&order[1], 0, 10);
        wrong.results = vec![OperationResult::Integer { value: 3, version: 2 }];
        assert!(check(&order, &[wrong]).unwrap_err().message.contains("the model says"));
        let mut elsewhere = completion(&order[1], 0, 10);
        elsewhere.seq = Seq(1);
        assert!(check(&order, &[elsewhere]).is_err());
    }

    #[test]
    fn an_order_against_real_time_is_seen() {
        let order = [executed(1, 1, 1), executed(2, 2, 2), executed(2, 3, 3)];
        // Overlapping bundles may have either order.
        check(&order, &[completion(&order[0], 5, 20), completion(&order[1], 0, 10)]).unwrap();
        // The second of the order was complete before the first was submitted.
        assert!(check(&order, &[completion(&order[0], 11, 20), completion(&order[1], 0, 10)]).is_err());
        // Within one slot the order counts as well.
        assert!(check(&order, &[completion(&order[1], 11, 20), completion(&order[2], 0, 10)]).is_err());
    }

    #[test]
    fn an_answer_to_another_bundle_is_seen() {
        let order = [executed(1, 1, 1)];
        let mut foreign = completion(&order[0], 0, 10);
        foreign.request = Digest([1; 32]);
        assert_eq!(check(&order, &[foreign]).unwrap_err().oracle, "a reply belongs to its request");
    }

    #[test]
    fn the_replay_executes_a_bundle_once() {
        let client = *quorate_wire::testing::client_key().public().as_bytes();
        let bundle = |session, number: u64, operation: Operation| {
            WrittenBundle::new(client, session, BundleNumber(number), vec![operation])
        };
        let nonce = quorate_types::Nonce([1; 16]);
        let register = bundle(SessionId::NONE, 0, Operation::Register { nonce, recent: 1 });
        let add = bundle(session(0), 1, Operation::IncrementBy { key: b"n".to_vec(), by: 1 });
        let read = bundle(session(0), 2, Operation::Get { key: b"n".to_vec() });
        let header = |seq, bundles| Ordered { seq: Seq(seq), timestamp: Nanoseconds(seq), bundles };
        let order = [header(1, vec![&register]), header(2, vec![&add]), header(3, vec![&add, &read])];
        let Replay { executed, answers, .. } = replay(&order, StateLimits::default(), 1);
        assert_eq!((executed.len(), answers.len()), (2, 3));
        let OperationResult::Value(Some(found)) = &executed[1].results[0] else { panic!("the key exists") };
        assert_eq!((found.value.as_slice(), found.version), (b"1".as_slice(), 1));
    }
}
