//! Drives the roles of a replica on reactors: mesh, client listeners and reports.
