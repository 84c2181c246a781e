//! The state on disk and on its way between replicas.

#[path = "../common/mod.rs"]
mod common;

mod checkpoints;
mod disk;
mod quota;
mod random;
mod salvage;
mod transfers;
