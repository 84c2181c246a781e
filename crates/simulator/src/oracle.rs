//! What must hold in every history. Each oracle sees what replicas do, never what they believe, and says in
//! words what does not fit. All of them can fail: their tests feed them doctored histories.

pub mod agreement;
pub mod durability;
pub mod fairness;
pub mod history;
pub mod origins;
pub mod outcomes;
pub mod primaries;
pub mod replies;
pub mod resources;
pub mod versions;
pub mod votes;
pub mod work;

use quorate_types::{Nanoseconds, ReplicaId};
use std::fmt;

/// Something that must not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The oracle that saw it.
    pub oracle: &'static str,
    /// What it saw.
    pub message: String,
}

impl Violation {
    /// A violation seen by `oracle`.
    #[must_use]
    pub fn new(oracle: &'static str, message: impl Into<String>) -> Self {
        Self { oracle, message: message.into() }
    }
}

/// A violation with its place in the history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The seed of the history.
    pub seed: u64,
    /// The virtual time.
    pub at: Nanoseconds,
    /// The replica that it was seen at, if at one.
    pub replica: Option<ReplicaId>,
    /// What was seen.
    pub violation: Violation,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed {} at {}", self.seed, crate::trace::time(self.at).trim_start())?;
        if let Some(replica) = self.replica {
            write!(f, ", replica {replica}")?;
        }
        write!(f, ": {}: {}", self.violation.oracle, self.violation.message)
    }
}
