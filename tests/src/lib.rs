//! What the tests of the whole share.
#![forbid(unsafe_code)]

pub mod attacker;
pub mod checkpoints;
pub mod cluster;
pub mod recorder;
pub mod tidy;
pub mod victim;
