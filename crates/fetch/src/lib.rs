//! Whom to ask, when, and for how long: the scheduler of all fetches, of batches, headers and pages alike (DESIGN
//! section 4, "Fetching").
//!
//! It knows no content. The caller says what is fetched (a key of its own), who may serve it and what came; the
//! scheduler says whom to ask now. What it holds to:
//!
//! - *Nobody but the one asked can end a fetch*, or touch it: an answer of somebody who has no open question is
//!   [none](Fetches::is_asked).
//! - *A drop renews nothing.* A server has a credit of time that runs while it is asked, and earns it back in
//!   proportion to what it gives: a full answer earns all of it, one header of 256 earns a 256th. Besides, all of a
//!   fetch has a deadline that nothing moves.
//! - *More than one at a time.* When half of the credit is used up, the next server is asked beside; and the longer a
//!   fetch takes, the more are asked at once, however well they do.
//! - *Memory.* Whoever was slow or wrong is asked after the others, until that is forgotten.
//! - *Patience grows.* When all servers have had their turn, a new round begins that gives each twice the time: a
//!   network may be slower than anybody thought.
//! - *A budget*, of open questions per server and of bytes in all.
//!
//! ```
//! use quorate_fetch::{Fetches, Limits};
//! use quorate_types::{Nanoseconds, ReplicaId};
//!
//! let patience = Nanoseconds::from_millis(200);
//! let mut fetches = Fetches::new(Limits { patience, ..Limits::default() });
//! let (servers, start) = ([1, 2, 3].map(ReplicaId), Nanoseconds(0));
//! fetches.begin(start, "headers", 1, 0);
//! // One question of at most 1000 bytes; nobody else is asked as long as the first may still answer in time.
//! assert_eq!(fetches.ask(start, &"headers", servers, 1000), Some(ReplicaId(1)));
//! assert_eq!(fetches.ask(start, &"headers", servers, 1000), None);
//! let later = Nanoseconds::from_millis(100);
//! assert_eq!(fetches.ask(later, &"headers", servers, 1000), Some(ReplicaId(2)));
//! assert!(!fetches.is_asked(&"headers", ReplicaId(3)));
//! assert!(fetches.answered(later, &"headers", ReplicaId(1), 1000));
//! fetches.finish(later, &"headers");
//! ```
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod fetches;
mod servers;
mod turn;

pub use fetches::{Fetches, Limits};
pub use servers::{Budget, Servers};
