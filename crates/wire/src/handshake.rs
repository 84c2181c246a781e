//! The handshake that binds a connection to keys, without I/O.
//!
//! Dialer and listener each sign, with fresh nonces of both, the whole of what was said: cluster id,
//! configuration digest, who dials whom on which link. So a recorded handshake proves nothing later, and a
//! relayed one is bound to the pair that made it. This is the seam that TLS will fill: whoever drives it gets
//! an [`Identity`] and knows nothing else.
//!
//! ```text
//! dialer                                listener
//!   Hello(identity, nonce)      ──▶
//!                               ◀──      Challenge(nonce, signature) or Refused(reason)
//!   Proof(signature)            ──▶
//!                               ◀──      Welcome or Refused(reason)
//! ```

use crate::message::{Message, append_archive};
use crate::{DecodeError, Frame, FrameRef, Kind, Statement, StatementKind};
use quorate_types::{
    ClusterConfig, Digest, Domain, LinkId, PublicKey, ReplicaId, ReplicaSet, Signature, SigningKey,
};
use rkyv::{Archive, Deserialize, Serialize};
use std::sync::Arc;
use thiserror::Error;

/// Who is at the other end of a connection, proven by signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identity {
    /// Another replica, on one of the links.
    Replica {
        /// Which replica.
        replica: ReplicaId,
        /// Which link.
        link: LinkId,
    },
    /// An allowed client.
    Client {
        /// Its key.
        key: [u8; 32],
    },
}

/// Why a handshake failed.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum HandshakeError {
    /// The bytes are no handshake message.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// This side refuses the other.
    #[error("refused: {0}")]
    Refuse(Refusal),
    /// The other side refuses this one.
    #[error("the other side refused: {0}")]
    RefusedByPeer(Refusal),
}

/// Why one side refuses the other. Sent as a number; it tells an honest operator what to mend.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, Error, PartialEq, Eq)]
#[rkyv(derive(Debug))]
pub enum Refusal {
    /// The two belong to different clusters.
    #[error("different cluster ids; use the cluster.toml of this cluster")]
    Cluster,
    /// The two have different configurations of the cluster.
    #[error("different cluster configurations; give every replica and client the same cluster.toml")]
    Configuration,
    /// The key is not in the configuration.
    #[error("the key is not among `clients` of cluster.toml; {}", quorate_types::OTHER_CLIENT)]
    UnknownKey,
    /// A replica or link that does not exist here, or the replica itself.
    #[error("no such replica or link here; check the addresses in cluster.toml")]
    UnknownReplica,
    /// The signature does not match.
    #[error("the signature does not match the key")]
    Signature,
    /// There is no room for another connection.
    #[error("too many connections")]
    Full,
    /// The replica has sent what no honest one does; it is let in again after a while.
    #[error(
        "this replica has sent what no honest one does and is kept out for a while; compare its version with the other's, \
         and see why in the other's log"
    )]
    Banned,
}

impl Refusal {
    /// The word under which it is told how often it came.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Cluster => "other_cluster",
            Self::Configuration => "other_configuration",
            Self::UnknownKey => "unknown_key",
            Self::UnknownReplica => "unknown_replica",
            Self::Signature => "handshake_signature",
            Self::Full => "full",
            Self::Banned => "banned",
        }
    }
}

#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
struct Hello {
    cluster_id: [u8; 32],
    config_digest: Digest,
    /// The replica that dials, or 255 for a client.
    replica: u8,
    link: u8,
    listener: u8,
    key: [u8; 32],
    nonce: [u8; 32],
}

#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
struct Challenge {
    nonce: [u8; 32],
    signature: Signature,
}

#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
struct Proof {
    signature: Signature,
}

#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
struct Welcome {}

#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
struct Refused {
    refusal: Refusal,
}

macro_rules! handshake_messages {
    ($($name:ident),*) => {
        $(impl Message for $name {
            const KIND: Kind = Kind::$name;

            fn encode(&self) -> Frame {
                Frame::encode(Self::KIND, |out| append_archive(out, self))
            }

            fn decode(payload: &[u8]) -> Result<Self, DecodeError> {
                rkyv::from_bytes::<Self, rkyv::rancor::Failure>(payload)
                    .map_err(|_| DecodeError::Malformed(Self::KIND))
            }
        })*
    };
}

handshake_messages!(Hello, Challenge, Proof, Welcome, Refused);

/// The number that stands for a client where a replica would stand.
const CLIENT: u8 = u8::MAX;
const _: () = assert!(quorate_types::limits::REPLICAS_MAX < CLIENT as usize);

/// The frame that tells the dialer why its connection ends.
#[must_use]
pub fn refusal_frame(refusal: Refusal) -> Frame {
    Refused { refusal }.encode()
}

fn transcript(hello: &Hello, listener_nonce: &[u8; 32]) -> Digest {
    let mut writer = Digest::writer(Domain::Handshake);
    writer.bytes(&hello.cluster_id).digest(&hello.config_digest);
    writer.bytes(&[hello.replica, hello.link, hello.listener]);
    writer.bytes(&hello.key).bytes(&hello.nonce).bytes(listener_nonce);
    writer.finish()
}

/// The side that opens the connection.
#[derive(Debug)]
pub struct Dialer {
    config: Arc<ClusterConfig>,
    key: SigningKey,
    hello: Hello,
    /// Whether the listener's signature was verified.
    proven: bool,
}

/// What a dialer does next.
#[derive(Debug)]
pub enum DialerStep {
    /// Send this and go on.
    Send(Frame),
    /// The connection stands.
    Done,
}

impl Dialer {
    /// Starts a handshake of `identity`, whose secret is `key`, with replica `listener`. The nonce must be
    /// fresh from the system's random source. Returns the first frame to send.
    #[must_use]
    pub fn start(
        config: Arc<ClusterConfig>,
        key: SigningKey,
        identity: Identity,
        listener: ReplicaId,
        nonce: [u8; 32],
    ) -> (Self, Frame) {
        let (replica, link) = match identity {
            Identity::Replica { replica, link } => (replica.0, link.0),
            Identity::Client { .. } => (CLIENT, 0),
        };
        let hello = Hello {
            cluster_id: *config.cluster_id(),
            config_digest: config.digest(),
            replica,
            link,
            listener: listener.0,
            key: *key.public().as_bytes(),
            nonce,
        };
        let frame = hello.encode();
        (Self { config, key, hello, proven: false }, frame)
    }

    /// Takes the listener's next frame.
    pub fn on_frame(&mut self, frame: FrameRef<'_>) -> Result<DialerStep, HandshakeError> {
        match (frame.kind, self.proven) {
            (Kind::Challenge, false) => self.on_challenge(&Challenge::from_frame(frame)?),
            (Kind::Welcome, true) => {
                Welcome::from_frame(frame)?;
                Ok(DialerStep::Done)
            }
            (Kind::Refused, _) => Err(HandshakeError::RefusedByPeer(Refused::from_frame(frame)?.refusal)),
            (other, _) => Err(DecodeError::Misplaced(other).into()),
        }
    }

    fn on_challenge(&mut self, challenge: &Challenge) -> Result<DialerStep, HandshakeError> {
        let transcript = transcript(&self.hello, &challenge.nonce);
        let statement = Statement::handshake(&self.config, StatementKind::HandshakeListener, &transcript);
        let listener = ReplicaId(self.hello.listener);
        if !statement.is_signed_by_replica(&self.config, listener, &challenge.signature) {
            return Err(HandshakeError::Refuse(Refusal::Signature));
        }
        self.proven = true;
        let statement = Statement::handshake(&self.config, StatementKind::HandshakeDialer, &transcript);
        Ok(DialerStep::Send(Proof { signature: statement.sign(&self.key) }.encode()))
    }
}

/// The side that was dialed. One use: a second Hello on the same connection is refused.
#[derive(Debug)]
pub struct Listener {
    config: Arc<ClusterConfig>,
    key: SigningKey,
    me: ReplicaId,
    nonce: [u8; 32],
    /// Which dialers this socket is for.
    accepts: Accepts,
    banned: ReplicaSet,
    pending: Option<(PublicKey, Identity, Digest)>,
    greeted: bool,
}

/// Which dialers a listening socket is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepts {
    /// Other replicas on this link.
    Replicas {
        /// The link.
        link: LinkId,
    },
    /// Clients.
    Clients,
}

/// What a listener does next.
#[derive(Debug)]
pub enum ListenerStep {
    /// Send this and go on.
    Send(Frame),
    /// Send this; the connection stands and belongs to the identity.
    Done(Frame, Identity),
}

impl Listener {
    /// Waits for a handshake on a fresh connection. The nonce must be fresh from the system's random source.
    #[must_use]
    pub fn new(
        config: Arc<ClusterConfig>,
        key: SigningKey,
        me: ReplicaId,
        accepts: Accepts,
        nonce: [u8; 32],
    ) -> Self {
        let banned = ReplicaSet::EMPTY;
        Self { config, key, me, nonce, accepts, banned, pending: None, greeted: false }
    }

    /// The same, but these replicas are refused as soon as they say who they are.
    #[must_use]
    pub fn keeping_out(mut self, banned: ReplicaSet) -> Self {
        self.banned = banned;
        self
    }

    /// Takes the dialer's next frame. On [`HandshakeError::Refuse`], send [`refusal_frame`] and close.
    pub fn on_frame(&mut self, frame: FrameRef<'_>) -> Result<ListenerStep, HandshakeError> {
        match (frame.kind, self.pending.take()) {
            (Kind::Hello, None) if !self.greeted => {
                self.greeted = true;
                self.on_hello(&Hello::from_frame(frame)?)
            }
            (Kind::Proof, Some((key, identity, transcript))) => {
                let proof = Proof::from_frame(frame)?;
                let statement =
                    Statement::handshake(&self.config, StatementKind::HandshakeDialer, &transcript);
                if !statement.is_signed_by(&key, &proof.signature) {
                    return Err(HandshakeError::Refuse(Refusal::Signature));
                }
                Ok(ListenerStep::Done(Welcome {}.encode(), identity))
            }
            (other, _) => Err(DecodeError::Misplaced(other).into()),
        }
    }

    /// Cheap checks first; only then a signature is made.
    fn on_hello(&mut self, hello: &Hello) -> Result<ListenerStep, HandshakeError> {
        let (key, identity) = self.admit(hello).map_err(HandshakeError::Refuse)?;
        let transcript = transcript(hello, &self.nonce);
        let statement = Statement::handshake(&self.config, StatementKind::HandshakeListener, &transcript);
        let challenge = Challenge { nonce: self.nonce, signature: statement.sign(&self.key) };
        self.pending = Some((key, identity, transcript));
        Ok(ListenerStep::Send(challenge.encode()))
    }

    fn admit(&self, hello: &Hello) -> Result<(PublicKey, Identity), Refusal> {
        if &hello.cluster_id != self.config.cluster_id() {
            return Err(Refusal::Cluster);
        }
        if hello.config_digest != self.config.digest() {
            return Err(Refusal::Configuration);
        }
        if hello.listener != self.me.0 {
            return Err(Refusal::UnknownReplica);
        }
        match self.accepts {
            Accepts::Clients if hello.replica == CLIENT => {
                let key = self.config.client(&hello.key).ok_or(Refusal::UnknownKey)?;
                Ok((key.clone(), Identity::Client { key: hello.key }))
            }
            Accepts::Replicas { link } if hello.replica != CLIENT => {
                let replica = ReplicaId(hello.replica);
                if replica == self.me || hello.link != link.0 {
                    return Err(Refusal::UnknownReplica);
                }
                let member = self.config.member(replica).ok_or(Refusal::UnknownReplica)?;
                if member.key.as_bytes() != &hello.key {
                    return Err(Refusal::UnknownKey);
                }
                if self.banned.contains(replica) {
                    return Err(Refusal::Banned);
                }
                Ok((member.key.clone(), Identity::Replica { replica, link }))
            }
            _ => Err(Refusal::UnknownReplica),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{client_key, config, replica_key};

    const ME: ReplicaId = ReplicaId(1);

    fn dial(identity: Identity, key: SigningKey, nonce: u8) -> (Dialer, Frame) {
        Dialer::start(Arc::new(config(4)), key, identity, ME, [nonce; 32])
    }

    fn listen(accepts: Accepts, nonce: u8) -> Listener {
        Listener::new(Arc::new(config(4)), replica_key(1), ME, accepts, [nonce; 32])
    }

    fn client() -> Identity {
        Identity::Client { key: *client_key().public().as_bytes() }
    }

    fn peer(replica: u8) -> Identity {
        Identity::Replica { replica: ReplicaId(replica), link: LinkId(0) }
    }

    fn sent(step: ListenerStep) -> Frame {
        match step {
            ListenerStep::Send(frame) | ListenerStep::Done(frame, _) => frame,
        }
    }

    fn run(mut dialer: Dialer, hello: &Frame, mut listener: Listener) -> Result<Identity, HandshakeError> {
        let challenge = sent(listener.on_frame(hello.as_frame_ref())?);
        let DialerStep::Send(proof) = dialer.on_frame(challenge.as_frame_ref())? else { panic!("no proof") };
        let ListenerStep::Done(welcome, identity) = listener.on_frame(proof.as_frame_ref())? else {
            panic!("not done")
        };
        assert!(matches!(dialer.on_frame(welcome.as_frame_ref())?, DialerStep::Done));
        Ok(identity)
    }

    #[test]
    fn a_replica_and_a_client_are_let_in() {
        let link = Accepts::Replicas { link: LinkId(0) };
        let (dialer, hello) = dial(peer(3), replica_key(3), 1);
        assert_eq!(run(dialer, &hello, listen(link, 2)), Ok(peer(3)));
        let (dialer, hello) = dial(client(), client_key(), 1);
        assert_eq!(run(dialer, &hello, listen(Accepts::Clients, 2)), Ok(client()));
    }

    #[test]
    fn the_wrong_door_key_or_cluster_is_refused() {
        let link = Accepts::Replicas { link: LinkId(0) };
        let refuse = |identity, key, accepts| {
            let (dialer, hello) = dial(identity, key, 1);
            run(dialer, &hello, listen(accepts, 2)).unwrap_err()
        };
        let refused = HandshakeError::Refuse;
        assert_eq!(refuse(client(), client_key(), link), refused(Refusal::UnknownReplica));
        assert_eq!(refuse(peer(3), replica_key(3), Accepts::Clients), refused(Refusal::UnknownReplica));
        assert_eq!(refuse(peer(3), replica_key(2), link), refused(Refusal::UnknownKey));
        assert_eq!(refuse(peer(1), replica_key(1), link), refused(Refusal::UnknownReplica));
        assert_eq!(refuse(client(), replica_key(2), Accepts::Clients), refused(Refusal::UnknownKey));

        let other = Arc::new(config(7));
        let (dialer, hello) = Dialer::start(other, client_key(), client(), ME, [1; 32]);
        let error = run(dialer, &hello, listen(Accepts::Clients, 2)).unwrap_err();
        assert_eq!(error, refused(Refusal::Configuration));
    }

    #[test]
    fn a_banned_replica_is_refused_before_anything_is_signed() {
        let link = Accepts::Replicas { link: LinkId(0) };
        let mut banned = ReplicaSet::EMPTY;
        banned.insert(ReplicaId(3));
        let (dialer, hello) = dial(peer(3), replica_key(3), 1);
        let error = run(dialer, &hello, listen(link, 2).keeping_out(banned)).unwrap_err();
        assert_eq!(error, HandshakeError::Refuse(Refusal::Banned));
        let (dialer, hello) = dial(peer(2), replica_key(2), 1);
        assert_eq!(run(dialer, &hello, listen(link, 2).keeping_out(banned)), Ok(peer(2)));
    }

    #[test]
    fn a_replayed_proof_does_not_fit_a_fresh_nonce() {
        let (mut dialer, hello) = dial(client(), client_key(), 1);
        let mut first = listen(Accepts::Clients, 2);
        let challenge = sent(first.on_frame(hello.as_frame_ref()).unwrap());
        let Ok(DialerStep::Send(proof)) = dialer.on_frame(challenge.as_frame_ref()) else { panic!() };
        let mut second = listen(Accepts::Clients, 3);
        second.on_frame(hello.as_frame_ref()).unwrap();
        let error = second.on_frame(proof.as_frame_ref()).unwrap_err();
        assert_eq!(error, HandshakeError::Refuse(Refusal::Signature));
    }

    #[test]
    fn a_listener_without_the_replicas_key_is_found_out() {
        let (mut dialer, hello) = dial(client(), client_key(), 1);
        let config = Arc::new(config(4));
        let mut liar = Listener::new(config, replica_key(2), ME, Accepts::Clients, [2; 32]);
        let challenge = sent(liar.on_frame(hello.as_frame_ref()).unwrap());
        let error = dialer.on_frame(challenge.as_frame_ref()).unwrap_err();
        assert_eq!(error, HandshakeError::Refuse(Refusal::Signature));
    }

    #[test]
    fn messages_out_of_turn_and_second_hellos_are_misplaced() {
        let (mut dialer, hello) = dial(client(), client_key(), 1);
        let mut listener = listen(Accepts::Clients, 2);
        listener.on_frame(hello.as_frame_ref()).unwrap();
        assert!(listener.on_frame(hello.as_frame_ref()).is_err());
        assert!(listener.on_frame(hello.as_frame_ref()).is_err());
        let welcome = Welcome {}.encode();
        assert!(dialer.on_frame(welcome.as_frame_ref()).is_err());
        let refused = refusal_frame(Refusal::Full);
        assert_eq!(
            dialer.on_frame(refused.as_frame_ref()).unwrap_err(),
            HandshakeError::RefusedByPeer(Refusal::Full)
        );
    }
}
