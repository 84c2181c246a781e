//! Bytes as they are compared, and what fills messages.

use expect_test::Expect;
use quorate_types::{Digest, Seq, Signature};
use quorate_wire::Position;

/// Lines of 32 bytes, so that a difference can be found.
fn hex(bytes: &[u8]) -> String {
    let line = |chunk: &[u8]| chunk.iter().map(|byte| format!("{byte:02x}")).collect::<String>() + "\n";
    bytes.chunks(32).map(line).collect()
}

pub(crate) fn check(bytes: impl AsRef<[u8]>, expected: Expect) {
    expected.assert_eq(&hex(bytes.as_ref()));
}

pub(crate) fn digest(fill: u8) -> Digest {
    Digest([fill; 32])
}

pub(crate) fn position(seq: u64) -> Position {
    Position { seq: Seq(seq), digest: digest(u8::try_from(seq).unwrap()) }
}

pub(crate) fn signature() -> Signature {
    Signature([0xee; 64])
}
