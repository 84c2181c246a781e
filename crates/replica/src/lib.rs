//! The roles of a replica as state machines without I/O.
