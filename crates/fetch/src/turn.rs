//! One server's part in one round of a fetch.

use quorate_types::mistakes::is_made;
use quorate_types::{Mistake, Nanoseconds};

/// How far a server is with its part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// A question is open, and its time runs.
    Asked { since: Nanoseconds, bytes: u64 },
    /// A question is open, and its time is over. What still comes is taken.
    Late { bytes: u64 },
    /// It has answered and may be asked again.
    Ready,
    /// It has had its turn.
    Over,
}

/// A credit of time that runs while a question is open, and is earned with what comes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Turn {
    pub(crate) stage: Stage,
    /// Whether anything came of it.
    pub(crate) has_given: bool,
    /// What is left of the credit when the present question was asked, and the most that there is.
    credit: u64,
    patience: u64,
}

impl Turn {
    pub(crate) fn new(patience: u64) -> Self {
        Self { stage: Stage::Ready, has_given: false, credit: patience, patience }
    }

    pub(crate) fn ask(&mut self, now: Nanoseconds, bytes: u64) {
        self.stage = Stage::Asked { since: now, bytes };
    }

    /// Whether a question is open.
    pub(crate) fn is_open(&self) -> bool {
        matches!(self.stage, Stage::Asked { .. } | Stage::Late { .. })
    }

    /// What the open question was asked with, while its time runs.
    pub(crate) fn in_time(&self) -> Option<u64> {
        match self.stage {
            Stage::Asked { bytes, .. } => Some(bytes),
            Stage::Late { .. } | Stage::Ready | Stage::Over => None,
        }
    }

    /// When the time of the open question is over.
    pub(crate) fn ends(&self) -> Option<Nanoseconds> {
        match self.stage {
            Stage::Asked { since, .. } => Some(since.plus(self.credit)),
            _ => None,
        }
    }

    /// When the server that is asked is no longer waited for alone.
    pub(crate) fn lags(&self) -> Option<Nanoseconds> {
        match self.stage {
            Stage::Asked { since, .. } => Some(since.plus(self.credit.saturating_sub(self.patience / 2))),
            _ => None,
        }
    }

    /// Whether half of its credit is left, now that nothing is asked.
    pub(crate) fn is_prompt(&self) -> bool {
        self.credit >= self.patience.div_ceil(2)
    }

    /// What the question was asked with whose time is over since the last look.
    pub(crate) fn expire(&mut self, now: Nanoseconds) -> Option<u64> {
        let bytes = self.in_time().filter(|_| self.ends().is_some_and(|ends| now >= ends))?;
        self.stage = Stage::Late { bytes };
        Some(bytes)
    }

    /// So much has come. What comes late must be half of what was asked for, or the turn is over.
    pub(crate) fn answer(&mut self, now: Nanoseconds, bytes: u64) {
        self.has_given |= bytes > 0;
        let share = |asked: u64| {
            let (bytes, asked) = (u128::from(bytes.min(asked)), u128::from(asked.max(1)));
            u64::try_from(u128::from(self.patience) * bytes / asked).unwrap_or(self.patience)
        };
        match self.stage {
            Stage::Asked { since, bytes: asked } => {
                let left = self.credit.saturating_sub(now.since(since));
                self.credit = left.saturating_add(share(asked)).min(self.patience);
                if bytes > 0 && self.credit < self.patience && is_made(Mistake::RenewsDeadlines) {
                    self.credit = self.patience;
                }
                self.stage = Stage::Ready;
            }
            Stage::Late { bytes: asked } => {
                self.credit = share(asked);
                self.stage = if self.is_prompt() { Stage::Ready } else { Stage::Over };
            }
            Stage::Ready | Stage::Over => {}
        }
    }
}
