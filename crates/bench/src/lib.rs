//! Load generator, reports and verdict.
