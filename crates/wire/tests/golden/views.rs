//! The exact bytes of a view change: what is signed, and what is sent. A change here is a change of the protocol.

use crate::common::{check, digest, position, signature};
use expect_test::expect;
use quorate_types::{ReplicaId, Seq, View};
use quorate_wire::message::{CheckpointCertificate, Message, NewView, Prepare, Suspect, ViewChange};
use quorate_wire::testing::config;
use quorate_wire::{PreparedCertificate, Statement, SuspectReason, ViewChangeSummary, summary};

fn summary() -> ViewChangeSummary {
    ViewChangeSummary {
        stable: position(1),
        root: digest(2),
        prepared: Some((View(3), position(4))),
        signature: signature(),
    }
}

#[test]
fn statements_of_a_view_change() {
    let config = config(4);
    check(
        Statement::suspect(&config, View(1), SuspectReason::Joined).as_bytes(),
        expect![[r#"
            71756f726174652d7369676e65642d315a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a
            5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a00000000000000006c1b58f37d764f2e
            470a8bddcaf127aacb577864b13a98d9d9b039e2b066fc9b0701000000000000
            0005
        "#]],
    );
    check(
        Statement::view_change(&config, View(5), &summary()).as_bytes(),
        expect![[r#"
            71756f726174652d7369676e65642d315a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a
            5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a00000000000000006c1b58f37d764f2e
            470a8bddcaf127aacb577864b13a98d9d9b039e2b066fc9b0805000000000000
            0001000000000000000101010101010101010101010101010101010101010101
            0101010101010101010202020202020202020202020202020202020202020202
            0202020202020202020103000000000000000400000000000000040404040404
            0404040404040404040404040404040404040404040404040404
        "#]],
    );
    let bare = ViewChangeSummary { prepared: None, ..summary() };
    check(
        Statement::view_change(&config, View(5), &bare).as_bytes(),
        expect![[r#"
            71756f726174652d7369676e65642d315a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a
            5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a00000000000000006c1b58f37d764f2e
            470a8bddcaf127aacb577864b13a98d9d9b039e2b066fc9b0805000000000000
            0001000000000000000101010101010101010101010101010101010101010101
            0101010101010101010202020202020202020202020202020202020202020202
            0202020202020202020000000000000000000000000000000000000000000000
            0000000000000000000000000000000000000000000000000000
        "#]],
    );
    let digest = summary::digest(View(5), &[(ReplicaId(1), summary()), (ReplicaId(2), bare)]);
    check(
        Statement::new_view(&config, View(5), &digest).as_bytes(),
        expect![[r#"
            71756f726174652d7369676e65642d315a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a
            5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a00000000000000006c1b58f37d764f2e
            470a8bddcaf127aacb577864b13a98d9d9b039e2b066fc9b0905000000000000
            00ebe58c078ea2a767eb707ee44712874c75c20b6b502761e855dc7a4e4bfaf1
            77
        "#]],
    );
}

#[test]
fn messages_of_a_view_change() {
    let suspect = Suspect { view: View(1), reason: SuspectReason::Unnamed, signature: signature() };
    check(
        suspect.encode(),
        expect![[r#"
        49000000380001005c35e8de409b9428010000000000000001eeeeeeeeeeeeee
        eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee
        eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee
    "#]],
    );
    let signatures = vec![(ReplicaId(0), signature())];
    let stable =
        CheckpointCertificate { position: position(1), root: digest(2), next_config: digest(3), signatures };
    let vote = Prepare { view: View(3), lo: Seq(4), digests: vec![digest(4)], signature: signature() };
    let prepared =
        PreparedCertificate { view: View(3), position: position(4), votes: vec![(ReplicaId(1), vote)] };
    let view_change = ViewChange {
        new_view: View(5),
        stable: Some(stable.clone()),
        prepared: Some(prepared.clone()),
        suspects: vec![(ReplicaId(2), suspect)],
        proposals: vec![],
        signature: signature(),
    };
    check(
        view_change.encode(),
        expect![[r#"
        06020000390001001295c536596fad1300eeeeeeeeeeeeeeeeeeeeeeeeeeeeee
        eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee
        eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee040404040404040404040404040404
        0404040404040404040404040404040404010300000000000000040000000000
        0000cfffffff01000000eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee
        eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee
        eeeeeeeeeeeeeeeeeeee02010000000000000001eeeeeeeeeeeeeeeeeeeeeeee
        eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee
        eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee050000000000000001010000
        0000000000010101010101010101010101010101010101010101010101010101
        0101010101020202020202020202020202020202020202020202020202020202
        0202020202030303030303030303030303030303030303030303030303030303
        03030303038bfeffff0100000001030000000000000004000000000000000404
        040404040404040404040404040404040404040404040404040404040404b3fe
        ffff0100000004ffffff0100000046ffffff00000000eeeeeeeeeeeeeeeeeeee
        eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee
        eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee
    "#]],
    );
    assert_eq!(view_change.summary(position(0)), summary());
    let new_view = NewView {
        view: View(5),
        summaries: vec![(ReplicaId(1), summary())],
        prepared: Some(prepared),
        stable: Some(stable),
        signature: signature(),
    };
    check(
        new_view.encode(),
        expect![[r#"
        6e0200003a0001000ea94e8d6858b83a01010000000000000001010101010101
        0101010101010101010101010101010101010101010101010102020202020202
        0202020202020202020202020202020202020202020202020201030000000000
        0000040000000000000004040404040404040404040404040404040404040404
        04040404040404040404eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee
        eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee
        eeeeeeeeeeeeeeeeeeee04040404040404040404040404040404040404040404
        040404040404040404040103000000000000000400000000000000cfffffff01
        000000eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee
        eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee
        eeeeee00eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee
        eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee
        eeeeeeee050000000000000084feffff01000000010300000000000000040000
        0000000000040404040404040404040404040404040404040404040404040404
        040404040425ffffff0100000001010000000000000001010101010101010101
        0101010101010101010101010101010101010101010102020202020202020202
        0202020202020202020202020202020202020202020203030303030303030303
        030303030303030303030303030303030303030303030dffffff01000000eeee
        eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee
        eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee
    "#]],
    );
}
