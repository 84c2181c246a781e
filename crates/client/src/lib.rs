//! Clients of a Quorate cluster.
//!
//! [`Session`] is the protocol: which frames go to which replica, and when enough replicas have given the
//! same answer. It does no I/O and asks no clock, so the simulator runs it unchanged. [`Client`] drives one
//! session over tokio-uring, with one connection to every replica.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod answers;
mod driver;
mod error;
mod link;
mod session;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use driver::{Client, ClientOptions, Completion, Pending};
pub use error::{ClientError, LinkError, NotDone, Outcome};
pub use session::{Action, Session, SubmitError, Timing};
