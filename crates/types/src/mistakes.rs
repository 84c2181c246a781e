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
    /// A header at or below the stable checkpoint is accepted and voted for.
    AcceptsBelowStable = "accepts-below-stable",
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
