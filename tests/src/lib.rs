//! Uses Quorate as its users do.
