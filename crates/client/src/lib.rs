//! Client sessions: a core without I/O and its tokio-uring driver.
