//! A client's view of the state: signs nothing, but archives bundles and reads replies as a client would.

use quorate_state::{BundleInput, Context, Outcome, Reply, State};
use quorate_types::{
    BundleNumber, Digest, Domain, Nanoseconds, Nonce, Operation, OperationResult, Seq, SessionId, SigningKey,
};
use rkyv::rancor::Error;

/// One client key, a registration of it and the session that this has opened.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    pub(crate) key: [u8; 32],
    pub(crate) nonce: Nonce,
    pub(crate) session: SessionId,
    pub(crate) next: u64,
}

impl Client {
    /// The client with this seed, and its registration with a nonce of these bytes.
    pub(crate) fn new(seed: u8, nonce: u8) -> Self {
        let key = SigningKey::from_seed(&[seed; 32]).public();
        Self { key: *key.as_bytes(), nonce: Nonce([nonce; 16]), session: SessionId::NONE, next: 0 }
    }

    pub(crate) fn send(&self, state: &mut State, seq: u64, number: u64, operations: &[Operation]) -> Outcome {
        let bytes = rkyv::to_bytes::<Error>(&operations.to_vec()).expect("operations can be archived");
        let operations =
            rkyv::access::<rkyv::Archived<Vec<Operation>>, Error>(&bytes).expect("a fresh archive is valid");
        let context = Context { seq: Seq(seq), timestamp: Nanoseconds(seq * 1000) };
        let request = Digest::of(Domain::BundleBody, &bytes);
        let (client, session, number) = (&self.key, self.session, BundleNumber(number));
        let outcome = state.execute(context, BundleInput { client, session, number, request, operations });
        if let Outcome::Executed(reply)
        | Outcome::Repeated(reply)
        | Outcome::Refused(reply)
        | Outcome::Registration { reply, .. } = &outcome
        {
            assert_eq!((reply.session, reply.number), (self.session, number));
            assert_eq!(reply.digest, Digest::of(Domain::Results, reply.results()));
            let is_void = operations.len() == 1 && format!("{:?}", operations[0]).contains("Void");
            assert!(is_void || reply.request == request, "a reply names what it answers");
        }
        outcome
    }

    /// Sends the registration, which names `recent`.
    pub(crate) fn send_registration(&self, state: &mut State, seq: u64, recent: u64) -> Outcome {
        let unopened = Self { session: SessionId::NONE, ..self.clone() };
        unopened.send(state, seq, 0, &[Operation::Register { nonce: self.nonce, recent }])
    }

    pub(crate) fn register(&mut self, state: &mut State, seq: u64) {
        let outcome = self.send_registration(state, seq, seq - 1);
        let Outcome::Registration { nonce, session: Some(session), fresh: true, reply } = outcome else {
            panic!("not registered: {outcome:?}");
        };
        assert_eq!((nonce, reply.seq), (self.nonce, Seq(seq)));
        assert_eq!(results(&reply), [OperationResult::Registered { session }]);
        (self.session, self.next) = (session, 1);
    }

    /// Executes the session's next bundle and returns its results.
    pub(crate) fn run(
        &mut self,
        state: &mut State,
        seq: u64,
        operations: &[Operation],
    ) -> Vec<OperationResult> {
        let reply = executed(self.send(state, seq, self.next, operations));
        assert_eq!(reply.seq, Seq(seq));
        self.next += 1;
        results(&reply)
    }
}

pub(crate) fn executed(outcome: Outcome) -> Reply {
    match outcome {
        Outcome::Executed(reply) => reply,
        other => panic!("not executed: {other:?}"),
    }
}

pub(crate) fn results(reply: &Reply) -> Vec<OperationResult> {
    rkyv::from_bytes::<Vec<OperationResult>, Error>(reply.results()).expect("results are a valid archive")
}

/// A state with one allowed client that has opened a session at seq 1.
pub(crate) fn opened() -> (State, Client) {
    let mut client = Client::new(1, 1);
    let mut state = State::new([client.key]);
    client.register(&mut state, 1);
    (state, client)
}
