//! Frames, rkyv messages, canonical signing bytes, handshake and total decoders.
