//! The exact bytes of everything that is signed, hashed or sent. A change here is a change of the protocol:
//! replicas and clients of different builds would not understand each other.
//!
//! Operations, results and replies are in `operations.rs`, view changes in `views.rs`.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;
mod operations;
mod views;

use common::{check, digest, position, signature};
use expect_test::expect;
use quorate_types::{
    BundleNumber, Condition, Digest, Domain, Epoch, LaneId, LaneNumber, LinkId, Nanoseconds, Nonce,
    Operation, PageName, ReplicaId, Seq, View,
};
use quorate_wire::handshake::{Accepts, Dialer, DialerStep, Identity, Listener, ListenerStep, Refusal};
use quorate_wire::message::{
    AskLanes, Attach, Attached, Busy, BusyReason, Checkpoint, CheckpointCertificate, Commit, FetchBatches,
    FetchCertificate, FetchHeaders, FetchPages, FetchedCertificate, FetchedHeaders, FetchedPages, LaneAcks,
    Message, PrePrepare, Prepare, Report, ReportRequest, Status, encode_fetched_batches,
};
use quorate_wire::testing::{SESSION, client_key, config, replica_key};
use quorate_wire::{
    BatchHead, BatchView, BundleView, Frame, Header, Kind, LaneTip, Statement, StatementKind, batch, bundle,
    handshake, header,
};
use std::sync::Arc;

fn sample_certificate() -> CheckpointCertificate {
    CheckpointCertificate {
        position: position(1),
        root: digest(2),
        next_config: digest(3),
        signatures: vec![(ReplicaId(0), signature()), (ReplicaId(2), signature())],
    }
}

fn lane(origin: u8, link: u8) -> LaneId {
    LaneId { origin: ReplicaId(origin), link: LinkId(link) }
}

fn sample_header() -> Header {
    Header {
        epoch: Epoch(1),
        seq: Seq(2),
        parent: digest(3),
        timestamp: Nanoseconds(4),
        cut: vec![
            LaneTip { lane: lane(0, 0), upto: LaneNumber(5), chain: digest(6) },
            LaneTip { lane: lane(2, 1), upto: LaneNumber(7), chain: digest(8) },
        ],
    }
}

fn sample_bundle() -> Vec<u8> {
    let operations = vec![
        Operation::Set { key: b"k".to_vec(), value: b"value".to_vec(), condition: Condition::Version(9) },
        Operation::Get { key: b"key that is not short".to_vec() },
    ];
    let mut bytes = Vec::new();
    bundle::write(&mut bytes, &config(4), &client_key(), SESSION, BundleNumber(3), &operations);
    bytes
}

fn sample_batch() -> Vec<u8> {
    let mut bytes = Vec::new();
    let head = BatchHead { lane: lane(1, 0), number: LaneNumber(2), previous: digest(3) };
    batch::write_head(&mut bytes, &head, 1);
    batch::write_bundle(&mut bytes, &sample_bundle());
    bytes
}

#[test]
fn digests() {
    check(
        config(4).digest().0,
        expect![[r#"
            6c1b58f37d764f2e470a8bddcaf127aacb577864b13a98d9d9b039e2b066fc9b
        "#]],
    );
    check(
        sample_header().digest().0,
        expect![[r#"
            383b39adf034910a3a6ddd14ce0286ec100615e9a081a151fd47cd5425cf75b9
        "#]],
    );
    check(
        header::genesis(config(4).digest()).digest.0,
        expect![[r#"
            e479c09ebd7f187509d5cf89f7e64d89c4bf1905e0c8ba790a3b40be311bea7e
        "#]],
    );
    let bytes = sample_batch();
    let batch = BatchView::parse(&bytes).unwrap();
    check(
        batch.bundles[0].head.body.0,
        expect![[r#"
            5c0521d2cfffcc607dc443472d1dd1f038a29b4717e0cbb587aee1ee67eeef75
        "#]],
    );
    check(
        batch.digest.0,
        expect![[r#"
            cfacf1dc6e62401cbb1a7eb9e1a677f0128beec73e5f82defccde6478963d2d0
        "#]],
    );
    check(
        batch.chain().0,
        expect![[r#"
            7f09fa9097c2ef018a879c7229d960b8ca598cc87159fd033cfae1152cd060be
        "#]],
    );
    assert_eq!(batch::parse_head(&bytes), Ok(batch.head));
    check(
        Digest::of(Domain::Results, b"results").0,
        expect![[r#"
            cfd09bd79d115e7049b6170e8633e69c81556c3a837c8ae1db537f75addc5c6b
        "#]],
    );
}

#[test]
fn statements() {
    let config = config(4);
    let listener = Statement::handshake(&config, StatementKind::HandshakeListener, &digest(1));
    check(
        listener.as_bytes(),
        expect![[r#"
            71756f726174652d7369676e65642d315a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a
            5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a00000000000000006c1b58f37d764f2e
            470a8bddcaf127aacb577864b13a98d9d9b039e2b066fc9b0101010101010101
            01010101010101010101010101010101010101010101010101
        "#]],
    );
    let dialer = Statement::handshake(&config, StatementKind::HandshakeDialer, &digest(1));
    check(
        dialer.as_bytes(),
        expect![[r#"
            71756f726174652d7369676e65642d315a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a
            5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a00000000000000006c1b58f37d764f2e
            470a8bddcaf127aacb577864b13a98d9d9b039e2b066fc9b0201010101010101
            01010101010101010101010101010101010101010101010101
        "#]],
    );
    let bundle = Statement::bundle(&config, &[1; 32], SESSION, BundleNumber(3), &digest(4));
    check(
        bundle.as_bytes(),
        expect![[r#"
            71756f726174652d62756e646c652d315a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a
            5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a01010101010101010101010101010101
            0101010101010101010101010101010101000000000000000000000003000000
            0000000004040404040404040404040404040404040404040404040404040404
            04040404
        "#]],
    );
    check(
        Statement::pre_prepare(&config, View(1), Seq(2), &digest(3)).as_bytes(),
        expect![[r#"
            71756f726174652d7369676e65642d315a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a
            5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a00000000000000006c1b58f37d764f2e
            470a8bddcaf127aacb577864b13a98d9d9b039e2b066fc9b0401000000000000
            0002000000000000000303030303030303030303030303030303030303030303
            030303030303030303
        "#]],
    );
    let prepare = Statement::prepare(&config, View(1), Seq(2), &[digest(3), digest(4)]);
    check(
        prepare.as_bytes(),
        expect![[r#"
            71756f726174652d7369676e65642d315a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a
            5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a00000000000000006c1b58f37d764f2e
            470a8bddcaf127aacb577864b13a98d9d9b039e2b066fc9b0501000000000000
            0002000000000000000200000000000000030303030303030303030303030303
            0303030303030303030303030303030303040404040404040404040404040404
            0404040404040404040404040404040404
        "#]],
    );
    let checkpoint = Statement::checkpoint(&config, Seq(1), &digest(2), &digest(3), &digest(4));
    check(
        checkpoint.as_bytes(),
        expect![[r#"
            71756f726174652d7369676e65642d315a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a
            5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a00000000000000006c1b58f37d764f2e
            470a8bddcaf127aacb577864b13a98d9d9b039e2b066fc9b0601000000000000
            0002020202020202020202020202020202020202020202020202020202020202
            0203030303030303030303030303030303030303030303030303030303030303
            0304040404040404040404040404040404040404040404040404040404040404
            04
        "#]],
    );
    check(
        checkpoint.sign(&replica_key(1)).0,
        expect![[r#"
            f42ce454d42341d232bfc20e8a6a8b48a8130842b7a61c2db841a174c66964c7
            6bcb44114de09916d07e016bfac776a292a49ef0e8ad50d9562ac995b39c380f
        "#]],
    );
}

#[test]
fn bundles_and_batches() {
    check(
        sample_bundle(),
        expect![[r#"
            97ffc883c80bee7237ef95d9b9b703d4ad63e60a21e605867682b75b8b3f4303
            01000000000000000000000003000000000000004f9d2d38731547c31e19ecf9
            b68f25991e8515500f0d23a39713fd3793c05c993dc5b8eda79dbbee5260fa0f
            893cc6270910aabaf93bb95da8c3d32b2c14be066b76616c75656b6579207468
            6174206973206e6f742073686f727403e4ffffff01000000ddffffff05000000
            03090000000000000002d0ffffff150000000000000000000000000000000000
            000000ccffffff02000000
        "#]],
    );
    check(
        sample_batch(),
        expect![[r#"
            0100000001000000020000000000000003030303030303030303030303030303
            03030303030303030303030303030303cb00000097ffc883c80bee7237ef95d9
            b9b703d4ad63e60a21e605867682b75b8b3f4303010000000000000000000000
            03000000000000004f9d2d38731547c31e19ecf9b68f25991e8515500f0d23a3
            9713fd3793c05c993dc5b8eda79dbbee5260fa0f893cc6270910aabaf93bb95d
            a8c3d32b2c14be066b76616c75656b65792074686174206973206e6f74207368
            6f727403e4ffffff01000000ddffffff0500000003090000000000000002d0ff
            ffff150000000000000000000000000000000000000000ccffffff02000000
        "#]],
    );
    let batch = sample_batch();
    check(
        encode_fetched_batches(
            &LaneTip { lane: lane(1, 2), upto: LaneNumber(3), chain: digest(4) },
            [&batch[..], &batch[..]].into_iter(),
        ),
        expect![[r#"
            3202000023000100ec3b3298494b24ef01020000030000000000000004040404
            04040404040404040404040404040404040404040404040404040404ff000000
            0100000001000000020000000000000003030303030303030303030303030303
            03030303030303030303030303030303cb00000097ffc883c80bee7237ef95d9
            b9b703d4ad63e60a21e605867682b75b8b3f4303010000000000000000000000
            03000000000000004f9d2d38731547c31e19ecf9b68f25991e8515500f0d23a3
            9713fd3793c05c993dc5b8eda79dbbee5260fa0f893cc6270910aabaf93bb95d
            a8c3d32b2c14be066b76616c75656b65792074686174206973206e6f74207368
            6f727403e4ffffff01000000ddffffff0500000003090000000000000002d0ff
            ffff150000000000000000000000000000000000000000ccffffff02000000ff
            0000000100000001000000020000000000000003030303030303030303030303
            03030303030303030303030303030303030303cb00000097ffc883c80bee7237
            ef95d9b9b703d4ad63e60a21e605867682b75b8b3f4303010000000000000000
            00000003000000000000004f9d2d38731547c31e19ecf9b68f25991e8515500f
            0d23a39713fd3793c05c993dc5b8eda79dbbee5260fa0f893cc6270910aabaf9
            3bb95da8c3d32b2c14be066b76616c75656b65792074686174206973206e6f74
            2073686f727403e4ffffff01000000ddffffff05000000030900000000000000
            02d0ffffff150000000000000000000000000000000000000000ccffffff0200
            0000
        "#]],
    );
}

#[test]
fn messages_of_clients() {
    check(
        Attach { nonce: Nonce([7; 16]), session: SESSION }.encode(),
        expect![[r#"
            1c00000011000100e948a42aa5de1d2007070707070707070707070707070707
            010000000000000000000000
        "#]],
    );
    check(
        Busy { session: SESSION, number: BundleNumber(2), reason: BusyReason::ReadOnly }.encode(),
        expect![[r#"
            15000000130001001e44aadcc62caa5401000000000000000000000002000000
            0000000001
        "#]],
    );
    check(
        Busy { session: SESSION, number: BundleNumber(2), reason: BusyReason::Full }.encode(),
        expect![[r#"
            1500000013000100e934913d9ef3882401000000000000000000000002000000
            0000000003
        "#]],
    );
    check(
        Attached { executed: Seq(5) }.encode(),
        expect![[r#"
        0800000016000100c04d09e4c80290ea0500000000000000
    "#]],
    );
    check(
        ReportRequest { root: true, histograms: false }.encode(),
        expect![[r#"
        0200000014000100a5efc3e2a9a1a5f30100
    "#]],
    );
    check(
        Report { json: "{\"replica\":1}".to_owned() }.encode(),
        expect![[r#"
        1500000015000100f154a979337957f57b227265706c696361223a317d8d0000
        00f3ffffff
    "#]],
    );
}

#[test]
fn messages_of_lanes() {
    let tips = vec![LaneTip { lane: lane(1, 2), upto: LaneNumber(3), chain: digest(4) }];
    check(
        LaneAcks { full: true, tips: tips.clone() }.encode(),
        expect![[r#"
        3300000021000100ae2231cbadd0c3e801020300000000000000040404040404
        040404040404040404040404040404040404040404040404040401d5ffffff01
        000000
    "#]],
    );
    check(
        AskLanes { tips }.encode(),
        expect![[r#"
        32000000240001001762836638ffbdb001020300000000000000040404040404
        0404040404040404040404040404040404040404040404040404d6ffffff0100
        0000
    "#]],
    );
    let fetch =
        FetchBatches { lane: lane(1, 2), upto: LaneNumber(3), chain: digest(4), above: LaneNumber(1) };
    check(
        fetch.encode(),
        expect![[r#"
        320000002200010099e42a87c9d74a2201020300000000000000040404040404
        0404040404040404040404040404040404040404040404040404010000000000
        0000
    "#]],
    );
}

#[test]
fn messages_of_consensus() {
    let pre_prepare = PrePrepare { view: View(1), header: sample_header(), signature: signature() };
    check(
        pre_prepare.encode(),
        expect![[r#"
        dc000000300001003e2f106b5df16cd400000500000000000000060606060606
        0606060606060606060606060606060606060606060606060606020107000000
        0000000008080808080808080808080808080808080808080808080808080808
        0808080801000000000000000100000000000000020000000000000003030303
        0303030303030303030303030303030303030303030303030303030304000000
        000000006cffffff02000000eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee
        eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee
        eeeeeeeeeeeeeeeeeeeeeeee
    "#]],
    );
    let prepare =
        Prepare { view: View(1), lo: Seq(2), digests: vec![digest(2), digest(3)], signature: signature() };
    check(
        prepare.encode(),
        expect![[r#"
        980000003100010022aed9be6628141a02020202020202020202020202020202
        0202020202020202020202020202020203030303030303030303030303030303
        0303030303030303030303030303030301000000000000000200000000000000
        b0ffffff02000000eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee
        eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee
        eeeeeeeeeeeeeeee
    "#]],
    );
    check(
        Commit { view: View(1), position: position(2) }.encode(),
        expect![[r#"
        300000003200010010e05cb496ed85d601000000000000000200000000000000
        0202020202020202020202020202020202020202020202020202020202020202
    "#]],
    );
    let checkpoint =
        Checkpoint { position: position(1), root: digest(2), next_config: digest(3), signature: signature() };
    check(
        checkpoint.encode(),
        expect![[r#"
        a800000033000100ca3b9b51d1051ade01000000000000000101010101010101
        0101010101010101010101010101010101010101010101010202020202020202
        0202020202020202020202020202020202020202020202020303030303030303
        030303030303030303030303030303030303030303030303eeeeeeeeeeeeeeee
        eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee
        eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee
    "#]],
    );
    check(
        sample_certificate().encode(),
        expect![[r#"
        f200000034000100f10d003a7ba086ca00eeeeeeeeeeeeeeeeeeeeeeeeeeeeee
        eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee
        eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee02eeeeeeeeeeeeeeeeeeeeeeeeeeee
        eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee
        eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee0100000000000000010101010101
        0101010101010101010101010101010101010101010101010101020202020202
        0202020202020202020202020202020202020202020202020202030303030303
        030303030303030303030303030303030303030303030303030316ffffff0200
        0000
    "#]],
    );
    let status = Status {
        view: View(1),
        entered: true,
        stable: position(2),
        accepted: position(6),
        prepared: position(5),
        committed: position(4),
        executed: position(3),
    };
    check(
        status.encode(),
        expect![[r#"
            d10000003500010052b9b417cb5b51eb01000000000000000102000000000000
            0002020202020202020202020202020202020202020202020202020202020202
            0206000000000000000606060606060606060606060606060606060606060606
            0606060606060606060500000000000000050505050505050505050505050505
            0505050505050505050505050505050505040000000000000004040404040404
            0404040404040404040404040404040404040404040404040403000000000000
            0003030303030303030303030303030303030303030303030303030303030303
            03
        "#]],
    );
    check(
        FetchHeaders { last: position(3), above: Seq(1) }.encode(),
        expect![[r#"
        3000000036000100ff74544d56ef6c4503000000000000000303030303030303
        0303030303030303030303030303030303030303030303030100000000000000
    "#]],
    );
    check(
        FetchedHeaders { headers: vec![sample_header()] }.encode(),
        expect![[r#"
        9c0000003700010079a061a32c6c1dda00000500000000000000060606060606
        0606060606060606060606060606060606060606060606060606020107000000
        0000000008080808080808080808080808080808080808080808080808080808
        0808080801000000000000000200000000000000030303030303030303030303
        0303030303030303030303030303030303030303040000000000000074ffffff
        02000000c0ffffff01000000
    "#]],
    );
    let page = PageName { path: vec![1, 2], entry: None, digest: digest(3) };
    let value = PageName { path: vec![4], entry: Some(5), digest: digest(6) };
    check(
        FetchPages { request: 7, root: digest(8), wanted: vec![page, value] }.encode(),
        expect![[r#"
        8900000040000100f106240658dc1e74010204fdffffff020000000000000303
        030303030303030303030303030303030303030303030303030303030303d4ff
        ffff010000000105000606060606060606060606060606060606060606060606
        0606060606060606060700000000000000080808080808080808080808080808
        080808080808080808080808080808080882ffffff02000000
    "#]],
    );
    check(
        FetchCertificate { request: 7 }.encode(),
        expect![[r#"
        08000000420001008eb7717643ea18370700000000000000
    "#]],
    );
    check(
        FetchedCertificate { request: 7, certificate: None }.encode(),
        expect![[r#"
        79000000430001003fe2defd6ec53a4507000000000000000000000000000000
        0000000000000000000000000000000000000000000000000000000000000000
        0000000000000000000000000000000000000000000000000000000000000000
        0000000000000000000000000000000000000000000000000000000000000000
        000000000000000000
    "#]],
    );
    check(
        FetchedCertificate { request: 7, certificate: Some(sample_certificate()) }.encode(),
        expect![[r#"
        fb000000430001003e6be34f78f6b9f600eeeeeeeeeeeeeeeeeeeeeeeeeeeeee
        eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee
        eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee02eeeeeeeeeeeeeeeeeeeeeeeeeeee
        eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee
        eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee0700000000000000010100000000
        0000000101010101010101010101010101010101010101010101010101010101
        0101010202020202020202020202020202020202020202020202020202020202
        0202020303030303030303030303030303030303030303030303030303030303
        0303030dffffff02000000
    "#]],
    );
    check(
        FetchedPages {
            request: 7,
            root: digest(8),
            top: Some((2, digest(9))),
            pages: vec![vec![1, 2, 3]],
            values: vec![vec![4]],
        }
        .encode(),
        expect![[r#"
            6e00000041000100bc8be24cfe1d2300010203fdffffff0300000004ffffffff
            0100000007000000000000000808080808080808080808080808080808080808
            0808080808080808080808080102090909090909090909090909090909090909
            0909090909090909090909090909a5ffffff01000000a6ffffff01000000
        "#]],
    );
}

#[test]
fn handshakes() {
    let me = ReplicaId(1);
    let identity = Identity::Client { key: *client_key().public().as_bytes() };
    let config = Arc::new(config(4));
    let (mut dialer, hello) = Dialer::start(Arc::clone(&config), client_key(), identity, me, [1; 32]);
    check(
        &hello,
        expect![[r#"
            8300000001000100789ee047afe298885a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a
            5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a6c1b58f37d764f2e470a8bddcaf127aa
            cb577864b13a98d9d9b039e2b066fc9bff000197ffc883c80bee7237ef95d9b9
            b703d4ad63e60a21e605867682b75b8b3f430301010101010101010101010101
            01010101010101010101010101010101010101
        "#]],
    );
    let mut listener = Listener::new(config, replica_key(1), me, Accepts::Clients, [2; 32]);
    let Ok(ListenerStep::Send(challenge)) = listener.on_frame(hello.as_frame_ref()) else { panic!() };
    check(
        &challenge,
        expect![[r#"
            6000000002000100ee03776177ca49a002020202020202020202020202020202
            02020202020202020202020202020202b687065fea4c1665a831f93ce0eb84f2
            44fa553965fcb7fb2c6a7b0ee66cd9a124225437c0a3141ed166070eae9e6176
            b11240877d50c51811f18f7da24b4801
        "#]],
    );
    let Ok(DialerStep::Send(proof)) = dialer.on_frame(challenge.as_frame_ref()) else { panic!() };
    check(
        &proof,
        expect![[r#"
            4000000003000100b353ae64fd6e56fe7ad324f33062299ca0b9af298d56b1c6
            d09dc65070882bef22d0d9189c53dbc70ec09e1d643096e12501578994c2fdcf
            4d9c247b40becdf6153aa3dec316bd03
        "#]],
    );
    let Ok(ListenerStep::Done(welcome, _)) = listener.on_frame(proof.as_frame_ref()) else { panic!() };
    check(
        &welcome,
        expect![[r#"
        000000000400010000000000295c4de5
    "#]],
    );
    for (refusal, expected) in [
        (
            Refusal::Cluster,
            expect![[r#"
            010000000500010051537d52ccc8159000
        "#]],
        ),
        (
            Refusal::Configuration,
            expect![[r#"
            010000000500010052d016a060a704a801
        "#]],
        ),
        (
            Refusal::UnknownKey,
            expect![[r#"
            0100000005000100a62346b3941737e002
        "#]],
        ),
        (
            Refusal::UnknownReplica,
            expect![[r#"
            0100000005000100a5a02d41387826d803
        "#]],
        ),
        (
            Refusal::Signature,
            expect![[r#"
            01000000050001004ec4e7957c76507004
        "#]],
        ),
        (
            Refusal::Banned,
            expect![[r#"
            0100000005000100b9b4dc7424a9720006
        "#]],
        ),
        (
            Refusal::Full,
            expect![[r#"
                01000000050001004d478c67d019414805
            "#]],
        ),
    ] {
        check(handshake::refusal_frame(refusal), expected);
    }
}

#[test]
fn kinds_keep_their_numbers() {
    let list: String = Kind::ALL.iter().map(|kind| format!("{kind:?} = {}\n", *kind as u16)).collect();
    expect![[r#"
        Hello = 1
        Challenge = 2
        Proof = 3
        Welcome = 4
        Refused = 5
        Bundle = 16
        Attach = 17
        Reply = 18
        Busy = 19
        ReportRequest = 20
        Report = 21
        Attached = 22
        Batch = 32
        LaneAcks = 33
        FetchBatches = 34
        FetchedBatches = 35
        AskLanes = 36
        PrePrepare = 48
        Prepare = 49
        Commit = 50
        Checkpoint = 51
        CheckpointCertificate = 52
        Status = 53
        FetchHeaders = 54
        FetchedHeaders = 55
        Suspect = 56
        ViewChange = 57
        NewView = 58
        FetchPages = 64
        FetchedPages = 65
        FetchCertificate = 66
        FetchedCertificate = 67
    "#]]
    .assert_eq(&list);
}

#[test]
fn a_bundle_in_its_frame_is_what_a_reader_finds() {
    let bytes = sample_bundle();
    let frame = Frame::encode(Kind::Bundle, |out| out.extend_from_slice(&bytes));
    let view = BundleView::parse(frame.payload()).unwrap();
    assert_eq!(view.operations().len(), 2);
    assert!(view.head.is_signed_by(&config(4), &client_key().public()));
    assert!(view.head.is_signed_by(&config(7), &client_key().public()), "whatever the configuration");
    let bytes = Statement::bundle(
        &config(4),
        &view.head.client,
        view.head.session,
        view.head.number,
        &view.head.body,
    );
    let id = *config(4).cluster_id();
    assert!(bytes.as_bytes().windows(32).any(|window| window == id), "but in this cluster alone");
}
