//! An attacker on every port: the link closes, a counter rises, nothing else changes.

use quorate_tests::attacker::{Attacker, client_identity};
use quorate_tests::cluster::{Cluster, Load, wait_for};
use quorate_types::{
    BundleNumber, Condition, Digest, LinkId, Nonce, Operation, ReplicaId, Seq, SessionId, Signature,
    SigningKey, View,
};
use quorate_wire::frame::encode_into;
use quorate_wire::handshake::{Dialer, HandshakeError, Identity, Refusal};
use quorate_wire::message::{Attach, Message, Prepare, Report, ReportRequest};
use quorate_wire::{Frame, Kind, bundle};
use std::sync::Arc;

/// Waits until a replica has counted more of `label` than before.
fn assert_counted(cluster: &Cluster, replica: usize, label: &str, before: u64) {
    wait_for(&format!("replica {replica} counts {label}"), || {
        (cluster.rejects(replica).get(label).copied().unwrap_or(0) > before).then_some(())
    });
}

fn count(cluster: &Cluster, replica: usize, label: &str) -> u64 {
    cluster.rejects(replica).get(label).copied().unwrap_or(0)
}

/// Bytes that look random and are the same in every run.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed | 1;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[3]
        })
        .collect()
}

#[test]
fn noise_truncated_frames_and_giant_lengths_close_the_connection() {
    let cluster = Cluster::start(4);
    let load = Load::start(&cluster, 0, ReplicaId(1), 10);
    let ports = [
        cluster.client_address(0),
        cluster.mesh_address(0),
        cluster.client_address(2),
        cluster.mesh_address(2),
    ];
    let before = [count(&cluster, 0, "malformed"), count(&cluster, 2, "malformed")];
    for (index, address) in ports.into_iter().enumerate() {
        for seed in 0..8 {
            let mut attacker = Attacker::connect(address);
            attacker.send(&noise(seed * 77 + index as u64, 16 + 40 * usize::try_from(seed).unwrap()));
            attacker.assert_closed();
        }
        // A well-formed header that announces 3 GiB, and one within the later but not the present limit.
        for length in [3u32 << 30, 1 << 20] {
            let mut frame = Vec::new();
            encode_into(&mut frame, Kind::Bundle, |_| {});
            frame[..4].copy_from_slice(&length.to_le_bytes());
            let checksum = crc32c::crc32c(&frame[..12]);
            frame[12..16].copy_from_slice(&checksum.to_le_bytes());
            let mut attacker = Attacker::connect(address);
            attacker.send(&frame);
            attacker.assert_closed();
        }
        // Half a frame, then nothing: closed when the other side goes, or when the handshake's time is up.
        let mut attacker = Attacker::connect(address);
        attacker.send(&[0, 0, 0]);
        drop(attacker);
    }
    assert_counted(&cluster, 0, "malformed", before[0] + 15);
    assert_counted(&cluster, 2, "malformed", before[1] + 15);
    let completed = load.completed();
    wait_for("operations still flow", || (load.completed() > completed + 20).then_some(()));
    load.stop();
    cluster.assert_equal_roots(&[0, 1, 2, 3]);
}

#[test]
fn unknown_keys_wrong_signatures_and_replayed_handshakes_are_refused() {
    let cluster = Cluster::start(4);
    let config = cluster.config();
    let stranger = SigningKey::from_seed(&[77; 32]);
    let before = count(&cluster, 0, "handshake");

    let mut attacker = Attacker::connect(cluster.client_address(0));
    let error = attacker.shake(config, &stranger, client_identity(&stranger), 0).unwrap_err();
    assert_eq!(error, HandshakeError::RefusedByPeer(Refusal::UnknownKey));
    attacker.assert_closed();

    let mut attacker = Attacker::connect(cluster.mesh_address(0));
    let peer = Identity::Replica { replica: ReplicaId(3), link: LinkId(0) };
    let error = attacker.shake(config, &stranger, peer, 0).unwrap_err();
    assert_eq!(error, HandshakeError::RefusedByPeer(Refusal::UnknownKey));

    // A client's key at the door of replicas, and the other way round.
    let client = cluster.client_key(0);
    let mut attacker = Attacker::connect(cluster.mesh_address(0));
    let error = attacker.shake(config, &client, client_identity(&client), 0).unwrap_err();
    assert_eq!(error, HandshakeError::RefusedByPeer(Refusal::UnknownReplica));

    // A recorded proof does not fit the nonce of another connection.
    let mut attacker = Attacker::connect(cluster.client_address(0));
    let proof = attacker.shake(config, &client, client_identity(&client), 0).expect("an honest handshake");
    let mut replay = Attacker::connect(cluster.client_address(0));
    let (_, hello) =
        Dialer::start(Arc::clone(config), client.clone(), client_identity(&client), ReplicaId(0), [9; 32]);
    replay.send(hello.bytes());
    assert_eq!(replay.receive().map(|frame| frame.kind()), Some(Kind::Challenge));
    replay.send(proof.bytes());
    assert_eq!(replay.receive().map(|frame| frame.kind()), Some(Kind::Refused));
    replay.assert_closed();

    assert_counted(&cluster, 0, "handshake", before + 3);
    cluster.assert_works();
}

#[test]
fn a_client_that_breaks_the_rules_is_disconnected() {
    let cluster = Cluster::start(4);
    let config = cluster.config();
    let (key, other) = (cluster.client_key(0), cluster.client_key(1));
    let session = SessionId { seq: Seq(1), place: 0 };
    let set = Operation::Set { key: b"k".to_vec(), value: b"v".to_vec(), condition: Condition::Always };
    let signed_by = |signer: &SigningKey| {
        Frame::encode(Kind::Bundle, |out| {
            bundle::write(out, config, signer, session, BundleNumber(0), &vec![set.clone()]);
        })
    };
    let forged = {
        let good = signed_by(&key);
        Frame::encode(Kind::Bundle, |out| {
            out.extend_from_slice(good.payload());
            out[16 + 80] ^= 1;
        })
    };
    let unreadable = {
        let good = signed_by(&key);
        Frame::encode(Kind::Bundle, |out| {
            out.extend_from_slice(&good.payload()[..bundle::HEAD_BYTES]);
            out.extend_from_slice(&noise(5, 500));
        })
    };
    let vote =
        Prepare { view: View(0), lo: Seq(1), digests: vec![Digest::ZERO], signature: Signature([0; 64]) };
    let cases = [
        ("foreign_bundle", signed_by(&other)),
        ("bundle_signature", forged),
        ("malformed", vote.encode()),
        ("foreign_bundle", Frame::encode(Kind::Bundle, |out| out.extend_from_slice(&noise(5, 500)))),
        ("malformed", unreadable),
        ("malformed", Frame::encode(Kind::Attach, |out| out.extend_from_slice(&noise(6, 3)))),
    ];
    for (label, frame) in cases {
        let before = count(&cluster, 1, label);
        let mut attacker = Attacker::connect(cluster.client_address(1));
        attacker.shake(config, &key, client_identity(&key), 1).expect("an allowed client");
        attacker.send(frame.bytes());
        attacker.assert_closed();
        assert_counted(&cluster, 1, label, before);
    }
    cluster.assert_works();
}

#[test]
fn a_replica_that_forges_votes_is_cut_off_and_the_others_go_on() {
    let mut cluster = Cluster::prepare(4, &[]);
    for replica in 0..3 {
        cluster.start_replica(replica);
    }
    let config = cluster.config();
    let load = Load::start(&cluster, 0, ReplicaId(1), 5);
    wait_for("three of four work", || (load.completed() > 10).then_some(()));
    let key = cluster.replica_key(3);
    let identity = Identity::Replica { replica: ReplicaId(3), link: LinkId(0) };
    // Ahead of what is accepted, but near enough for its vote to be of interest.
    let next = cluster.report(1, false)["committed"].as_u64().expect("a number") + 100;
    let vote =
        Prepare { view: View(0), lo: Seq(next), digests: vec![Digest::ZERO], signature: Signature([3; 64]) };
    let batch_of_another = Frame::encode(Kind::Batch, |out| out.extend_from_slice(&[0; 200]));
    let cases = [
        ("foreign_batch", batch_of_another),
        ("consensus_signature", vote.encode()),
        ("malformed", Frame::encode(Kind::Status, |out| out.push(1))),
    ];
    for (replica, (label, frame)) in (0u8..).zip(cases) {
        let listener = usize::from(replica);
        let before = count(&cluster, listener, label);
        let mut attacker = Attacker::connect(cluster.mesh_address(listener));
        attacker.shake(config, &key, identity, replica).expect("replica 3 with its own key");
        attacker.send(frame.bytes());
        attacker.assert_closed();
        assert_counted(&cluster, listener, label, before);
    }
    let completed = load.completed();
    wait_for("the others go on", || (load.completed() > completed + 20).then_some(()));
    load.stop();
    cluster.assert_equal_roots(&[0, 1, 2]);
}

/// What replica 1 says of replica 3.
fn peer_of_replica_1(cluster: &Cluster) -> serde_json::Value {
    let report = cluster.report(1, false);
    let peers = report["peers"].as_array().expect("a list");
    peers.iter().find(|peer| peer["replica"] == 3).expect("replica 3 is one of them").clone()
}

/// Condemned, it is turned away before anything is signed, and let in again after a while.
#[test]
fn a_condemned_replica_is_not_let_in_again_at_once() {
    let mut cluster = Cluster::prepare(4, &[]);
    for replica in 0..3 {
        cluster.start_replica(replica);
    }
    let config = cluster.config();
    let key = cluster.replica_key(3);
    let identity = Identity::Replica { replica: ReplicaId(3), link: LinkId(0) };
    assert_eq!(peer_of_replica_1(&cluster)["bans"], 0);
    let nonsense = Frame::encode(Kind::Status, |out| out.push(1));
    // However slow this machine is: each ban is twice as long as the one before.
    let mut offences = 0;
    let error = wait_for("replica 1 keeps replica 3 out", || {
        let mut attacker = Attacker::connect(cluster.mesh_address(1));
        let error = attacker.shake(config, &key, identity, 1).err();
        if error.is_none() {
            attacker.send(nonsense.bytes());
            offences += 1;
        }
        attacker.assert_closed();
        error
    });
    assert_eq!(error, HandshakeError::RefusedByPeer(Refusal::Banned));
    assert_eq!(peer_of_replica_1(&cluster)["bans"], offences);
    wait_for("replica 1 lets replica 3 in again", || {
        let mut attacker = Attacker::connect(cluster.mesh_address(1));
        attacker.shake(config, &key, identity, 1).ok()
    });
    // Its other acquaintances are not concerned.
    let mut attacker = Attacker::connect(cluster.mesh_address(2));
    attacker.shake(config, &key, identity, 2).expect("replica 2 has nothing against it");
}

#[test]
fn a_flood_of_silent_connections_is_bounded_and_expires() {
    let cluster = Cluster::start(4);
    let mut silent: Vec<Attacker> = (0..400).map(|_| Attacker::connect(cluster.client_address(0))).collect();
    // The last ones are turned away at once; the first ones when their handshake's time is up.
    silent.last_mut().expect("400 of them").assert_closed();
    silent[0].assert_closed();
    drop(silent);
    cluster.assert_works();
}

/// More frames than several ticks take of one connection: none is lost, and none is overtaken.
#[test]
fn a_burst_is_taken_in_full_and_in_order_however_long_it_is() {
    const FRAMES: usize = 3_000;
    let cluster = Cluster::start(4);
    let mut client = Attacker::client(&cluster, &cluster.client_key(0), 1);
    let attach = Attach { nonce: Nonce::default(), session: SessionId::NONE }.encode();
    let mut burst = attach.bytes().repeat(FRAMES);
    burst.extend_from_slice(ReportRequest { root: false, histograms: false }.encode().bytes());
    client.send(&burst);
    for number in 0..FRAMES {
        let answer = client.receive().expect("an attachment is answered");
        assert_eq!(answer.kind(), Kind::Attached, "{number}");
    }
    let report = client.receive().expect("a report is asked for");
    let report = Report::from_frame(report.as_frame_ref()).expect("the report");
    let report: serde_json::Value = serde_json::from_str(&report.json).expect("a report is JSON");
    assert!(report["counters"]["connections_held_back"].as_u64() > Some(0), "{report}");
    cluster.assert_works();
}
