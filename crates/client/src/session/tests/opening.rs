//! How sessions are opened, and opened again after an eviction.

use super::*;

#[test]
fn the_registration_names_the_seq_that_f_plus_1_have_reached() {
    let mut fixture = Fixture::new();
    for (replica, executed) in [(0, 50), (2, u64::MAX), (3, 40)] {
        fixture.session.on_connected(fixture.now, ReplicaId(replica), &mut fixture.out);
        fixture.attached(replica, executed);
    }
    fixture.connect(1);
    fixture.learn();
    assert_eq!(fixture.recent, 50, "one of f+1 is honest, whatever a liar says");
}

#[test]
fn a_retry_of_a_registration_is_the_same_bytes_and_every_session_has_its_own_nonce() {
    let registrations = |seed: [u8; 32]| {
        let mut fixture = Fixture::new();
        let config = Arc::new(config(REPLICAS));
        fixture.session = Session::new(config, client_key(), seed, ReplicaId(1));
        (0..REPLICAS).for_each(|replica| fixture.connect(replica));
        for _ in 0..5 {
            let deadline = fixture.session.deadline().unwrap();
            fixture.at(deadline);
        }
        let frames = fixture.out.into_iter().filter_map(|action| match action {
            Action::Send { frame, .. } if frame.kind() == Kind::Bundle => Some(frame.payload().to_vec()),
            _ => None,
        });
        frames.collect::<Vec<_>>()
    };
    let (first, second) = (registrations([1; 32]), registrations([2; 32]));
    assert!(first.len() > 4);
    for sent in [&first, &second] {
        assert!(sent.iter().all(|frame| frame == &sent[0]));
    }
    assert_ne!(first[0], second[0]);
}

#[test]
fn a_void_registration_is_followed_by_another_that_names_what_is_recent() {
    let mut fixture = Fixture::connected();
    fixture.submit();
    let mut seen = vec![fixture.registration];
    for error in
        [OperationError::RegistrationNotRecent { recent: 1, executing: 70 }, OperationError::RegistrationUsed]
    {
        let results = archive(&vec![OperationResult::Error(error)]);
        fixture.tell_of(0, SessionId::NONE, 0, 70, fixture.registration, &results);
        assert_eq!(fixture.happened(), "", "one alone may lie");
        fixture.tell_of(2, SessionId::NONE, 0, 70, fixture.registration, &results);
        assert_eq!(fixture.happened(), "0:Attach 1:Attach 2:Attach 3:Attach 1:b0");
        assert_eq!(fixture.recent, 70);
        assert!(!seen.contains(&fixture.registration), "another nonce");
        seen.push(fixture.registration);
    }
    fixture.answer_registration(OperationResult::Registered { session: SESSION });
    assert_eq!(fixture.happened(), "0:Attach 1:Attach 2:Attach 3:Attach 1:b1");
}

#[test]
fn a_key_that_registers_too_often_waits() {
    let mut fixture = Fixture::connected();
    let error = OperationError::TooManyRegistrations { sessions: 4095 };
    fixture.answer_registration(OperationResult::Error(error));
    assert_eq!(fixture.happened(), "0:Attach 1:Attach 2:Attach 3:Attach");
    // Much may be executed meanwhile: what it names when it is sent is recent then.
    fixture.attached(0, 5000);
    fixture.attached(2, 6000);
    let deadline = fixture.session.deadline().unwrap();
    fixture.at(deadline);
    assert_eq!(fixture.happened(), "1:b0");
    assert_eq!(fixture.recent, 5000);
}

/// Tells that the session is evicted and `next` was its next bundle.
fn evict(fixture: &mut Fixture, number: u64, next: u64) {
    let error = OperationError::SessionEvicted { next };
    for replica in [0, 3] {
        assert!(fixture.session.is_registered(), "one alone may lie");
        fixture.tell(replica, number, 80, &read(), OperationResult::Error(error));
    }
}

#[test]
fn an_evicted_session_opens_another_and_goes_on_with_what_was_not_executed() {
    let mut fixture = Fixture::registered();
    for _ in 0..4 {
        fixture.submit();
    }
    fixture.answer(0, 2, 9, &value_of(1), Form::Full);
    fixture.answer(1, 2, 9, &value_of(1), Form::Full);
    fixture.happened();
    evict(&mut fixture, 3, 3);
    // The first one was executed, as it lies below the next, and the others never will be in that session.
    assert_eq!(fixture.happened(), "b1@s80:gone 0:Attach 1:Attach 2:Attach 3:Attach 1:b0");
    assert_eq!(fixture.recent, 80);
    fixture.submit();
    let another = SessionId { seq: Seq(90), place: 0 };
    fixture.answer_registration(OperationResult::Registered { session: another });
    assert_eq!(fixture.happened(), "0:Attach 1:Attach 2:Attach 3:Attach 1:b1 1:b2 1:b3");
    for number in 1..=3 {
        fixture.answer(0, number, 95, &value_of(1), Form::Full);
        fixture.answer(1, number, 95, &value_of(1), Form::Full);
    }
    assert_eq!(fixture.happened(), "b3@s95 b4@s95 b5@s95", "they keep the numbers that they were given");
}

#[test]
fn what_was_sent_in_an_evicted_session_that_nobody_remembers_is_unknown() {
    let mut fixture = Fixture::registered();
    fixture.submit();
    fixture.submit();
    fixture.busy(1, 2);
    fixture.submit();
    fixture.happened();
    evict(&mut fixture, 1, 0);
    assert_eq!(fixture.happened(), "b1:unknown b2:unknown 0:Attach 1:Attach 2:Attach 3:Attach 1:b0");
    fixture
        .answer_registration(OperationResult::Registered { session: SessionId { seq: Seq(90), place: 0 } });
    assert_eq!(fixture.happened(), "0:Attach 1:Attach 2:Attach 3:Attach 1:b1", "the third was never sent");
}

/// Its results are not here, but f+1 have told their digest: it was executed, whatever is not known any more.
#[test]
fn what_f_plus_1_agreed_on_before_the_session_was_evicted_is_done() {
    let mut fixture = Fixture::registered();
    fixture.submit();
    fixture.submit();
    fixture.happened();
    fixture.answer(0, 1, 9, &value_of(1), Form::Digest);
    fixture.answer(3, 1, 9, &value_of(1), Form::Digest);
    assert_eq!(fixture.happened(), "", "the body is missing");
    evict(&mut fixture, 2, 0);
    assert_eq!(fixture.happened(), "b1@s80:gone b2:unknown 0:Attach 1:Attach 2:Attach 3:Attach 1:b0");
}

/// A home may decline what it was never sent, and take what is sent in doubt: then it is not sent in another session too.
#[test]
fn a_bundle_that_was_voided_before_it_was_sent_counts_as_sent_once_it_is() {
    let mut fixture = Fixture::registered();
    for replica in [0, 2, 3] {
        fixture.disconnect(replica);
    }
    fixture.submit();
    fixture.busy(1, 1);
    fixture.submit();
    assert_eq!(fixture.happened(), "1:b1", "the second waits behind the first");
    fixture.decline(1, 2, BusyReason::ReadOnly);
    let mut sent = Vec::new();
    for _ in 0..20 {
        let deadline = fixture.session.deadline().unwrap();
        fixture.at(deadline);
        sent.extend(fixture.happened().split(' ').map(str::to_owned));
    }
    assert!(sent.iter().any(|what| what == "1:b2"), "in doubt the bundle itself is sent: {sent:?}");
    evict(&mut fixture, 1, 0);
    assert_eq!(fixture.happened(), "b1:unknown b2:unknown 1:Attach 1:b0");
}

#[test]
fn whether_a_voided_bundle_of_an_evicted_session_was_executed_may_be_unknown() {
    let mut fixture = Fixture::registered();
    fixture.submit();
    fixture.submit();
    fixture.happened();
    declined_everywhere(&mut fixture, 1, BusyReason::ReadOnly);
    fixture.happened();
    evict(&mut fixture, 2, 2);
    assert!(fixture.happened().starts_with("b1:unknown 0:Attach"), "either of the two was executed");
}
