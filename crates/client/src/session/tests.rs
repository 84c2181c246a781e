//! One test per rule of the session protocol, then arbitrary answers with liars among them.

use super::registration::ATTACHMENT_GRACE;
use super::*;
use proptest::prelude::*;
use quorate_types::{ArchivedOperation, Digest, OperationError, OperationResult, View};
use quorate_wire::message::Attach;
use quorate_wire::testing::{client_key, config};
use quorate_wire::{BundleView, batch};
use rkyv::rancor::Failure;

mod opening;

const REPLICAS: u8 = 4;
const SEED: [u8; 32] = [7; 32];
const SESSION: SessionId = SessionId { seq: Seq(1), place: 2 };

fn milliseconds(count: u64) -> Nanoseconds {
    Nanoseconds::from_millis(count)
}

fn archive(results: &Vec<OperationResult>) -> Vec<u8> {
    rkyv::to_bytes::<Failure>(results).unwrap().to_vec()
}

fn value_of(seed: u8) -> Vec<u8> {
    archive(&vec![OperationResult::Length { length: u64::from(seed), version: 1 }])
}

#[derive(Clone, Copy)]
enum Form {
    Full,
    Digest,
    Gone,
}

/// A session with its actions, and replicas that answer by hand.
struct Fixture {
    session: Session,
    out: Vec<Action>,
    now: Nanoseconds,
    /// The digest of the registration that was sent last, and what it names.
    registration: Digest,
    recent: u64,
}

impl Fixture {
    fn new() -> Self {
        let session = Session::new(Arc::new(config(REPLICAS)), client_key(), SEED, ReplicaId(1));
        Self { session, out: Vec::new(), now: milliseconds(5), registration: Digest::ZERO, recent: 0 }
    }

    /// Connected to all, nothing in `out`.
    fn connected() -> Self {
        let mut fixture = Self::new();
        for replica in 0..REPLICAS {
            fixture.connect(replica);
        }
        assert_eq!(fixture.happened(), "0:Attach 1:Attach 2:Attach 1:b0 3:Attach");
        fixture
    }

    /// Connected to all, registered, nothing in `out`.
    fn registered() -> Self {
        let mut fixture = Self::connected();
        fixture.answer_registration(OperationResult::Registered { session: SESSION });
        assert!(fixture.session.is_registered());
        fixture.out.clear();
        fixture
    }

    /// Connects a replica, which has executed as many headers as its number says.
    fn connect(&mut self, replica: u8) {
        self.session.on_connected(self.now, ReplicaId(replica), &mut self.out);
        self.attached(replica, u64::from(replica));
    }

    fn attached(&mut self, replica: u8, executed: u64) {
        self.frame(replica, &Attached { executed: Seq(executed) }.encode()).unwrap();
    }

    fn disconnect(&mut self, replica: u8) {
        self.session.on_disconnected(self.now, ReplicaId(replica), &mut self.out);
    }

    fn at(&mut self, now: Nanoseconds) {
        self.now = now;
        self.session.on_time(now, &mut self.out);
    }

    fn submit(&mut self) -> BundleNumber {
        self.session.submit(self.now, &read(), &mut self.out).unwrap()
    }

    fn frame(&mut self, replica: u8, frame: &Frame) -> Result<(), DecodeError> {
        self.session.on_frame(self.now, ReplicaId(replica), frame.as_frame_ref(), &mut self.out)
    }

    fn answer(&mut self, replica: u8, number: u64, seq: u64, results: &[u8], form: Form) {
        let (digest, body) = match form {
            Form::Full => (Digest::of(quorate_types::Domain::Results, results), ReplyBody::Results(results)),
            Form::Digest => (Digest::of(quorate_types::Domain::Results, results), ReplyBody::DigestOnly),
            Form::Gone => (Digest::ZERO, ReplyBody::Gone),
        };
        let request = bundle::request_digest(&bundle::encode_operations(&read()));
        let (session, number, seq) = (self.session.id(), BundleNumber(number), Seq(seq));
        let view = View(u64::from(replica));
        self.reply(replica, &ReplyView { session, number, seq, view, request, digest, body });
    }

    /// One replica says what has become of the bundle, or of the void one in its place.
    fn tell(
        &mut self,
        replica: u8,
        number: u64,
        seq: u64,
        operations: &Vec<Operation>,
        result: OperationResult,
    ) {
        let results = archive(&vec![result]);
        let request = bundle::request_digest(&bundle::encode_operations(operations));
        self.tell_of(replica, self.session.id(), number, seq, request, &results);
    }

    fn tell_of(
        &mut self,
        replica: u8,
        session: SessionId,
        number: u64,
        seq: u64,
        request: Digest,
        results: &[u8],
    ) {
        let digest = Digest::of(quorate_types::Domain::Results, results);
        let (number, seq, view) = (BundleNumber(number), Seq(seq), View(u64::from(replica)));
        let body = ReplyBody::Results(results);
        self.reply(replica, &ReplyView { session, number, seq, view, request, digest, body });
    }

    fn reply(&mut self, replica: u8, reply: &ReplyView<'_>) {
        self.frame(replica, &reply.encode()).unwrap();
    }

    /// Two replicas answer the registration that was sent last.
    fn answer_registration(&mut self, result: OperationResult) {
        self.learn();
        let results = archive(&vec![result]);
        for replica in [0, 1] {
            self.tell_of(replica, SessionId::NONE, 0, 1, self.registration, &results);
        }
    }

    fn learn(&mut self) {
        for action in &self.out {
            let Action::Send { frame, .. } = action else { continue };
            if frame.kind() != Kind::Bundle {
                continue;
            }
            let view = BundleView::parse(frame.payload()).unwrap();
            if let [ArchivedOperation::Register { recent, .. }] = view.operations().as_slice() {
                (self.registration, self.recent) = (view.head.body, recent.to_native());
            }
        }
    }

    fn busy(&mut self, replica: u8, number: u64) {
        self.decline(replica, number, BusyReason::InFlight);
    }

    fn decline(&mut self, replica: u8, number: u64, reason: BusyReason) {
        let busy = Busy { session: self.session.id(), number: BundleNumber(number), reason };
        self.frame(replica, &busy.encode()).unwrap();
    }

    /// What happened since the last call, one word or two per action: `1:b3` is bundle 3 sent to replica 1.
    fn happened(&mut self) -> String {
        self.learn();
        let words: Vec<String> = self.out.drain(..).map(|action| describe(&action)).collect();
        words.join(" ")
    }
}

/// What every bundle asks.
fn read() -> Vec<Operation> {
    vec![Operation::Get { key: b"key".to_vec() }]
}

fn void() -> Vec<Operation> {
    vec![Operation::Void]
}

fn describe(action: &Action) -> String {
    match action {
        Action::Send { replica, frame } if frame.kind() == Kind::Bundle => {
            let view = BundleView::parse(frame.payload()).unwrap();
            let is_void = matches!(view.operations().as_slice(), [ArchivedOperation::Void]);
            format!("{}:{}{:?}", replica.0, if is_void { "void-" } else { "" }, view.head.number)
        }
        Action::Send { replica, frame } => format!("{}:{:?}", replica.0, frame.kind()),
        Action::Completed { number, seq, .. } => format!("{number:?}@{seq:?}"),
        Action::ResultsGone { number, seq } => format!("{number:?}@{seq:?}:gone"),
        Action::NotDone { number, reason: NotDone::Declined(reason) } => format!("{number:?}:{reason:?}"),
        Action::NotDone { number, reason } => format!("{number:?}:{reason:?}"),
        Action::Unknown { number } => format!("{number:?}:unknown"),
    }
}

#[test]
fn every_connection_is_attached_first_and_with_a_quorum_the_home_gets_the_registration() {
    let mut fixture = Fixture::new();
    fixture.connect(0);
    fixture.connect(1);
    assert_eq!(fixture.happened(), "0:Attach 1:Attach");
    fixture.connect(3);
    assert_eq!(fixture.happened(), "3:Attach 1:b0");
    let mut frames = Vec::new();
    fixture.session.on_connected(fixture.now, ReplicaId(2), &mut frames);
    let Action::Send { frame, .. } = &frames[0] else { panic!("no frame") };
    let attach = Attach::from_frame(frame.as_frame_ref()).unwrap();
    assert_eq!(attach.session, SessionId::NONE, "it is not open");
}

#[test]
fn the_registration_is_sent_once_more_in_case_an_attachment_came_too_late() {
    let mut fixture = Fixture::connected();
    let deadline = fixture.session.deadline().unwrap();
    assert_eq!(deadline, fixture.now.plus(ATTACHMENT_GRACE.0));
    fixture.at(deadline);
    assert_eq!(fixture.happened(), "1:b0");
    assert_eq!(fixture.session.deadline(), Some(milliseconds(5).plus(milliseconds(1000).0)));
    fixture.answer_registration(OperationResult::Registered { session: SESSION });
    assert_eq!(fixture.session.deadline(), None);
}

#[test]
fn bundles_are_signed_by_the_client_for_its_session() {
    let mut fixture = Fixture::registered();
    fixture.submit();
    let Some(Action::Send { frame, .. }) = fixture.out.pop() else { panic!("no frame") };
    let view = BundleView::parse(frame.payload()).unwrap();
    assert_eq!(view.head.session, SESSION);
    assert!(view.head.is_signed_by(&config(REPLICAS), &client_key().public()));
    assert!(frame.payload().len() <= batch::HEAD_BYTES + 200);
}

#[test]
fn user_bundles_wait_for_the_registration_and_then_go_in_order() {
    let mut fixture = Fixture::connected();
    fixture.submit();
    fixture.submit();
    assert_eq!(fixture.happened(), "");
    fixture.answer_registration(OperationResult::Registered { session: SESSION });
    assert_eq!(fixture.happened(), "0:Attach 1:Attach 2:Attach 3:Attach 1:b1 1:b2");
}

#[test]
fn a_bundle_is_complete_when_f_plus_1_replicas_agree_and_the_results_are_here() {
    let mut fixture = Fixture::registered();
    fixture.submit();
    fixture.happened();
    fixture.answer(1, 1, 9, &value_of(3), Form::Full);
    assert_eq!(fixture.happened(), "");
    fixture.answer(2, 1, 9, &value_of(3), Form::Digest);
    let Some(Action::Completed { number, seq, results }) = fixture.out.pop() else { panic!("not complete") };
    assert_eq!((number, seq, &results[..]), (BundleNumber(1), Seq(9), &value_of(3)[..]));
    // The answers of the others come too late to matter.
    fixture.answer(3, 1, 9, &value_of(3), Form::Digest);
    assert_eq!(fixture.happened(), "");
    assert_eq!(fixture.session.deadline(), None);
}

#[test]
fn agreement_waits_for_the_body() {
    let mut fixture = Fixture::registered();
    fixture.submit();
    fixture.happened();
    for replica in [0, 2, 3] {
        fixture.answer(replica, 1, 9, &value_of(3), Form::Digest);
    }
    assert_eq!(fixture.happened(), "");
    fixture.answer(1, 1, 9, &value_of(4), Form::Full);
    assert_eq!(fixture.happened(), "");
    fixture.answer(2, 1, 9, &value_of(3), Form::Full);
    assert_eq!(fixture.happened(), "b1@s9");
}

#[test]
fn a_replica_counts_once_however_often_it_answers() {
    let mut fixture = Fixture::registered();
    fixture.submit();
    fixture.happened();
    for _ in 0..5 {
        fixture.answer(1, 1, 9, &value_of(3), Form::Full);
        fixture.answer(1, 1, 9, &value_of(3), Form::Gone);
    }
    assert_eq!(fixture.happened(), "");
}

#[test]
fn answers_that_differ_in_seq_or_digest_do_not_add_up() {
    let mut fixture = Fixture::registered();
    fixture.submit();
    fixture.happened();
    fixture.answer(0, 1, 8, &value_of(3), Form::Full);
    fixture.answer(1, 1, 9, &value_of(3), Form::Full);
    fixture.answer(2, 1, 9, &value_of(4), Form::Full);
    assert_eq!(fixture.happened(), "");
    fixture.answer(3, 1, 8, &value_of(3), Form::Digest);
    assert_eq!(fixture.happened(), "b1@s8");
}

#[test]
fn the_latest_answer_of_a_replica_replaces_its_earlier_one() {
    let mut fixture = Fixture::registered();
    fixture.submit();
    fixture.happened();
    fixture.answer(0, 1, 8, &value_of(3), Form::Digest);
    fixture.answer(0, 1, 9, &value_of(3), Form::Digest);
    fixture.answer(1, 1, 8, &value_of(3), Form::Full);
    assert_eq!(fixture.happened(), "");
}

#[test]
fn results_are_gone_when_f_plus_1_replicas_say_so() {
    let mut fixture = Fixture::registered();
    fixture.submit();
    fixture.happened();
    fixture.answer(1, 1, 9, &value_of(3), Form::Digest);
    fixture.answer(2, 1, 9, &[], Form::Gone);
    assert_eq!(fixture.happened(), "");
    // The same replica once had the results and has dropped them since.
    fixture.answer(1, 1, 9, &[], Form::Gone);
    assert_eq!(fixture.happened(), "b1@s9:gone");
}

#[test]
fn a_liar_cannot_displace_the_homes_results() {
    let mut fixture = Fixture::registered();
    fixture.submit();
    fixture.happened();
    fixture.answer(1, 1, 9, &value_of(3), Form::Full);
    fixture.answer(3, 1, 9, &value_of(66), Form::Full);
    fixture.answer(0, 1, 9, &value_of(3), Form::Digest);
    assert_eq!(fixture.happened(), "b1@s9");
}

#[test]
fn a_liars_results_give_way_to_the_homes() {
    let mut fixture = Fixture::registered();
    fixture.submit();
    fixture.happened();
    fixture.answer(3, 1, 9, &value_of(66), Form::Full);
    fixture.answer(1, 1, 9, &value_of(3), Form::Full);
    fixture.answer(0, 1, 9, &value_of(3), Form::Digest);
    assert_eq!(fixture.happened(), "b1@s9");
}

#[test]
fn pipelined_bundles_complete_in_any_order_and_the_window_counts_from_the_first_open_one() {
    let mut fixture = Fixture::registered();
    for _ in 0..limits::OPEN_BUNDLES_MAX {
        fixture.submit();
    }
    fixture.happened();
    let refused =
        fixture.session.submit(fixture.now, &vec![Operation::Get { key: Vec::new() }], &mut fixture.out);
    assert_eq!(refused, Err(SubmitError::WindowFull));
    for number in 2..=4 {
        fixture.answer(1, number, 9, &value_of(1), Form::Full);
        fixture.answer(2, number, 9, &value_of(1), Form::Digest);
    }
    assert_eq!(fixture.happened(), "b2@s9 b3@s9 b4@s9");
    assert!(!fixture.session.can_submit());
    fixture.answer(1, 1, 9, &value_of(1), Form::Full);
    fixture.answer(2, 1, 9, &value_of(1), Form::Digest);
    assert_eq!(fixture.happened(), "b1@s9");
    for _ in 0..4 {
        assert!(fixture.session.can_submit());
        fixture.submit();
    }
    assert!(!fixture.session.can_submit());
}

#[test]
fn a_time_out_moves_to_the_next_connected_home_and_sends_what_is_open_in_order() {
    let mut fixture = Fixture::registered();
    fixture.disconnect(2);
    fixture.submit();
    fixture.submit();
    fixture.submit();
    fixture.answer(1, 2, 9, &value_of(1), Form::Full);
    fixture.answer(3, 2, 9, &value_of(1), Form::Digest);
    fixture.happened();
    let deadline = fixture.session.deadline().unwrap();
    assert_eq!(deadline, fixture.now.plus(milliseconds(1000).0));
    fixture.at(Nanoseconds(deadline.0 - 1));
    assert_eq!(fixture.happened(), "");
    fixture.at(deadline);
    assert_eq!(fixture.happened(), "3:b1 3:b3");
    assert_eq!(fixture.session.home(), ReplicaId(3));
}

#[test]
fn an_idle_session_loses_no_patience_when_a_replica_comes_back() {
    let mut fixture = Fixture::registered();
    fixture.disconnect(2);
    fixture.connect(2);
    assert_eq!(fixture.happened(), "2:Attach");
    assert_eq!(fixture.session.deadline(), None);
    fixture.submit();
    assert_eq!(fixture.session.deadline(), Some(fixture.now.plus(milliseconds(1000).0)));
}

#[test]
fn patience_doubles_up_to_its_limit_and_halves_with_progress() {
    let mut fixture = Fixture::registered();
    fixture.submit();
    let mut waits = Vec::new();
    for _ in 0..5 {
        let deadline = fixture.session.deadline().unwrap();
        waits.push((deadline.0 - fixture.now.0) / 1_000_000);
        fixture.at(deadline);
    }
    assert_eq!(waits, [1000, 2000, 4000, 8000, 8000]);
    fixture.submit();
    fixture.answer(1, 1, 9, &value_of(1), Form::Full);
    fixture.answer(3, 1, 9, &value_of(1), Form::Digest);
    assert_eq!(fixture.session.deadline(), Some(fixture.now.plus(milliseconds(4000).0)));
}

#[test]
fn losing_the_home_moves_at_once_and_losing_all_takes_the_first_that_comes_back() {
    let mut fixture = Fixture::registered();
    fixture.submit();
    fixture.happened();
    fixture.disconnect(1);
    assert_eq!(fixture.happened(), "2:b1");
    fixture.disconnect(0);
    fixture.disconnect(3);
    assert_eq!(fixture.happened(), "");
    fixture.disconnect(2);
    fixture.submit();
    assert_eq!(fixture.session.deadline(), None);
    fixture.connect(0);
    fixture.connect(1);
    assert_eq!(fixture.happened(), "0:Attach 0:b1 0:b2 1:Attach");
}

#[test]
fn a_home_that_cannot_be_reached_is_left() {
    let mut fixture = Fixture::new();
    fixture.connect(2);
    fixture.disconnect(1);
    fixture.connect(3);
    fixture.connect(0);
    assert_eq!(fixture.happened(), "2:Attach 3:Attach 0:Attach 2:b0");
    let mut silent = Fixture::new();
    silent.connect(3);
    silent.happened();
    let deadline = silent.session.deadline().unwrap();
    silent.at(deadline);
    assert_eq!(silent.happened(), "", "one alone may name a seq that nobody comes to");
    silent.connect(0);
    silent.happened();
    let deadline = silent.session.deadline().unwrap();
    silent.at(deadline);
    assert_eq!(silent.happened(), "0:b0");
}

#[test]
fn a_new_connection_of_the_home_gets_all_open_bundles_in_order() {
    let mut fixture = Fixture::registered();
    for other in [0, 2, 3] {
        fixture.disconnect(other);
    }
    fixture.submit();
    fixture.submit();
    fixture.happened();
    fixture.disconnect(1);
    fixture.submit();
    fixture.connect(1);
    assert_eq!(fixture.happened(), "1:Attach 1:b1 1:b2 1:b3");
}

#[test]
fn busy_sends_again_from_the_refused_bundle_on_after_a_growing_wait() {
    let mut fixture = Fixture::registered();
    for _ in 0..4 {
        fixture.submit();
    }
    fixture.happened();
    let mut waits = Vec::new();
    for _ in 0..8 {
        fixture.busy(1, 3);
        fixture.busy(1, 2);
        fixture.busy(1, 4);
        let deadline = fixture.session.deadline().unwrap();
        waits.push((deadline.0 - fixture.now.0) / 1_000_000);
        fixture.at(deadline);
        assert_eq!(fixture.happened(), "1:b2 1:b3 1:b4");
    }
    assert_eq!(waits, [2, 4, 8, 16, 32, 64, 100, 100]);
}

#[test]
fn bundles_submitted_during_a_busy_wait_stay_behind_the_refused_one() {
    let mut fixture = Fixture::registered();
    fixture.submit();
    fixture.busy(1, 1);
    fixture.submit();
    assert_eq!(fixture.happened(), "1:b1");
    let deadline = fixture.session.deadline().unwrap();
    fixture.at(deadline);
    assert_eq!(fixture.happened(), "1:b1 1:b2");
}

#[test]
fn busy_counts_only_from_the_home_and_for_an_open_bundle_of_this_session() {
    let mut fixture = Fixture::registered();
    fixture.submit();
    let deadline = fixture.session.deadline();
    fixture.busy(2, 1);
    fixture.busy(1, 0);
    fixture.busy(1, 2);
    fixture.busy(1, u64::MAX);
    let reason = BusyReason::InFlight;
    let foreign = Busy { session: SessionId { seq: Seq(9), place: 9 }, number: BundleNumber(1), reason };
    fixture.frame(1, &foreign.encode()).unwrap();
    assert_eq!(fixture.session.deadline(), deadline);
}

/// A home was stopped, and its connection stands: it never declines. All others were too busy once.
#[test]
fn who_has_declined_is_asked_again_when_the_home_is_silent() {
    let mut fixture = Fixture::registered();
    fixture.submit();
    fixture.happened();
    for _ in 0..3 {
        let home = fixture.session.home().0;
        fixture.decline(home, 1, BusyReason::ReadOnly);
    }
    let silent = fixture.session.home();
    fixture.happened();
    let mut asked = Vec::new();
    for _ in 0..4 {
        let deadline = fixture.session.deadline().unwrap();
        fixture.at(deadline);
        asked.push(fixture.happened());
    }
    let home = fixture.session.home();
    assert!(asked.iter().any(|sent| !sent.starts_with(&silent.0.to_string())), "{asked:?}, at {home}");
}

#[test]
fn who_has_declined_is_asked_again_when_several_homes_are_silent() {
    let mut fixture = Fixture::registered();
    fixture.submit();
    (1..=2).for_each(|home| fixture.decline(home, 1, BusyReason::ReadOnly));
    let asked = [(); 6].map(|()| {
        let deadline = fixture.session.deadline().unwrap();
        fixture.at(deadline);
        fixture.session.home().0
    });
    assert!(asked.contains(&1) || asked.contains(&2), "{asked:?}");
}

#[test]
fn a_replica_that_declines_is_left_for_one_that_does_not() {
    let mut fixture = Fixture::registered();
    fixture.submit();
    fixture.submit();
    fixture.happened();
    fixture.decline(1, 1, BusyReason::ReadOnly);
    assert_eq!(fixture.happened(), "2:b1 2:b2");
    // What the old home says about the next bundle is of no more interest.
    fixture.decline(1, 2, BusyReason::ReadOnly);
    fixture.decline(2, 1, BusyReason::Following);
    let home = fixture.session.home();
    assert!(![1, 2].contains(&home.0), "the next one has not declined yet: {home}");
    assert_eq!(fixture.session.declined(ReplicaId(1)), Some(BusyReason::ReadOnly));
    assert_eq!(fixture.session.declined(ReplicaId(2)), Some(BusyReason::Following));
}

/// All four decline; what follows goes to the last one asked.
fn declined_everywhere(fixture: &mut Fixture, number: u64, reason: BusyReason) -> u8 {
    for _ in 0..3 {
        let home = fixture.session.home().0;
        fixture.decline(home, number, reason);
    }
    fixture.happened();
    let home = fixture.session.home().0;
    fixture.decline(home, number, reason);
    assert_eq!(fixture.happened(), "", "not at once");
    let deadline = fixture.session.deadline().unwrap();
    fixture.at(deadline);
    home
}

#[test]
fn where_nobody_takes_anything_the_last_home_is_asked_again_later() {
    let mut fixture = Fixture::registered();
    fixture.submit();
    fixture.happened();
    let home = declined_everywhere(&mut fixture, 1, BusyReason::Following);
    assert_eq!(fixture.happened(), format!("{home}:b1"));
}

#[test]
fn what_everybody_declines_is_voided_and_then_surely_not_done() {
    let mut fixture = Fixture::registered();
    fixture.submit();
    fixture.submit();
    fixture.happened();
    let home = declined_everywhere(&mut fixture, 1, BusyReason::ReadOnly);
    assert_eq!(fixture.happened(), format!("{home}:void-b1 {home}:b2"));
    fixture.tell(2, 1, 9, &void(), OperationResult::Voided);
    assert_eq!(fixture.happened(), "", "one alone may lie");
    fixture.tell(3, 1, 9, &void(), OperationResult::Voided);
    assert_eq!(fixture.happened(), "b1:ReadOnly");
    fixture.answer(2, 2, 10, &value_of(1), Form::Full);
    fixture.answer(3, 2, 10, &value_of(1), Form::Full);
    assert_eq!(fixture.happened(), "b2@s10");
}

#[test]
fn who_declined_a_voided_bundle_is_asked_again_with_the_next() {
    let mut fixture = Fixture::registered();
    fixture.submit();
    fixture.happened();
    let home = declined_everywhere(&mut fixture, 1, BusyReason::ReadOnly);
    for replica in [2, 3] {
        fixture.tell(replica, 1, 9, &void(), OperationResult::Voided);
    }
    fixture.happened();
    fixture.submit();
    fixture.happened();
    fixture.decline(home, 2, BusyReason::ReadOnly);
    let next = (home + 1) % REPLICAS;
    assert_eq!(fixture.happened(), format!("{next}:b2"), "there may be room elsewhere by now");
}

#[test]
fn a_voided_bundle_that_was_executed_first_is_done() {
    let mut fixture = Fixture::registered();
    fixture.submit();
    fixture.happened();
    declined_everywhere(&mut fixture, 1, BusyReason::ReadOnly);
    fixture.happened();
    // The void one is answered with the reply to the bundle: the home that declined it had kept it.
    fixture.answer(2, 1, 9, &value_of(5), Form::Full);
    fixture.answer(3, 1, 9, &value_of(5), Form::Full);
    assert_eq!(fixture.happened(), "b1@s9");
}

#[test]
fn a_voided_bundle_that_is_refused_for_its_number_is_not_done() {
    let mut fixture = Fixture::registered();
    fixture.submit();
    fixture.happened();
    declined_everywhere(&mut fixture, 1, BusyReason::ReadOnly);
    fixture.happened();
    for replica in [0, 3] {
        fixture.tell(replica, 1, 9, &read(), OperationResult::Error(OperationError::NumberUsed));
    }
    assert_eq!(fixture.happened(), "b1:ReadOnly");
}

#[test]
fn answers_to_a_bundle_and_to_the_void_one_in_its_place_do_not_add_up() {
    let mut fixture = Fixture::registered();
    fixture.submit();
    fixture.happened();
    declined_everywhere(&mut fixture, 1, BusyReason::ReadOnly);
    fixture.happened();
    fixture.tell(0, 1, 9, &read(), OperationResult::Voided);
    fixture.tell(1, 1, 9, &void(), OperationResult::Voided);
    assert_eq!(fixture.happened(), "");
}

/// Two contents of one number are signed, the bundle and the void one, and no third, however often it is sent.
#[test]
fn a_number_is_never_signed_with_other_content() {
    let mut fixture = Fixture::registered();
    fixture.submit();
    declined_everywhere(&mut fixture, 1, BusyReason::ReadOnly);
    let mut sent = std::collections::BTreeSet::new();
    for round in 0..20 {
        let home = fixture.session.home().0;
        if round % 3 == 0 {
            fixture.disconnect(home);
            fixture.connect(home);
        }
        fixture.decline(home, 1, [BusyReason::ReadOnly, BusyReason::InFlight][round % 2]);
        let deadline = fixture.session.deadline().unwrap();
        fixture.at(deadline);
        for action in fixture.out.drain(..) {
            if let Action::Send { frame, .. } = action
                && frame.kind() == Kind::Bundle
            {
                let head = BundleView::parse(frame.payload()).unwrap().head;
                assert_eq!((head.session, head.number), (SESSION, BundleNumber(1)));
                sent.insert(frame.payload().to_vec());
            }
        }
    }
    assert_eq!(sent.len(), 2);
}

#[test]
fn what_is_too_much_for_everybody_for_long_is_voided() {
    let mut fixture = Fixture::registered();
    fixture.submit();
    fixture.happened();
    let mut asked = String::new();
    while !asked.contains("void") {
        assert!(fixture.now < milliseconds(60_000));
        let home = fixture.session.home().0;
        fixture.busy(home, 1);
        let deadline = fixture.session.deadline().unwrap();
        fixture.at(deadline);
        asked = fixture.happened();
    }
    assert!(fixture.now >= milliseconds(5).plus(milliseconds(2000).0), "{:?}", fixture.now);
    for replica in [0, 3] {
        fixture.tell(replica, 1, 9, &void(), OperationResult::Voided);
    }
    assert_eq!(fixture.happened(), "b1:InFlight");
}

#[test]
fn a_number_that_somebody_else_has_used_is_an_error_and_never_their_reply() {
    let mut fixture = Fixture::registered();
    fixture.submit();
    fixture.happened();
    let foreign = vec![Operation::Get { key: b"foreign".to_vec() }];
    for replica in 0..4 {
        fixture.tell(replica, 1, 9, &foreign, OperationResult::Value(None));
    }
    assert_eq!(fixture.happened(), "");
    for replica in [0, 3] {
        fixture.tell(replica, 1, 9, &read(), OperationResult::Error(OperationError::NumberUsed));
    }
    assert_eq!(fixture.happened(), "b1:NumberUsed");
}

#[test]
fn wrong_answers_are_ignored_and_foreign_kinds_are_errors() {
    let mut fixture = Fixture::registered();
    fixture.submit();
    fixture.happened();
    for replica in [0, 1, 2, 3, 99, 255] {
        for number in [0, 2, u64::MAX] {
            fixture.answer(replica, number, 9, &value_of(1), Form::Full);
        }
        let foreign = ReplyView {
            session: SessionId { seq: Seq(9), place: 9 },
            number: BundleNumber(1),
            seq: Seq(9),
            view: View(0),
            request: Digest::ZERO,
            digest: Digest::ZERO,
            body: ReplyBody::DigestOnly,
        };
        fixture.frame(replica, &foreign.encode()).unwrap();
    }
    fixture.answer(98, 1, 9, &value_of(1), Form::Full);
    fixture.answer(99, 1, 9, &value_of(1), Form::Full);
    assert_eq!(fixture.happened(), "");
    let stray = Attach { nonce: quorate_types::Nonce([1; 16]), session: SessionId::NONE }.encode();
    assert_eq!(fixture.frame(1, &stray), Err(DecodeError::Misplaced(Kind::Attach)));
    let broken = Frame::encode(Kind::Reply, |out| out.extend_from_slice(b"short"));
    assert_eq!(fixture.frame(1, &broken), Err(DecodeError::Malformed(Kind::Reply)));
}

#[test]
fn bundles_over_a_limit_are_refused_with_the_reason() {
    let mut fixture = Fixture::registered();
    let mut refuse = |operations: Vec<Operation>| {
        let refused = fixture.session.submit(fixture.now, &operations, &mut fixture.out);
        refused.unwrap_err()
    };
    assert_eq!(refuse(vec![]), SubmitError::Empty);
    let register = Operation::Register { nonce: quorate_types::Nonce([1; 16]), recent: 1 };
    assert_eq!(refuse(vec![register]), SubmitError::Reserved);
    assert_eq!(refuse(void()), SubmitError::Reserved);
    let get = Operation::Get { key: vec![] };
    let many = vec![get; limits::BUNDLE_OPERATIONS_MAX + 1];
    assert_eq!(refuse(many), SubmitError::TooManyOperations { operations: 10_001 });
    let append = Operation::Append { key: vec![1], value: vec![0; limits::VALUE_BYTES_MAX] };
    assert!(matches!(refuse(vec![append; 4]), SubmitError::TooLong { .. }));
    let keys = vec![Operation::MultiGet { keys: vec![vec![]; 1_000_000] }];
    assert!(matches!(refuse(keys), SubmitError::TooLong { .. }));
    // The payload alone would fit, what the archive adds does not.
    let get = Operation::Get { key: vec![1; 100] };
    assert!(matches!(refuse(vec![get; 10_000]), SubmitError::TooLong { .. }));
    assert_eq!(fixture.submit(), BundleNumber(1));
}

#[derive(Clone, Debug)]
struct Answered {
    replica: u8,
    number: u64,
    seq: u64,
    value: u8,
    form: u8,
}

fn answers(replicas: u8) -> impl Strategy<Value = Vec<Answered>> {
    let one = (0..replicas, 1u64..4, 0u64..2, 0u8..2, 0u8..3)
        .prop_map(|(replica, number, seq, value, form)| Answered { replica, number, seq, value, form });
    prop::collection::vec(one, 0..120)
}

proptest! {
    /// Any f of the replicas lie at will: the first f here. Whatever completes was said, in one piece, by
    /// f+1 different replicas, so by an honest one; and nothing completes twice.
    #[test]
    fn nothing_completes_that_f_plus_1_replicas_did_not_say(
        script in answers(7),
        truth in prop::collection::vec((0u64..2, 0u8..2), 3),
    ) {
        let config = Arc::new(config(7));
        let (faults, weak) = (config.quorums().faults, config.quorums().weak);
        let mut fixture = Fixture::registered();
        fixture.session = Session::new(Arc::clone(&config), client_key(), SEED, ReplicaId(1));
        for replica in 0..7 {
            fixture.connect(replica);
        }
        fixture.learn();
        let registered = archive(&vec![OperationResult::Registered { session: SESSION }]);
        for replica in 0..7 {
            fixture.tell_of(replica, SessionId::NONE, 0, 1, fixture.registration, &registered);
        }
        for _ in 0..3 {
            fixture.submit();
        }
        fixture.out.clear();
        let mut said: Vec<(u8, u64, u64, Option<u8>)> = Vec::new();
        let mut complete = Vec::new();
        for mut answered in script {
            if usize::from(answered.replica) >= faults {
                let (seq, value) = truth[usize::try_from(answered.number).unwrap() - 1];
                (answered.seq, answered.value) = (seq, value);
            }
            let Answered { replica, number, seq, value, form } = answered;
            let (form, content) =
                [(Form::Full, Some(value)), (Form::Digest, Some(value)), (Form::Gone, None)][usize::from(form)];
            said.push((replica, number, seq, content));
            fixture.answer(replica, number, seq, &value_of(value), form);
            for action in fixture.out.drain(..) {
                let (number, seq, content) = match action {
                    Action::Completed { number, seq, results } => {
                        (number, seq, Some((0..2).find(|value| value_of(*value)[..] == results[..]).unwrap()))
                    }
                    Action::ResultsGone { number, seq } => (number, seq, None),
                    _ => continue,
                };
                let speakers: ReplicaSet = said
                    .iter()
                    .filter(|(_, other, at, what)| (*other, *at, *what) == (number.0, seq.0, content))
                    .fold(ReplicaSet::EMPTY, |mut set, (replica, ..)| {
                        set.insert(ReplicaId(*replica));
                        set
                    });
                prop_assert!(speakers.len() >= weak);
                prop_assert!(seq.0 == truth[usize::try_from(number.0).unwrap() - 1].0);
                prop_assert!(!complete.contains(&number));
                complete.push(number);
            }
        }
    }

    /// Whatever bytes a replica sends, the session neither panics nor completes anything on one voice.
    #[test]
    fn one_replica_alone_completes_nothing(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        number in 0u64..4,
        form in 0u8..4,
    ) {
        let mut fixture = Fixture::registered();
        fixture.submit();
        fixture.happened();
        let mut payload = fixture.session.id().to_bytes().to_vec();
        payload.extend_from_slice(&number.to_le_bytes());
        payload.extend_from_slice(&[0; 16]);
        payload.extend_from_slice(&bundle::request_digest(&bundle::encode_operations(&read())).0);
        payload.extend_from_slice(&[0; 32]);
        payload.push(form);
        payload.extend_from_slice(&bytes);
        for (kind, payload) in [(Kind::Reply, &payload), (Kind::Reply, &bytes), (Kind::Busy, &bytes)] {
            let frame = Frame::encode(kind, |out| out.extend_from_slice(payload));
            let _ = fixture.frame(1, &frame);
        }
        prop_assert_eq!(fixture.happened(), "");
    }
}
