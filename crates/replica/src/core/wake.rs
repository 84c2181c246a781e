//! Which role has anything to do at the end of a tick.
//!
//! Most ticks bring something to one role alone: a vote, or acknowledgements, or that a batch is durable. The others would
//! look through all that they know to find nothing, and that costs more than what there is to do: a replica that waits for
//! few messages runs with cold caches.

use quorate_types::Nanoseconds;
use std::ops::{Deref, DerefMut};

/// A role, which has to be run at the end of a tick after anybody has touched it, after it has said anything, and at its
/// deadline. Whoever changes it wakes it, so that nobody can forget to.
#[derive(Debug)]
pub(super) struct Waking<T> {
    role: T,
    is_due: bool,
    deadline: Option<Nanoseconds>,
}

impl<T> Waking<T> {
    /// A role that was never run.
    pub(super) fn new(role: T) -> Self {
        Self { role, is_due: true, deadline: None }
    }

    /// The role, to be run, or for what gives it nothing to say.
    pub(super) fn asleep(&mut self) -> &mut T {
        &mut self.role
    }

    /// Whether it is to be run now.
    pub(super) fn is_due(&self, now: Nanoseconds) -> bool {
        self.is_due || self.deadline.is_some_and(|deadline| now >= deadline)
    }

    /// It was run. Who has `said` anything may have more to say in the next tick; else nothing happens before its deadline
    /// but by what it is given.
    pub(super) fn ran(&mut self, said: bool, deadline: impl FnOnce(&T) -> Option<Nanoseconds>) {
        (self.is_due, self.deadline) = (said, if said { None } else { deadline(&self.role) });
    }

    /// It was run though it was not due, and has said nothing: nor has it begun to wait for anything earlier.
    pub(super) fn assert_asleep(&self, deadline: impl FnOnce(&T) -> Option<Nanoseconds>) {
        let (told, now) = (self.deadline, deadline(&self.role));
        let as_told = now.is_none_or(|now| told.is_some_and(|told| now >= told));
        assert!(as_told, "a deadline that was not told: {now:?} instead of {told:?}");
    }

    /// The next time at which it is to be run; `ask` gives that of a role that has been touched since.
    pub(super) fn deadline(&self, ask: impl FnOnce(&T) -> Option<Nanoseconds>) -> Option<Nanoseconds> {
        if self.is_due { ask(&self.role) } else { self.deadline }
    }
}

impl<T> Deref for Waking<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.role
    }
}

impl<T> DerefMut for Waking<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.is_due = true;
        &mut self.role
    }
}
