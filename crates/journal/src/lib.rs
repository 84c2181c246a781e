//! Records, log sequence numbers and the gate that holds effects until they are durable.
