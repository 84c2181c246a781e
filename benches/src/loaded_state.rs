//! A state of 100,000 keys, and the bundles that it executes over and over.

use crate::{KEYS, OPERATIONS, operations, session};
use quorate_state::{BundleInput, Context, Outcome, State};
use quorate_types::{ArchivedOperation, BundleNumber, Nanoseconds, Operation, Seq, SessionId};
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
    /// Kept, because deriving it takes longer than executing a SET.
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
        loaded.execute(&archive(&vec![Operation::Register { counter: 1 }]));
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

    /// Executes one archived bundle as the session's next one.
    ///
    /// # Panics
    /// When the state does not.
    pub fn execute(&mut self, archive: &[u8]) {
        let operations =
            rkyv::access::<ArchivedVec<ArchivedOperation>, Error>(archive).expect("a fresh archive");
        let seq = self.number + 1;
        let context = Context { seq: Seq(seq), timestamp: Nanoseconds(seq) };
        let number = BundleNumber(self.number);
        let input = BundleInput { client: &self.client, session: self.session, number, operations };
        assert!(matches!(self.state.execute(context, input), Outcome::Executed(_)));
        self.number += 1;
    }
}

impl Default for LoadedState {
    fn default() -> Self {
        Self::new()
    }
}
