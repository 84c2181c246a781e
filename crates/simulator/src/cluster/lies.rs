//! Liars: what leaves them passes their agents, and no oracle holds them to anything.

use super::Cluster;
use crate::agent::{Agent, Leaving};
use crate::event::{Event, Life};
use crate::oracle::Violation;
use crate::plan::Plan;
use crate::trace::Detail;
use quorate_replica::Reject;
use quorate_types::{ClusterConfig, LinkId, Nanoseconds, ReplicaId};
use quorate_wire::message::{Message, PrePrepare};
use quorate_wire::{Frame, Kind, testing};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The agents of a history, by liar.
pub(super) fn agents(plan: &Plan, config: &Arc<ClusterConfig>) -> BTreeMap<ReplicaId, Agent> {
    let agent = |liar: &crate::liars::Liar| {
        let key = testing::replica_key(liar.replica.0);
        (liar.replica, Agent::new(plan, liar.clone(), key, Arc::clone(config)))
    };
    plan.liars.iter().map(agent).collect()
}

impl Cluster {
    /// Whether a replica lies.
    pub(super) fn lies(&self, replica: ReplicaId) -> bool {
        self.agents.contains_key(&replica)
    }

    /// What was found of a replica, if it is to be held to that. The core of a liar is made to believe what its agent has
    /// said.
    pub(super) fn excused(&self, replica: ReplicaId, judged: Result<(), Violation>) -> Result<(), Violation> {
        if self.lies(replica) { Ok(()) } else { judged }
    }

    /// A replica refuses something, and a peer with it if that is known to have sent it.
    pub(super) fn on_reject(
        &mut self,
        replica: ReplicaId,
        reject: &Reject,
        peer: Option<ReplicaId>,
    ) -> Result<(), Violation> {
        // Who is not known may be a liar, wherever there is one.
        let may_lie = peer.map_or(!self.agents.is_empty(), |peer| self.lies(peer));
        let judged = self.oracles.resources.on_reject(reject, may_lie);
        self.excused(replica, judged)
    }

    /// A liar sends something to a peer, or rather something else.
    pub(super) fn lie(&mut self, liar: ReplicaId, peer: ReplicaId, link: LinkId, frame: Frame) {
        let Some(agent) = self.agents.get_mut(&liar) else { return };
        let life = self.hosts[liar.index()].life;
        for leaving in agent.pass(self.now, &self.oracles.ledger, peer, link, frame) {
            if leaving.frame.kind() == Kind::PrePrepare
                && let Ok(message) = PrePrepare::decode(leaving.frame.payload())
            {
                self.oracles.ledger.note_header(&Arc::new(message.header));
            }
            if leaving.after == Nanoseconds(0) {
                self.on_lie(life, leaving);
            } else {
                self.queue.push(self.now.plus(leaving.after.0), Event::Lie { life, leaving });
            }
        }
    }

    /// What a liar has held back leaves it.
    pub(super) fn on_lie(&mut self, life: Life, leaving: Leaving) {
        if !self.lives(life) {
            return;
        }
        let Leaving { to, link, frame, .. } = leaving;
        self.trace.note(self.now, Detail::Verbose, &[24, u64::from(life.replica.0), u64::from(to.0)], || {
            format!("r{} lies to r{to} {link:?}: {}", life.replica, super::carry::describe(&frame))
        });
        self.put_on_the_way(life.replica, to, link, frame);
    }
}
