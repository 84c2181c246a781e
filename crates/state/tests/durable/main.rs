//! The state on disk and on its way between replicas.

#[path = "../common/mod.rs"]
mod common;

mod checkpoints;
mod disk;
mod random;
mod salvage;
mod transfers;
