//! Mistakes made on purpose, to see that the simulator finds them (DESIGN sections 4 and 9).
//!
//! A rule that can be broken asks [`is_made`] at the place where it would be. In every build but the simulator's (feature
//! `mistakes`) that is a constant `false`, and nothing of it is left. Which mistake is made belongs to a thread, as one thread
//! runs one history. Ask last, after `&&`, where the mistake makes a difference: [`differences`] counts those.

macro_rules! mistakes {
    ($($(#[$doc:meta])* $mistake:ident = $name:literal,)*) => {
        /// A mistake that the simulator must find.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Mistake { $($(#[$doc])* $mistake,)* }

        impl Mistake {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$mistake),*];

            /// Its name on a command line.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$mistake => $name,)* }
            }
        }
    };
}

mistakes! {
    // Votes and certificates.
    /// A header at or below the stable checkpoint is accepted and voted for.
    AcceptsBelowStable = "accepts-below-stable",
    /// A certificate below the stable checkpoint is let go of when the journal is trimmed.
    DropsCertificateBelowStable = "drops-certificate-below-stable",
    /// A COMMIT leaves before its certificate is durable.
    CommitsBeforeDurable = "commits-before-durable",
    /// A COMMIT leaves for a view that was left.
    CommitsInOldView = "commits-in-old-view",
    /// A PREPARE counts for the ancestors of what it names.
    CountsDescendants = "counts-descendants",
    /// PREPAREs of a lower view count in a higher one.
    CountsAcrossViews = "counts-across-views",
    /// A quorum is 2f+1 replicas, whatever their number.
    SmallQuorum = "small-quorum",
    /// A PREPARE leaves before what it votes for is durable.
    VotesBeforeDurable = "votes-before-durable",
    /// The first PREPARE of a view begins below its head.
    VotesBelowHead = "votes-below-head",
    // View changes.
    /// A VIEW-CHANGE leaves before the view is left on disk.
    ChangesViewBeforeDurable = "changes-view-before-durable",
    /// A second NEW-VIEW of one view is entered.
    EntersViewTwice = "enters-view-twice",
    /// A new view begins at any certificate, rather than at the highest.
    SelectsAnyCertificate = "selects-any-certificate",
    /// A new view begins at the longest chain that is prepared, whatever the view of its certificate.
    SelectsLongestChain = "selects-longest-chain",
    /// A VIEW-CHANGE shows what is committed alone.
    ShowsCommittedAlone = "shows-committed-alone",
    // Restarts.
    /// The highest prepared certificate is the one of the highest slot after a restart.
    ComparesSlotsAlone = "compares-slots-alone",
    /// A certificate is forgotten by a restart.
    ForgetsCertificate = "forgets-certificate",
    /// That a view was entered is forgotten by a restart.
    ForgetsEnterView = "forgets-enter-view",
    /// What stands for trimmed votes is not heeded after a restart.
    ForgetsPromise = "forgets-promise",
    /// That a view was left is forgotten by a restart.
    ForgetsViewState = "forgets-view-state",
    /// What was accepted and voted for is forgotten by a restart.
    ForgetsVotes = "forgets-votes",
    /// Of the states that were voted for and are not certified yet, the newest two alone stay on the disk.
    GivesUpVotedStates = "gives-up-voted-states",
    /// A state that was voted for before a restart is not written again where a newer one waits.
    ReplacesOwedStates = "replaces-owed-states",
    /// Of the states that were voted for and are not certified yet, the newest alone is served.
    ServesNewestState = "serves-newest-state",
    /// A restart goes on from the newest state, certified or not.
    UncertifiedFloor = "uncertified-floor",
    // Disks.
    /// A group of a log is torn where a batch in it is bad.
    TearsWithBatch = "tears-with-batch",
    /// What cannot be read of checkpoints is removed at once.
    TidiesUnreadable = "tidies-unreadable",
    // Execution.
    /// Whether a bundle counts depends on the view in which it is executed.
    JudgesByView = "judges-by-view",
    /// What users' entries come to is not counted where a state comes from others.
    ForgetsTransferredBytes = "forgets-transferred-bytes",
    // Work.
    /// Signatures are checked whether their sender's credit covers that or not.
    ChecksOnCredit = "checks-on-credit",
    /// Whatever fits into a lane is admitted, however much of it a key has.
    AdmitsWhatFits = "admits-what-fits",
    /// Whatever is admitted is sealed as it came.
    TakesOffAtOnce = "takes-off-at-once",
    // Lanes.
    /// A cut is accepted whoever has acknowledged what it names.
    AcceptsUnacknowledged = "accepts-unacknowledged",
    /// What a primary proposes is fetched only when f+1 others have acknowledged it.
    FetchesAcknowledgedOnly = "fetches-acknowledged-only",
    /// A tip whose chain is dead is awaited until its number is reached on another.
    AwaitsDeadForks = "awaits-dead-forks",
    /// An acknowledgement takes the place of those that the peer has given before of other chains.
    ReplacesAcknowledgements = "replaces-acknowledgements",
    /// What has left memory is not read back from the journal for others.
    ServesMemoryOnly = "serves-memory-only",
    /// Who has acknowledged more than a digest is not asked about that, and says nothing of it by itself.
    CoalescesAcknowledgements = "coalesces-acknowledgements",
    /// What headers name, or f+1 have acknowledged, is dropped where its lane is over its budget.
    DropsNamedForBudget = "drops-named-for-budget",
    // Fetches.
    /// Whatever a server gives renews all of its time, and that of the whole fetch.
    RenewsDeadlines = "renews-deadlines",
}

#[cfg(feature = "mistakes")]
mod made {
    use super::Mistake;
    use std::cell::Cell;

    thread_local! {
        static MADE: Cell<Option<Mistake>> = const { Cell::new(None) };
        static DIFFERENCES: Cell<u64> = const { Cell::new(0) };
    }

    /// Whether this mistake is made here. Counts as a difference where it is.
    #[must_use]
    pub fn is_made(mistake: Mistake) -> bool {
        let does = MADE.get() == Some(mistake);
        if does {
            DIFFERENCES.set(DIFFERENCES.get() + 1);
        }
        does
    }

    /// From here on this thread makes this mistake, or none. Nothing has made a difference yet.
    pub fn make(mistake: Option<Mistake>) {
        MADE.set(mistake);
        DIFFERENCES.set(0);
    }

    /// How often the mistake has made a difference since [`make`].
    #[must_use]
    pub fn differences() -> u64 {
        DIFFERENCES.get()
    }
}

#[cfg(feature = "mistakes")]
pub use made::{differences, is_made, make};

/// Whether this mistake is made here: never, in this build.
#[cfg(not(feature = "mistakes"))]
#[must_use]
#[inline(always)]
pub const fn is_made(_mistake: Mistake) -> bool {
    false
}
