//! The one binary of Quorate.
fn main() {}
