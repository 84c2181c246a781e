//! The ladder: one and the same broadcast, sent in five ways, from the one that a profile of another replica found
//! to the one that Quorate is built on.
//!
//! A run has one sending process and a few receiving ones, over TCP on loopback. A producer loop, the same for all
//! rungs, makes numbered messages in bursts and gives each to the rung, which has to bring it to every receiver;
//! receivers check the numbers and acknowledge. Time counts until the last acknowledgement, so nothing passes for
//! sent that merely lies in a queue. Runs are interleaved, so that whatever else the machine does hits all alike.
//!
//! `benches/broadcast.rs` is the command. DESIGN section 3 has the figures that it was built to check.

mod condvar;
mod epoll;
mod job;
mod matrix;
mod processes;
mod receiver;
mod report;
mod rung;
mod sender;
mod stream;
mod tracer;
mod uring;

pub use job::{Job, Measured};
pub use matrix::Matrix;
pub use receiver::receive;
pub use report::Report;
pub use rung::RungName;
pub use sender::send;
