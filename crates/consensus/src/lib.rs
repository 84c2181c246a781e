//! Chained PBFT: accept, prepare, commit, checkpoint votes and catch-up.
