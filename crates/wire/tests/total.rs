//! Every decoder is total: any bytes give a message or an error. And what was encoded is read back.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use proptest::prelude::*;
use proptest::sample::Index;
use quorate_types::{
    BundleNumber, Condition, Digest, Domain, Epoch, LaneId, LaneNumber, LinkId, Nanoseconds, Nonce,
    Operation, OperationError, OperationResult, PageName, ReplicaId, Seq, SessionId, Signature, Versioned,
    View, limits,
};
use quorate_wire::handshake::{
    Accepts, Dialer, DialerStep, HandshakeError, Identity, Listener, ListenerStep,
};
use quorate_wire::message::{
    AskLanes, Attach, Attached, Busy, BusyReason, Checkpoint, CheckpointCertificate, Commit, FetchBatches,
    FetchCertificate, FetchHeaders, FetchPages, FetchedCertificate, FetchedHeaders, FetchedPages, LaneAcks,
    Message, NewView, PrePrepare, Prepare, Report, ReportRequest, Status, Suspect, ViewChange,
    decode_fetched_batches, encode_fetched_batches,
};
use quorate_wire::reply::{ReplyBody, access_results};
use quorate_wire::testing::{SESSION, client_key, config, replica_key};
use quorate_wire::{
    Assembler, BatchHead, BatchView, BundleView, DecodeError, Frame, FrameRef, Header, Kind, LaneTip,
    Position, PreparedCertificate, ReplyView, SuspectReason, ViewChangeSummary, batch, bundle,
};
use std::fmt::Debug;
use std::sync::Arc;

const ME: ReplicaId = ReplicaId(1);

fn frame(kind: Kind, payload: &[u8]) -> Frame {
    Frame::encode(kind, |out| out.extend_from_slice(payload))
}

fn read<T: Message>(frame: FrameRef<'_>) -> Result<(), DecodeError> {
    T::from_frame(frame).map(|_| ())
}

fn handshake_sides() -> (Dialer, Frame, Listener) {
    let config = Arc::new(config(4));
    let identity = Identity::Client { key: *client_key().public().as_bytes() };
    let (dialer, hello) = Dialer::start(Arc::clone(&config), client_key(), identity, ME, [1; 32]);
    let listener = Listener::new(config, replica_key(1), ME, Accepts::Clients, [2; 32]);
    (dialer, hello, listener)
}

/// Lets the decoder of `kind` read `payload`, and touches all that it gives access to.
fn decode(kind: Kind, payload: &[u8]) -> Result<(), String> {
    let encoded = frame(kind, payload);
    let frame = encoded.as_frame_ref();
    let done = match kind {
        Kind::Hello | Kind::Proof => {
            let (_, hello, mut listener) = handshake_sides();
            if kind == Kind::Proof {
                listener.on_frame(hello.as_frame_ref()).unwrap();
            }
            return listener.on_frame(frame).map(|_| ()).map_err(|error| error.to_string());
        }
        Kind::Challenge | Kind::Welcome | Kind::Refused => {
            let (mut dialer, hello, mut listener) = handshake_sides();
            if kind == Kind::Welcome {
                let Ok(ListenerStep::Send(challenge)) = listener.on_frame(hello.as_frame_ref()) else {
                    panic!()
                };
                dialer.on_frame(challenge.as_frame_ref()).unwrap();
            }
            return match dialer.on_frame(frame) {
                Ok(_) | Err(HandshakeError::RefusedByPeer(_)) => Ok(()),
                Err(error) => Err(error.to_string()),
            };
        }
        Kind::Bundle => BundleView::parse(payload).map(|view| {
            assert!(format!("{:?}", view.operations()).len() > 2);
            let _ = view.head.is_signed_by(&config(4), &client_key().public());
        }),
        Kind::Batch => BatchView::parse(payload).map(|view| {
            let _ = view.chain();
            assert_eq!(batch::parse_head(payload), Ok(view.head));
            view.bundles.iter().for_each(|bundle| assert!(!bundle.operations().is_empty()));
        }),
        Kind::Reply => ReplyView::parse(payload).map(|view| {
            if let ReplyBody::Results(results) = view.body {
                assert!(!format!("{:?}", access_results(results).unwrap()).is_empty());
            }
        }),
        Kind::FetchedBatches => decode_fetched_batches(payload).map(|(_, found)| {
            let bytes: usize = found.iter().map(|batch| batch.len() + 4).sum();
            assert_eq!(bytes + 4 + 8 + 32, payload.len());
        }),
        Kind::Attach => read::<Attach>(frame),
        Kind::Attached => read::<Attached>(frame),
        Kind::Busy => read::<Busy>(frame),
        Kind::ReportRequest => read::<ReportRequest>(frame),
        Kind::Report => read::<Report>(frame),
        Kind::LaneAcks => read::<LaneAcks>(frame),
        Kind::AskLanes => read::<AskLanes>(frame),
        Kind::FetchBatches => read::<FetchBatches>(frame),
        Kind::PrePrepare => read::<PrePrepare>(frame),
        Kind::Prepare => read::<Prepare>(frame),
        Kind::Commit => read::<Commit>(frame),
        Kind::Checkpoint => read::<Checkpoint>(frame),
        Kind::CheckpointCertificate => read::<CheckpointCertificate>(frame),
        Kind::Status => read::<Status>(frame),
        Kind::FetchHeaders => read::<FetchHeaders>(frame),
        Kind::FetchedHeaders => read::<FetchedHeaders>(frame),
        Kind::FetchPages => read::<FetchPages>(frame),
        Kind::FetchedPages => read::<FetchedPages>(frame),
        Kind::FetchCertificate => read::<FetchCertificate>(frame),
        Kind::FetchedCertificate => read::<FetchedCertificate>(frame),
        Kind::Suspect => read::<Suspect>(frame),
        Kind::ViewChange => read::<ViewChange>(frame),
        Kind::NewView => read::<NewView>(frame),
    };
    done.map_err(|error| error.to_string())
}

fn any_digest() -> impl Strategy<Value = Digest> {
    any::<[u8; 32]>().prop_map(Digest)
}

fn any_position() -> impl Strategy<Value = Position> {
    (any::<u64>(), any_digest()).prop_map(|(seq, digest)| Position { seq: Seq(seq), digest })
}

fn any_signature() -> impl Strategy<Value = Signature> {
    prop::collection::vec(any::<u8>(), 64).prop_map(|bytes| Signature(bytes.try_into().unwrap()))
}

fn any_lane() -> impl Strategy<Value = LaneId> {
    any::<(u8, u8)>().prop_map(|(origin, link)| LaneId { origin: ReplicaId(origin), link: LinkId(link) })
}

fn any_tips() -> impl Strategy<Value = Vec<LaneTip>> {
    let tip = (any_lane(), any::<u64>(), any_digest());
    prop::collection::vec(
        tip.prop_map(|(lane, upto, chain)| LaneTip { lane, upto: LaneNumber(upto), chain }),
        0..6,
    )
}

fn any_header() -> impl Strategy<Value = Header> {
    (any::<(u64, u64, u64)>(), any_digest(), any_tips()).prop_map(|((epoch, seq, timestamp), parent, cut)| {
        Header { epoch: Epoch(epoch), seq: Seq(seq), parent, timestamp: Nanoseconds(timestamp), cut }
    })
}

fn any_bytes() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..40)
}

fn any_operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        any::<([u8; 16], u64)>()
            .prop_map(|(nonce, recent)| Operation::Register { nonce: Nonce(nonce), recent }),
        Just(Operation::Void),
        any_bytes().prop_map(|key| Operation::Get { key }),
        (any_bytes(), any_bytes(), any::<Option<u64>>()).prop_map(|(key, value, version)| {
            let condition = version.map_or(Condition::Absent, Condition::Version);
            Operation::Set { key, value, condition }
        }),
        (any_bytes(), any::<i64>()).prop_map(|(key, by)| Operation::IncrementBy { key, by }),
        prop::collection::vec(any_bytes(), 0..5).prop_map(|keys| Operation::MultiGet { keys }),
        (any_bytes(), any_bytes(), any::<u32>()).prop_map(|(start, end, limit)| Operation::Scan {
            start,
            end,
            limit
        }),
    ]
}

fn any_operations() -> impl Strategy<Value = Vec<Operation>> {
    prop::collection::vec(any_operation(), 1..6)
}

fn any_session() -> impl Strategy<Value = SessionId> {
    any::<(u64, u32)>().prop_map(|(seq, place)| SessionId { seq: Seq(seq), place })
}

fn any_results() -> impl Strategy<Value = Vec<OperationResult>> {
    let result = prop_oneof![
        any_session().prop_map(|session| OperationResult::Registered { session }),
        Just(OperationResult::Voided),
        any::<u64>().prop_map(|next| OperationResult::Error(OperationError::SessionEvicted { next })),
        any::<Option<u64>>().prop_map(|version| OperationResult::NotWritten { version }),
        (any_bytes(), any::<u64>())
            .prop_map(|(value, version)| OperationResult::Value(Some(Versioned { value, version }))),
        any::<(i64, u64)>().prop_map(|(value, version)| OperationResult::Integer { value, version }),
    ];
    prop::collection::vec(result, 0..6)
}

fn encode_bundle(number: u64, operations: &Vec<Operation>) -> Vec<u8> {
    let mut bytes = Vec::new();
    bundle::write(&mut bytes, &config(4), &client_key(), SESSION, BundleNumber(number), operations);
    bytes
}

fn encode_batch(head: &BatchHead, bundles: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    batch::write_head(&mut bytes, head, bundles.len());
    bundles.iter().for_each(|bundle| batch::write_bundle(&mut bytes, bundle));
    bytes
}

fn encode_reply(number: u64, results: &Vec<OperationResult>) -> Frame {
    let results = rkyv::to_bytes::<rkyv::rancor::Failure>(results).unwrap();
    let digest = Digest::of(Domain::Results, &results);
    let (session, number, seq, view) = (SESSION, BundleNumber(number), Seq(number), View(number));
    let request = Digest([3; 32]);
    ReplyView { session, number, seq, view, request, digest, body: ReplyBody::Results(&results) }.encode()
}

fn fetch_pages(request: u64, root: Digest, path: &[u8]) -> FetchPages {
    let path = path[..path.len().min(limits::TREE_HEIGHT_MAX)].to_vec();
    let value = PageName { path: path.clone(), entry: Some(7), digest: root };
    FetchPages { request, root, wanted: vec![PageName { path, entry: None, digest: root }, value] }
}

fn fetched_pages(request: u64, root: Digest, bytes: Vec<u8>) -> FetchedPages {
    let top = request.is_multiple_of(2).then_some((3, root));
    FetchedPages { request, root, top, pages: vec![bytes.clone(), Vec::new()], values: vec![bytes] }
}

fn encoded<T: Message>(message: &T) -> (Kind, Vec<u8>) {
    (T::KIND, message.encode().payload().to_vec())
}

fn session_of(number: u64) -> SessionId {
    SessionId { seq: Seq(number), place: 7 }
}

/// A valid payload of any kind.
fn any_valid() -> impl Strategy<Value = (Kind, Vec<u8>)> {
    let parts = (any_header(), any_position(), any_position(), any_digest(), any_signature(), any_tips());
    let bodies = (any_operations(), any_results(), any::<u64>(), any_lane(), any_bytes());
    (parts, bodies, any::<Index>()).prop_map(|(parts, bodies, which)| {
        let (header, position, other, digest, signature, tips) = parts;
        let (operations, results, number, lane, bytes) = bodies;
        let (session, view, lo) = (session_of(number), View(number), Seq(number));
        let nonce = Nonce(*digest.0.first_chunk().unwrap());
        let bundle = encode_bundle(number, &operations);
        let head = BatchHead { lane, number: LaneNumber(number), previous: digest };
        let batch = encode_batch(&head, &[bundle.clone(), bundle.clone()]);
        let (mut dialer, hello, mut listener) = handshake_sides();
        let Ok(ListenerStep::Send(challenge)) = listener.on_frame(hello.as_frame_ref()) else { panic!() };
        let Ok(DialerStep::Send(proof)) = dialer.on_frame(challenge.as_frame_ref()) else { panic!() };
        let Ok(ListenerStep::Done(welcome, _)) = listener.on_frame(proof.as_frame_ref()) else { panic!() };
        let payload = |frame: &Frame| (frame.kind(), frame.payload().to_vec());
        let signatures = vec![(ReplicaId(0), signature), (ReplicaId(3), signature)];
        let (root, next_config) = (digest, digest);
        let asked = LaneTip { lane, upto: LaneNumber(number), chain: Digest([7; 32]) };
        let all = vec![
            payload(&hello),
            payload(&challenge),
            payload(&proof),
            payload(&welcome),
            payload(&quorate_wire::handshake::refusal_frame(quorate_wire::handshake::Refusal::Full)),
            payload(&encode_reply(number, &results)),
            payload(&encode_fetched_batches(&asked, [&batch[..], &batch[..]].into_iter())),
            (Kind::Bundle, bundle),
            (Kind::Batch, batch),
            encoded(&Attach { nonce, session }),
            encoded(&Attached { executed: lo }),
            encoded(&Busy { session, number: BundleNumber(number), reason: BusyReason::ReadOnly }),
            encoded(&ReportRequest { root: number % 2 == 0, histograms: number % 3 == 0 }),
            encoded(&Report { json: String::from_utf8_lossy(&bytes).into_owned() }),
            encoded(&AskLanes { tips: tips.clone() }),
            encoded(&LaneAcks { full: number % 2 == 0, tips }),
            encoded(&FetchBatches {
                lane,
                upto: LaneNumber(number),
                chain: digest,
                above: LaneNumber(number / 2),
            }),
            encoded(&PrePrepare { view, header: header.clone(), signature }),
            encoded(&Prepare { view, lo, digests: vec![digest; 3], signature }),
            encoded(&Commit { view, position }),
            encoded(&Checkpoint { position, root, next_config, signature }),
            encoded(&CheckpointCertificate { position, root, next_config, signatures: signatures.clone() }),
            encoded(&FetchCertificate { request: number }),
            encoded(&FetchedCertificate {
                request: number,
                certificate: Some(CheckpointCertificate { position, root, next_config, signatures }),
            }),
            encoded(&Status {
                view,
                entered: number % 2 == 0,
                stable: position,
                accepted: other,
                prepared: other,
                committed: position,
                executed: position,
            }),
            encoded(&FetchHeaders { last: position, above: lo }),
            encoded(&fetch_pages(number, digest, &bytes)),
            encoded(&fetched_pages(number, digest, bytes)),
            encoded(&FetchedHeaders { headers: vec![header.clone(), header.clone()] }),
            encoded(&Suspect { view, reason: SuspectReason::Joined, signature }),
            encoded(&view_change(view, &header, position, signature)),
            encoded(&new_view(view, position, signature)),
        ];
        assert_eq!(all.len(), Kind::ALL.len(), "a kind is missing from this test");
        all[which.index(all.len())].clone()
    })
}

fn certificates(
    view: View,
    position: Position,
    signature: Signature,
) -> (CheckpointCertificate, PreparedCertificate) {
    let (root, next_config) = (position.digest, position.digest);
    let signatures = vec![(ReplicaId(0), signature), (ReplicaId(3), signature)];
    let vote = Prepare { view, lo: position.seq, digests: vec![position.digest; 2], signature };
    let votes = vec![(ReplicaId(1), vote.clone()), (ReplicaId(2), vote)];
    (
        CheckpointCertificate { position, root, next_config, signatures },
        PreparedCertificate { view, position, votes },
    )
}

fn view_change(view: View, header: &Header, position: Position, signature: Signature) -> ViewChange {
    let (stable, prepared) = certificates(view, position, signature);
    let suspect = Suspect { view, reason: SuspectReason::Uncommitted, signature };
    ViewChange {
        new_view: view,
        stable: Some(stable),
        prepared: Some(prepared),
        suspects: vec![(ReplicaId(1), suspect.clone()), (ReplicaId(2), suspect)],
        proposals: vec![PrePrepare { view, header: header.clone(), signature }; 2],
        signature,
    }
}

fn new_view(view: View, position: Position, signature: Signature) -> NewView {
    let (stable, prepared) = certificates(view, position, signature);
    let summary = ViewChangeSummary {
        stable: position,
        root: position.digest,
        prepared: Some((view, position)),
        signature,
    };
    let bare = ViewChangeSummary { prepared: None, ..summary.clone() };
    NewView {
        view,
        summaries: vec![(ReplicaId(1), summary), (ReplicaId(2), bare)],
        prepared: Some(prepared),
        stable: Some(stable),
        signature,
    }
}

fn round_trip<T: Message + PartialEq + Debug>(message: &T) {
    assert_eq!(T::from_frame(message.encode().as_frame_ref()).as_ref(), Ok(message));
    let other = if T::KIND == Kind::Commit { Kind::Busy } else { Kind::Commit };
    let misplaced = T::from_frame(frame(other, message.encode().payload()).as_frame_ref());
    assert_eq!(misplaced, Err(DecodeError::Misplaced(other)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..1500)) {
        for kind in Kind::ALL {
            let _ = decode(*kind, &bytes);
        }
    }

    #[test]
    fn zeroes_and_ones_of_any_length_never_panic(length in 0usize..4000, ones in any::<bool>()) {
        let bytes = vec![if ones { 0xff } else { 0 }; length];
        for kind in Kind::ALL {
            let _ = decode(*kind, &bytes);
        }
    }

    #[test]
    fn valid_payloads_are_read_and_damaged_ones_never_panic(
        (kind, payload) in any_valid(),
        flips in prop::collection::vec((any::<Index>(), any::<u8>()), 0..6),
        cut in any::<Index>(),
        tail in any_bytes(),
    ) {
        prop_assert_eq!(decode(kind, &payload), Ok(()));
        let _ = decode(kind, &payload[..cut.index(payload.len() + 1)]);
        let mut longer = payload.clone();
        longer.extend_from_slice(&tail);
        let _ = decode(kind, &longer);
        for other in Kind::ALL {
            let _ = decode(*other, &payload);
        }
        let mut damaged = payload;
        for (at, change) in flips.iter().filter(|_| !damaged.is_empty()).cloned().collect::<Vec<_>>() {
            let at = at.index(damaged.len());
            damaged[at] ^= change;
            let _ = decode(kind, &damaged);
        }
    }

    #[test]
    fn messages_are_read_back(
        (header, tips) in (any_header(), any_tips()),
        (position, other, digest, signature) in (any_position(), any_position(), any_digest(), any_signature()),
        (number, lane, bytes) in (any::<u64>(), any_lane(), any_bytes()),
        digests in prop::collection::vec(any_digest(), 1..64),
    ) {
        let (view, seq) = (View(number), Seq(number));
        let session = session_of(number);
        round_trip(&Attach { nonce: Nonce(*digest.0.first_chunk().unwrap()), session });
        round_trip(&Attached { executed: seq });
        let reason = BusyReason::Following;
        round_trip(&Busy { session, number: BundleNumber(number), reason });
        round_trip(&ReportRequest { root: number % 2 == 0, histograms: number % 3 == 0 });
        round_trip(&Report { json: String::from_utf8_lossy(&bytes).into_owned() });
        round_trip(&AskLanes { tips: tips.clone() });
        round_trip(&LaneAcks { full: number % 2 == 0, tips });
        round_trip(&FetchBatches { lane, upto: LaneNumber(number), chain: digest, above: LaneNumber(7) });
        round_trip(&PrePrepare { view, header: header.clone(), signature });
        round_trip(&Prepare { view, lo: seq, digests, signature });
        round_trip(&Commit { view, position });
        round_trip(&Checkpoint { position, root: digest, next_config: other.digest, signature });
        round_trip(&CheckpointCertificate {
            position, root: digest, next_config: other.digest,
            signatures: vec![(ReplicaId(0), signature), (ReplicaId(99), signature)],
        });
        round_trip(&Status {
            view, entered: number % 2 == 0, stable: position, accepted: other, prepared: other, committed: other, executed: position,
        });
        round_trip(&FetchHeaders { last: position, above: seq });
        round_trip(&fetch_pages(number, digest, &bytes));
        round_trip(&fetched_pages(number, digest, bytes));
        round_trip(&FetchCertificate { request: number });
        round_trip(&FetchedCertificate { request: number, certificate: None });
        let signatures = vec![(ReplicaId(0), signature), (ReplicaId(99), signature)];
        let certificate = CheckpointCertificate { position, root: digest, next_config: other.digest, signatures };
        round_trip(&FetchedCertificate { request: number, certificate: Some(certificate) });
        round_trip(&FetchedHeaders { headers: vec![header.clone(), header.clone()] });
        round_trip(&Suspect { view, reason: SuspectReason::NoNewView, signature });
        round_trip(&view_change(view, &header, position, signature));
        round_trip(&ViewChange { stable: None, prepared: None, ..view_change(view, &header, other, signature) });
        round_trip(&new_view(view, position, signature));
    }

    #[test]
    fn bundles_batches_and_replies_are_read_back(
        operations in prop::collection::vec(any_operations(), 1..4),
        results in any_results(),
        (number, lane, digest) in (any::<u64>(), any_lane(), any_digest()),
    ) {
        let bundles: Vec<_> = operations.iter().map(|list| encode_bundle(number, list)).collect();
        let head = BatchHead { lane, number: LaneNumber(number), previous: digest };
        let bytes = encode_batch(&head, &bundles);
        let view = BatchView::parse(&bytes).unwrap();
        prop_assert_eq!(view.head, head);
        prop_assert_eq!(view.bundles.len(), operations.len());
        for (bundle, list) in view.bundles.iter().zip(&operations) {
            prop_assert!(bundle.head.is_signed_by(&config(4), &client_key().public()));
            let read = rkyv::from_bytes::<Vec<Operation>, rkyv::rancor::Failure>(bundle.body).unwrap();
            prop_assert_eq!(&read, list);
        }

        let frame = encode_reply(number, &results);
        let view = ReplyView::parse(frame.payload()).unwrap();
        prop_assert_eq!((view.number, view.seq, view.view), (BundleNumber(number), Seq(number), View(number)));
        let ReplyBody::Results(body) = view.body else { panic!("{:?}", view.body) };
        let read = rkyv::from_bytes::<Vec<OperationResult>, rkyv::rancor::Failure>(body).unwrap();
        prop_assert_eq!(read, results);

        let asked = LaneTip { lane, upto: LaneNumber(number), chain: digest };
        let fetched = encode_fetched_batches(&asked, bundles.iter().map(Vec::as_slice));
        let (answers, found) = decode_fetched_batches(fetched.payload()).unwrap();
        prop_assert_eq!(answers, asked);
        prop_assert_eq!(found, bundles);
    }

    #[test]
    fn no_flipped_bit_of_a_bundle_keeps_its_signature(
        operations in any_operations(), at in any::<Index>(), bit in 0u8..8,
    ) {
        let mut bytes = encode_bundle(3, &operations);
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        if let Ok(view) = BundleView::parse(&bytes) {
            prop_assert!(!view.head.is_signed_by(&config(4), &client_key().public()), "byte {} bit {}", at, bit);
        }
    }

    #[test]
    fn a_stream_of_any_frames_is_found_whole((kind, payload) in any_valid(), piece in 1usize..300) {
        let mut stream = frame(kind, &payload).bytes().to_vec();
        stream.extend_from_slice(frame(kind, &payload).bytes());
        let mut assembler = Assembler::new(1 << 20);
        let mut found = 0;
        for mut piece in stream.chunks(piece) {
            while let Some(frame) = assembler.next(&mut piece).unwrap() {
                prop_assert_eq!((frame.kind, frame.payload), (kind, &payload[..]));
                found += 1;
            }
        }
        prop_assert_eq!(found, 2);
    }
}

#[test]
fn limits_hold_inside_messages() {
    let digests = vec![Digest::ZERO; 65];
    let prepare = Prepare { view: View(1), lo: Seq(1), digests, signature: Signature([0; 64]) };
    let refused = Prepare::decode(prepare.encode().payload());
    assert_eq!(refused, Err(DecodeError::Limit { what: "slots in a PREPARE", value: 65, limit: 64 }));
    // A vote inside a certificate is held to the same.
    let (view, position, signature) = (View(1), Position::default(), Signature([0; 64]));
    let mut message = new_view(view, position, signature);
    message.prepared.as_mut().unwrap().votes[0].1 = prepare.clone();
    let refused = NewView::decode(message.encode().payload());
    assert_eq!(refused, Err(DecodeError::Limit { what: "slots in a PREPARE", value: 65, limit: 64 }));
    let empty = Prepare { digests: vec![], ..prepare };
    assert_eq!(Prepare::decode(empty.encode().payload()), Err(DecodeError::Malformed(Kind::Prepare)));
    let mut message = new_view(view, position, signature);
    message.summaries = vec![message.summaries[0].clone(); 101];
    let refused = NewView::decode(message.encode().payload());
    assert_eq!(refused, Err(DecodeError::Limit { what: "summaries", value: 101, limit: 100 }));
    let header =
        Header { epoch: Epoch(0), seq: Seq(1), parent: Digest::ZERO, timestamp: Nanoseconds(0), cut: vec![] };
    let mut message = view_change(view, &header, position, signature);
    message.proposals.push(message.proposals[0].clone());
    let refused = ViewChange::decode(message.encode().payload());
    let what = "proposals as evidence";
    assert_eq!(refused, Err(DecodeError::Limit { what, value: 3, limit: 2 }));
    message.proposals.clear();
    message.suspects = vec![message.suspects[0].clone(); 101];
    let refused = ViewChange::decode(message.encode().payload());
    assert_eq!(refused, Err(DecodeError::Limit { what: "wishes for a view", value: 101, limit: 100 }));
    let bundle = encode_bundle(1, &vec![]);
    assert!(matches!(BundleView::parse(&bundle), Err(DecodeError::Limit { value: 0, .. })));
    let many = encode_bundle(1, &vec![Operation::Get { key: vec![] }; 10_001]);
    assert!(matches!(BundleView::parse(&many), Err(DecodeError::Limit { value: 10_001, .. })));
}
