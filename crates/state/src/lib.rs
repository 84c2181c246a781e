//! Authenticated key-value state: Merkle B+tree, sessions and operations.
