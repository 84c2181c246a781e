//! Where the time of a bundle goes (DESIGN section 8).

/// What a bundle passes at its home replica, in this order. Each stage begins where the one before it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// Checked and taken in; begins when the bundle arrives.
    Admitted,
    /// Put into a batch.
    Sealed,
    /// The batch is durable in the home's own journal.
    Durable,
    /// A quorum holds the batch durably.
    Acknowledged,
    /// The home has accepted a header that names the batch.
    Proposed,
    /// That header has a quorum of PREPAREs.
    Prepared,
    /// It is committed.
    Committed,
    /// It is executed.
    Executed,
    /// The results are on their way to the client.
    Replied,
}

impl Stage {
    /// All stages in their order.
    pub const ALL: [Self; 9] = [
        Self::Admitted,
        Self::Sealed,
        Self::Durable,
        Self::Acknowledged,
        Self::Proposed,
        Self::Prepared,
        Self::Committed,
        Self::Executed,
        Self::Replied,
    ];
}

/// How long a stage took that some bundles passed together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StageTime {
    /// The stage.
    pub stage: Stage,
    /// From the end of the stage before to its own, in nanoseconds.
    pub elapsed_ns: u64,
    /// The number of bundles.
    pub bundles: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_are_listed_in_their_order() {
        for (index, stage) in Stage::ALL.into_iter().enumerate() {
            assert_eq!(stage as usize, index);
        }
    }
}
