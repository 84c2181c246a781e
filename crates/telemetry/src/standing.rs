//! How a replica stands: what it counts for, what it takes of clients and what it is about, each an enumeration that
//! programs read and that prints as a sentence for people.

use serde::{Deserialize, Serialize};
use std::fmt;

/// What a replica counts for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// It casts votes.
    #[default]
    Voter,
    /// It follows and serves, and casts no votes, ever: its own may be lost. It counts as one of the faulty ones.
    Learner,
}

/// What a replica takes of clients; the later ones include those before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Takes {
    /// Nothing.
    Nothing,
    /// Registrations and void bundles, with which what was begun ends.
    Endings,
    /// Reads.
    Reads,
    /// Writes: everything.
    #[default]
    Writes,
}

impl Takes {
    /// Its name, as JSON has it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Endings => "endings",
            Self::Reads => "reads",
            Self::Writes => "writes",
        }
    }
}

/// Why a replica does not take everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Declines {
    /// It follows the others, as a learner does, or whoever lacks a state: clients find another home.
    Following,
    /// The log is full of what is still needed, by `max_journal_bytes`.
    Log,
    /// The disk has less room than `min_free_bytes`.
    Disk,
    /// The next checkpoint does not fit on the disk.
    Checkpoint,
}

impl fmt::Display for Declines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Following => "it follows the others, and clients find another home",
            Self::Log => {
                "the log is full of what is still needed, by max_journal_bytes; it ends by itself when the replicas that \
                 lag have caught up"
            }
            Self::Disk => {
                "the disk has less room than min_free_bytes; it ends by itself when there is room again"
            }
            Self::Checkpoint => {
                "the next checkpoint does not fit on the disk of data_dir; it ends by itself when there is room and \
                 the checkpoint is written"
            }
        })
    }
}

/// What a replica is about: of all that is open, what holds up the rest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Activity {
    /// Nothing is open.
    #[default]
    Idle,
    /// It is linked with too few to be part of a quorum.
    CutOff {
        /// The replicas that it is linked with, itself included.
        linked: u64,
        /// How many there must be.
        quorum: u64,
    },
    /// What it must write before it says anything waits for room on its disk: it casts no votes meanwhile.
    AwaitingRoom,
    /// Its own state is lost or damaged, and nobody has said yet which one it is to take over.
    AwaitingState,
    /// It takes over a certified state of the others.
    FetchingState {
        /// The seq after which it is such.
        seq: u64,
        /// The pages that have come.
        pages: u64,
        /// The subtrees and values that were here already.
        reused: u64,
    },
    /// Others have committed headers that it lacks.
    FetchingHeaders {
        /// Up to this seq.
        upto: u64,
    },
    /// Batches of a committed header are missing.
    FetchingBatches {
        /// The seq of that header.
        header: u64,
    },
    /// It has left its view and waits for this one to begin.
    ChangingView {
        /// The view.
        view: u64,
    },
    /// The primary of its view is not linked with it.
    AwaitingPrimary {
        /// That primary.
        primary: u8,
    },
    /// Headers are being ordered, or wait for what is to be said in `waits_for`.
    Ordering,
    /// What is committed is being executed.
    Executing {
        /// The highest executed seq.
        executed: u64,
        /// The highest committed seq.
        committed: u64,
    },
}

impl Activity {
    /// Whether it is behind the others and catches up.
    #[must_use]
    pub fn is_catching_up(&self) -> bool {
        self.lacks_state() || matches!(self, Self::FetchingHeaders { .. } | Self::FetchingBatches { .. })
    }

    /// Whether it can vote for nothing before it has taken over a state.
    #[must_use]
    pub fn lacks_state(&self) -> bool {
        matches!(self, Self::AwaitingState | Self::FetchingState { .. })
    }
}

impl fmt::Display for Activity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Idle => f.write_str("idle: nothing is open"),
            Self::CutOff { linked, quorum } => {
                write!(f, "cut off: linked with {linked}, itself included, and a quorum is {quorum}")
            }
            Self::AwaitingRoom => {
                f.write_str("stands still: the log waits for room on the disk; it goes on by itself")
            }
            Self::AwaitingState => f.write_str("waits for a certified state, as its own is lost or damaged"),
            Self::FetchingState { seq, pages, reused } => write!(
                f,
                "catching up: taking over the state certified after header {seq}, {pages} pages fetched, {reused} parts \
                 were here already"
            ),
            Self::FetchingHeaders { upto } => {
                write!(f, "catching up: others have committed headers up to {upto}")
            }
            Self::FetchingBatches { header } => {
                write!(f, "catching up: fetching batches of the committed header {header}")
            }
            Self::ChangingView { view } => write!(f, "changing the view: waits for view {view} to begin"),
            Self::AwaitingPrimary { primary } => {
                write!(f, "waits for primary {primary}, which is not linked")
            }
            Self::Ordering => f.write_str("ordering"),
            Self::Executing { executed, committed } => {
                write!(f, "executing: {executed} of {committed} committed headers are executed")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_an_enumeration_in_json() {
        let json = |activity: &Activity| serde_json::to_string(activity).unwrap();
        assert_eq!(json(&Activity::Idle), r#"{"kind":"idle"}"#);
        let cut_off = Activity::CutOff { linked: 2, quorum: 3 };
        assert_eq!(json(&cut_off), r#"{"kind":"cut_off","linked":2,"quorum":3}"#);
        assert_eq!(serde_json::from_str::<Activity>(&json(&cut_off)).unwrap(), cut_off);
        assert_eq!(serde_json::to_string(&Role::Learner).unwrap(), r#""learner""#);
        for takes in [Takes::Nothing, Takes::Endings, Takes::Reads, Takes::Writes] {
            assert_eq!(serde_json::to_string(&takes).unwrap(), format!("\"{}\"", takes.name()));
        }
        assert!(Takes::Writes > Takes::Reads && Takes::Reads > Takes::Endings);
    }
}
