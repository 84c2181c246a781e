//! Clients are told the truth: what is done was executed once, what is not done never was, and nothing was executed twice
//! however often and in whatever session it was signed.

use super::Violation;
use super::history::Executed;
use quorate_types::{BundleNumber, Digest, SessionId};
use std::collections::{BTreeMap, BTreeSet};

const ORACLE: &str = "outcomes";

/// What a client was told at last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// It was executed.
    Done,
    /// It was not and never will be.
    NotDone,
    /// Nothing, or that nobody knows.
    Nothing,
}

/// One thing that a user has asked for once.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The digest of its operations.
    pub request: Digest,
    /// The sessions and numbers over which it was signed and sent.
    pub signed: BTreeSet<(SessionId, BundleNumber)>,
    /// What came of it.
    pub told: Told,
}

/// Compares what clients were told with what was executed.
pub fn check(executed: &[Executed], asked: &[Asked]) -> Result<(), Violation> {
    let places: BTreeMap<(SessionId, BundleNumber), &Executed> =
        executed.iter().map(|found| ((found.session, found.number), found)).collect();
    for one in asked {
        let done: Vec<_> = one
            .signed
            .iter()
            .filter_map(|name| places.get(name).filter(|found| found.request == one.request))
            .map(|found| (found.session, found.number, found.seq))
            .collect();
        let holds = match one.told {
            Told::Done => done.len() == 1,
            Told::NotDone => done.is_empty(),
            Told::Nothing => done.len() <= 1,
        };
        if !holds {
            let text = format!("what was told as {:?} was executed as {done:?}", one.told);
            return Err(Violation::new(ORACLE, text));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_types::Seq;

    const REQUEST: Digest = Digest([1; 32]);

    fn session(place: u32) -> SessionId {
        SessionId { seq: Seq(1), place }
    }

    fn executed(place: u32, request: Digest) -> Executed {
        let (seq, session, number) = (Seq(4), session(place), BundleNumber(1));
        Executed { seq, session, number, request, operations: Vec::new(), results: Vec::new() }
    }

    fn asked(told: Told) -> Asked {
        let signed = BTreeSet::from([1, 2].map(|place| (session(place), BundleNumber(1))));
        Asked { request: REQUEST, signed, told }
    }

    #[test]
    fn done_is_once_and_not_done_is_never() {
        let (once, twice) = ([executed(1, REQUEST)], [executed(1, REQUEST), executed(2, REQUEST)]);
        let voided = [executed(1, Digest::ZERO)];
        let judge = |order: &[Executed], told| check(order, &[asked(told)]).is_ok();
        assert_eq!(
            [&once[..], &twice, &voided, &[]].map(|order| judge(order, Told::Done)),
            [true, false, false, false]
        );
        assert_eq!(
            [&once[..], &twice, &voided, &[]].map(|order| judge(order, Told::NotDone)),
            [false, false, true, true]
        );
        assert_eq!(
            [&once[..], &twice, &voided, &[]].map(|order| judge(order, Told::Nothing)),
            [true, false, true, true]
        );
    }
}
