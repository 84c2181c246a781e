//! A state of 100,000 keys, and the bundles that it executes over and over.

use crate::{KEYS, OPERATIONS, operations, session};
use quorate_state::{BundleInput, Context, Outcome, State};
use quorate_types::{ArchivedOperation, BundleNumber, Digest, Nanoseconds, Nonce, Operation, Seq, SessionId};
use quorate_wire::testing;
use rkyv::rancor::Error;
use rkyv::util::AlignedVec;
use rkyv::vec::ArchivedVec;

/// The bundles that write each key once.
pub const BUNDLES: u64 = KEYS / OPERATIONS;

/// A state with one session, and the archived bundles that it executes over and over.
#[derive(Debug)]
pub struct LoadedState {
    /// The state.
    pub state: State,
    client: [u8; 32],
    session: SessionId,
    bundles: Vec<AlignedVec>,
    number: u64,
}

/// Operations as they stand in a bundle.
pub(crate) fn archive(operations: &Vec<Operation>) -> AlignedVec {
    rkyv::to_bytes::<Error>(operations).expect("operations can be archived")
}

impl LoadedState {
    /// A state in which each key was written once.
    ///
    /// # Panics
    /// When the state does not hold them.
    #[must_use]
    pub fn new() -> Self {
        let client = *testing::client_key().public().as_bytes();
        let bundles = (0..BUNDLES).map(|number| archive(&operations(number))).collect();
        let mut loaded = Self { state: State::new([client]), client, session: session(), bundles, number: 0 };
        loaded.register();
        loaded.next(BUNDLES);
        assert_eq!(loaded.state.user_keys(), KEYS);
        loaded
    }

    /// Executes the next bundles; bundle 0 of the session is its registration, those that follow take turns.
    ///
    /// # Panics
    /// When the state does not execute one.
    pub fn next(&mut self, count: u64) {
        let bundles = std::mem::take(&mut self.bundles);
        for _ in 0..count {
            let turn = usize::try_from((self.number - 1) % BUNDLES).expect("a small number");
            self.execute(&bundles[turn]);
        }
        self.bundles = bundles;
    }

    fn register(&mut self) {
        let archive = archive(&vec![Operation::Register { nonce: Nonce([1; 16]), recent: 0 }]);
        let outcome = self.outcome(self.session.seq, SessionId::NONE, &archive);
        assert!(matches!(outcome, Outcome::Registration { session: Some(id), .. } if id == self.session));
        self.number = 1;
    }

    /// Executes one archived bundle as the session's next one.
    ///
    /// # Panics
    /// When the state does not.
    pub fn execute(&mut self, archive: &[u8]) {
        let outcome = self.outcome(Seq(self.number + 1), self.session, archive);
        assert!(matches!(outcome, Outcome::Executed(_)));
        self.number += 1;
    }

    fn outcome(&mut self, seq: Seq, session: SessionId, archive: &[u8]) -> Outcome {
        let operations =
            rkyv::access::<ArchivedVec<ArchivedOperation>, Error>(archive).expect("a fresh archive");
        let context = Context { seq, timestamp: Nanoseconds(seq.0) };
        // The digest of the request was made when the signature was checked.
        let (client, number, request) = (&self.client, BundleNumber(self.number), Digest::ZERO);
        self.state.execute(context, BundleInput { client, session, number, request, operations })
    }
}

impl Default for LoadedState {
    fn default() -> Self {
        Self::new()
    }
}
