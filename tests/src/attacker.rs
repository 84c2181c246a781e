//! An attacker: a raw connection that says whatever it likes, under whatever key it has.

use crate::cluster::{Cluster, PATIENCE};
use quorate_types::{
    ArchivedOperationResult, BundleNumber, ClusterConfig, LinkId, Nonce, Operation, ReplicaId, Seq,
    SessionId, SigningKey,
};
use quorate_wire::handshake::{Dialer, DialerStep, HandshakeError, Identity};
use quorate_wire::message::{Attach, Attached, Message};
use quorate_wire::reply::{ReplyBody, access_results};
use quorate_wire::{Assembler, Frame, Kind, ReplyView, bundle};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// A raw connection that speaks whatever it likes.
#[derive(Debug)]
pub struct Attacker {
    stream: TcpStream,
    assembler: Assembler,
    /// What has come behind the last frame.
    received: Vec<u8>,
}

impl Attacker {
    /// A connection that has said nothing yet.
    ///
    /// # Panics
    /// When nobody listens there.
    #[must_use]
    pub fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("the port listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a valid time-out");
        Self { stream, assembler: Assembler::new(1 << 22), received: Vec::new() }
    }

    /// Sends bytes; a connection that is closed already is fine.
    pub fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// The next frame, copied; nothing when the other side has closed.
    ///
    /// # Panics
    /// When what comes is no frame.
    pub fn receive(&mut self) -> Option<Frame> {
        let mut buffer = [0; 1 << 14];
        loop {
            let mut input = &self.received[..];
            let frame = self.assembler.next(&mut input).expect("replicas send frames").map(Frame::keep);
            let taken = self.received.len() - input.len();
            self.received.drain(..taken);
            if frame.is_some() {
                return frame;
            }
            match self.stream.read(&mut buffer) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => return None,
                Ok(count) => self.received.extend_from_slice(&buffer[..count]),
            }
        }
    }

    /// Waits until the other side closes.
    ///
    /// # Panics
    /// When it does not.
    pub fn assert_closed(&mut self) {
        let mut buffer = [0; 4096];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => panic!("the connection stays open: {error}"),
            }
        }
    }

    /// Shakes hands as `identity`; what was sent last is returned too.
    ///
    /// # Errors
    /// What the handshake failed with.
    ///
    /// # Panics
    /// When it is cut off.
    pub fn shake(
        &mut self,
        config: &Arc<ClusterConfig>,
        key: &SigningKey,
        identity: Identity,
        listener: u8,
    ) -> Result<Frame, HandshakeError> {
        let (mut dialer, hello) =
            Dialer::start(Arc::clone(config), key.clone(), identity, ReplicaId(listener), [9; 32]);
        self.send(hello.bytes());
        let mut last = hello;
        while let Some(frame) = self.receive() {
            match dialer.on_frame(frame.as_frame_ref())? {
                DialerStep::Send(frame) => {
                    self.send(frame.bytes());
                    last = frame;
                }
                DialerStep::Done => return Ok(last),
            }
        }
        panic!("the handshake was cut off without a reason");
    }

    /// A client's connection, its handshake done.
    ///
    /// # Panics
    /// When it is not let in.
    #[must_use]
    pub fn client(cluster: &Cluster, key: &SigningKey, replica: usize) -> Self {
        Self::try_client(cluster, key, replica).expect("an allowed client is let in")
    }

    /// As [`Attacker::client`], where it may not be let in.
    ///
    /// # Errors
    /// What the handshake failed with.
    ///
    /// # Panics
    /// When nobody listens.
    pub fn try_client(cluster: &Cluster, key: &SigningKey, replica: usize) -> Result<Self, HandshakeError> {
        let mut attacker = Self::connect(cluster.client_address(replica));
        let listener = u8::try_from(replica).expect("a small number");
        attacker.shake(cluster.config(), key, client_identity(key), listener)?;
        Ok(attacker)
    }

    /// A connection as another replica, its handshake done; nothing where it is not let in.
    ///
    /// # Panics
    /// When nobody listens.
    #[must_use]
    pub fn replica(cluster: &Cluster, me: ReplicaId, listener: ReplicaId, link: LinkId) -> Option<Self> {
        let member = &cluster.config().members()[listener.index()];
        let mut attacker = Self::connect(member.mesh_address(link));
        let identity = Identity::Replica { replica: me, link };
        let key = cluster.replica_key(me.index());
        attacker.shake(cluster.config(), &key, identity, listener.0).ok().map(|_| attacker)
    }

    /// Sends what `next` gives, as fast as it is taken, and throws away all that comes, until the other side closes or it is
    /// to stop.
    pub fn flood(&mut self, stop: &AtomicBool, mut next: impl FnMut() -> Vec<u8>) {
        let Ok(mut sending) = self.stream.try_clone() else { return };
        let _ = sending.set_write_timeout(Some(Duration::from_millis(50)));
        std::thread::scope(|scope| {
            scope.spawn(|| self.drain(stop));
            let mut bytes = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                if bytes.is_empty() {
                    bytes = next();
                }
                match sending.write(&bytes) {
                    Ok(count) => drop(bytes.drain(..count)),
                    Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                    Err(_) => break,
                }
            }
            let _ = sending.shutdown(Shutdown::Both);
        });
    }

    /// Opens a session, whose replies this connection gets from then on.
    ///
    /// # Panics
    /// When that does not succeed.
    pub fn register(&mut self, config: &ClusterConfig, key: &SigningKey, nonce: Nonce) -> SessionId {
        self.send(Attach { nonce, session: SessionId::NONE }.encode().bytes());
        let attached = self.receive().expect("a connection that is let in is answered");
        let Attached { executed } = Attached::from_frame(attached.as_frame_ref()).expect("the answer");
        let register = Operation::Register { nonce, recent: executed.0 };
        self.send_bundle(config, key, SessionId::NONE, BundleNumber(0), &vec![register]);
        let reply = self.receive().expect("a registration is answered");
        let reply = ReplyView::parse(reply.payload()).expect("a reply");
        let ReplyBody::Results(results) = reply.body else { panic!("no results: {reply:?}") };
        match access_results(results).expect("results").as_slice() {
            [ArchivedOperationResult::Registered { session }] => {
                SessionId { seq: Seq(session.seq.0.to_native()), place: session.place.to_native() }
            }
            other => panic!("no session was opened: {other:?}"),
        }
    }

    /// Sends a signed bundle.
    pub fn send_bundle(
        &mut self,
        config: &ClusterConfig,
        key: &SigningKey,
        session: SessionId,
        number: BundleNumber,
        operations: &Vec<Operation>,
    ) {
        let frame = Frame::encode(Kind::Bundle, |out| {
            bundle::write(out, config, key, session, number, operations);
        });
        self.send(frame.bytes());
    }

    /// Waits as shortly as any client that was told to come again later.
    pub fn back_off(&self) {
        std::thread::sleep(Duration::from_millis(2));
    }

    /// Takes all that comes, and throws it away, until the other side closes or it is to stop.
    pub fn drain(&mut self, stop: &AtomicBool) {
        let mut buffer = vec![0; 1 << 16];
        // An option of an open socket can be set; if not, this one is late to stop.
        let _ = self.stream.set_read_timeout(Some(Duration::from_millis(50)));
        while !stop.load(Ordering::Relaxed) {
            match self.stream.read(&mut buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
    }
}

/// Who a client is.
#[must_use]
pub fn client_identity(key: &SigningKey) -> Identity {
    Identity::Client { key: *key.public().as_bytes() }
}
