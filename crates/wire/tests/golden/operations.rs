//! The exact bytes of what clients ask for and are told.

use crate::common::{check, digest};
use expect_test::expect;
use quorate_types::{
    BundleNumber, Condition, Digest, Domain, KeyValue, Nonce, Operation, OperationError, OperationResult,
    Seq, Versioned, VersionedEntry, View,
};
use quorate_wire::ReplyView;
use quorate_wire::reply::ReplyBody;
use quorate_wire::testing::SESSION;

fn archive(operations: &Vec<Operation>) -> Vec<u8> {
    rkyv::to_bytes::<rkyv::rancor::Failure>(operations).unwrap().to_vec()
}

fn archive_results(results: &Vec<OperationResult>) -> Vec<u8> {
    rkyv::to_bytes::<rkyv::rancor::Failure>(results).unwrap().to_vec()
}

#[test]
fn operations() {
    let key = || b"k".to_vec();
    let value = || b"v".to_vec();
    check(
        archive(&vec![Operation::Register { nonce: Nonce([7; 16]), recent: 1 }]),
        expect![[r#"
            0007070707070707070707070707070707010000000000000000e6ffffff0100
            0000
        "#]],
    );
    check(
        archive(&vec![Operation::Void]),
        expect![[r#"
        0100000000000000000000000000000000000000000000000000e6ffffff0100
        0000
    "#]],
    );
    check(
        archive(&vec![Operation::Get { key: key() }]),
        expect![[r#"
            6b02feffffff010000000000000000000000000000000000000000e6ffffff01
            000000
        "#]],
    );
    for (condition, expected) in [
        (
            Condition::Always,
            expect![[r#"
                6b7603fdffffff01000000f6ffffff01000000000000000000000000e6ffffff
                01000000
            "#]],
        ),
        (
            Condition::Absent,
            expect![[r#"
                6b7603fdffffff01000000f6ffffff01000000010000000000000000e6ffffff
                01000000
            "#]],
        ),
        (
            Condition::Present,
            expect![[r#"
                6b7603fdffffff01000000f6ffffff01000000020000000000000000e6ffffff
                01000000
            "#]],
        ),
        (
            Condition::Version(5),
            expect![[r#"
                6b7603fdffffff01000000f6ffffff01000000030500000000000000e6ffffff
                01000000
            "#]],
        ),
    ] {
        check(archive(&vec![Operation::Set { key: key(), value: value(), condition }]), expected);
    }
    check(
        archive(&vec![Operation::Delete { key: key() }]),
        expect![[r#"
            6b04feffffff010000000000000000000000000000000000000000e6ffffff01
            000000
        "#]],
    );
    check(
        archive(&vec![Operation::Exists { key: key() }]),
        expect![[r#"
            6b05feffffff010000000000000000000000000000000000000000e6ffffff01
            000000
        "#]],
    );
    check(
        archive(&vec![Operation::IncrementBy { key: key(), by: -2 }]),
        expect![[r#"
            6b06feffffff01000000feffffffffffffff000000000000000000e6ffffff01
            000000
        "#]],
    );
    check(
        archive(&vec![Operation::Append { key: key(), value: value() }]),
        expect![[r#"
            6b7607fdffffff01000000f6ffffff01000000000000000000000000e6ffffff
            01000000
        "#]],
    );
    check(
        archive(&vec![Operation::MultiGet { keys: vec![key(), key()] }]),
        expect![[r#"
            6b6bfeffffff01000000f7ffffff0100000008efffffff020000000000000000
            000000000000000000000000e6ffffff01000000
        "#]],
    );
    let entries = vec![KeyValue { key: key(), value: value() }];
    check(
        archive(&vec![Operation::MultiSet { entries }]),
        expect![[r#"
            6b76feffffff01000000f7ffffff0100000009efffffff010000000000000000
            000000000000000000000000e6ffffff01000000
        "#]],
    );
    check(
        archive(&vec![Operation::Scan { start: key(), end: vec![], limit: 9 }]),
        expect![[r#"
            6b0afeffffff01000000f7ffffff00000000090000000000000000e6ffffff01
            000000
        "#]],
    );
}

#[test]
fn results() {
    let versioned = || Versioned { value: b"v".to_vec(), version: 2 };
    let entry = VersionedEntry { key: b"k".to_vec(), value: b"v".to_vec(), version: 2 };
    let one = |result: OperationResult| archive_results(&vec![result]);
    check(
        one(OperationResult::Registered { session: SESSION }),
        expect![[r#"
            000100000000000000000000000000000000eeffffff01000000
        "#]],
    );
    check(
        one(OperationResult::Value(Some(versioned()))),
        expect![[r#"
        760101fdffffff010000000200000000000000eeffffff01000000
    "#]],
    );
    check(
        one(OperationResult::Value(None)),
        expect![[r#"
        010000000000000000000000000000000000eeffffff01000000
    "#]],
    );
    check(
        one(OperationResult::Written { version: 3 }),
        expect![[r#"
        020300000000000000000000000000000000eeffffff01000000
    "#]],
    );
    check(
        one(OperationResult::NotWritten { version: Some(4) }),
        expect![[r#"
        030104000000000000000000000000000000eeffffff01000000
    "#]],
    );
    check(
        one(OperationResult::Existed(true)),
        expect![[r#"
        040100000000000000000000000000000000eeffffff01000000
    "#]],
    );
    check(
        one(OperationResult::Integer { value: -1, version: 2 }),
        expect![[r#"
        05ffffffffffffffff020000000000000000eeffffff01000000
    "#]],
    );
    check(
        one(OperationResult::Length { length: 1, version: 2 }),
        expect![[r#"
        060100000000000000020000000000000000eeffffff01000000
    "#]],
    );
    check(
        one(OperationResult::Values(vec![Some(versioned()), None])),
        expect![[r#"
        7601feffffff0100000002000000000000000000000000000000000000000000
        00000007ddffffff02000000000000000000000000eeffffff01000000
    "#]],
    );
    check(
        one(OperationResult::Entries { entries: vec![entry], more: true }),
        expect![[r#"
        6b76feffffff01000000f7ffffff01000000020000000000000008e7ffffff01
        000000010000000000000000eeffffff01000000
    "#]],
    );
    for (error, expected) in [
        (
            OperationError::KeyTooLong { bytes: 1 },
            expect![[r#"
            090001000000000000000000000000000000eeffffff01000000
        "#]],
        ),
        (
            OperationError::ValueTooLong { bytes: 1 },
            expect![[r#"
            090101000000000000000000000000000000eeffffff01000000
        "#]],
        ),
        (
            OperationError::NotAnInteger,
            expect![[r#"
            090200000000000000000000000000000000eeffffff01000000
        "#]],
        ),
        (
            OperationError::Overflow,
            expect![[r#"
            090300000000000000000000000000000000eeffffff01000000
        "#]],
        ),
        (
            OperationError::TooManyKeys { keys: 1 },
            expect![[r#"
            090401000000000000000000000000000000eeffffff01000000
        "#]],
        ),
        (
            OperationError::ScanTooLong { entries: 1 },
            expect![[r#"
            090501000000000000000000000000000000eeffffff01000000
        "#]],
        ),
        (
            OperationError::ResultsTooLong,
            expect![[r#"
            090600000000000000000000000000000000eeffffff01000000
        "#]],
        ),
        (
            OperationError::Misplaced,
            expect![[r#"
            090700000000000000000000000000000000eeffffff01000000
        "#]],
        ),
        (
            OperationError::RegistrationNotRecent { recent: 1, executing: 2 },
            expect![[r#"
            090801000000000000000200000000000000eeffffff01000000
        "#]],
        ),
        (
            OperationError::TooManyRegistrations { sessions: 1 },
            expect![[r#"
            090901000000000000000000000000000000eeffffff01000000
        "#]],
        ),
        (
            OperationError::RegistrationUsed,
            expect![[r#"
            090a00000000000000000000000000000000eeffffff01000000
        "#]],
        ),
        (
            OperationError::SessionEvicted { next: 1 },
            expect![[r#"
            090b01000000000000000000000000000000eeffffff01000000
        "#]],
        ),
        (
            OperationError::NumberUsed,
            expect![[r#"
            090c00000000000000000000000000000000eeffffff01000000
        "#]],
        ),
        (
            OperationError::StateFull { bytes: 1, bytes_max: 2 },
            expect![[r#"
            090d01000000000000000200000000000000eeffffff01000000
        "#]],
        ),
    ] {
        check(one(OperationResult::Error(error)), expected);
    }
    check(
        one(OperationResult::Voided),
        expect![[r#"
        0a0000000000000000000000000000000000eeffffff01000000
    "#]],
    );
}

#[test]
fn replies() {
    let results = archive_results(&vec![OperationResult::Written { version: 4 }]);
    let reply = |digest, body| ReplyView {
        session: SESSION,
        number: BundleNumber(2),
        seq: Seq(3),
        view: View(4),
        request: Digest([6; 32]),
        digest,
        body,
    };
    check(
        reply(digest(5), ReplyBody::DigestOnly).encode(),
        expect![[r#"
            6500000012000100d2568656f4e0e75c01000000000000000000000002000000
            0000000003000000000000000400000000000000060606060606060606060606
            0606060606060606060606060606060606060606050505050505050505050505
            050505050505050505050505050505050505050500
        "#]],
    );
    let matching = Digest::of(Domain::Results, &results);
    check(
        reply(matching, ReplyBody::Results(&results)).encode(),
        expect![[r#"
            7f0000001200010017c7f1e3c5a93aea01000000000000000000000002000000
            0000000003000000000000000400000000000000060606060606060606060606
            060606060606060606060606060606060606060625df34816f066462c913e45d
            f9c8e9d1e14b085b01c32d4a2fe71909b6397717010204000000000000000000
            00000000000000eeffffff01000000
        "#]],
    );
    check(
        reply(Digest::ZERO, ReplyBody::Gone).encode(),
        expect![[r#"
            6500000012000100ca381cd765c1cc8201000000000000000000000002000000
            0000000003000000000000000400000000000000060606060606060606060606
            0606060606060606060606060606060606060606000000000000000000000000
            000000000000000000000000000000000000000002
        "#]],
    );
}
