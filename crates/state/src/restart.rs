//! From which checkpoint a restart goes on.
//!
//! What cannot be read is not unneeded (DESIGN section 5): it stays under its name until a whole, certified checkpoint
//! is durable that is at least as new as what the logs know to be certified. What is intact of it is used, and served to
//! others who may lack just that.

use std::collections::BTreeMap;
use std::sync::Arc;

use quorate_types::mistakes::is_made;
use quorate_types::{Mistake, Seq};

use crate::forest::Forest;
use crate::frozen::Frozen;
use crate::load::{LoadError, ReadPages};
use crate::manifest::Manifest;
use crate::salvage::Salvage;
use crate::store::PageStore;

/// What the logs know of certified states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// The slot of the newest certificate that they hold.
    pub certificate: Option<Seq>,
    /// The checkpoint to go on from is the newest up to here: the certificate, unless none is known or it does not
    /// matter.
    pub upto: Seq,
}

/// What checkpoints give back.
#[derive(Debug, Default)]
pub struct Restored {
    /// The checkpoint to go on from.
    pub whole: Option<(Manifest, Frozen)>,
    /// The checkpoint to go on from whose pages cannot all be read: where it stands is known, and the state after a slot
    /// at least as new is certified, so the rest can be had from others. Only if there is no whole one.
    pub broken: Option<Manifest>,
    /// What is intact in all page files, where the certified state may not be had from the checkpoint to go on from.
    pub salvage: Option<Arc<Salvage>>,
    /// What a transfer had received above it.
    pub part: Option<(Manifest, Forest)>,
    /// Manifests whose checkpoints could not be read, and why.
    pub damaged: Vec<(u64, LoadError)>,
    /// Whether what nothing needs may be removed at once. Otherwise the store has set it aside.
    pub may_tidy: bool,
}

impl PageStore {
    /// Loads what a replica goes on from, after what its logs know of certified states, and keeps what it may need.
    ///
    /// That is the newest whole checkpoint up to there, not a newer one: of that nobody else may have heard, so what
    /// led to it may be wanted of this replica yet, and it is executed again from the log. An older one is no
    /// substitute for a certified one that is damaged, as the logs lead on from that one only; what is lost of it can be
    /// had from others. `incomplete` says that there are manifests beside these that cannot be read.
    ///
    /// # Errors
    /// When something is whole, as far as anybody can tell, and cannot be read ([`LoadError::is_damage`] says no): then
    /// the caller must change nothing.
    pub fn restore(
        &mut self,
        manifests: impl IntoIterator<Item = Manifest>,
        incomplete: bool,
        known: Known,
        source: &mut impl ReadPages,
    ) -> Result<Restored, LoadError> {
        let (whole, mut parts): (Vec<_>, Vec<_>) =
            manifests.into_iter().partition(|manifest| manifest.complete);
        let all: Vec<Manifest> = whole.clone();
        let (mut below, mut ahead): (Vec<_>, Vec<_>) =
            whole.into_iter().partition(|manifest| manifest.head.seq <= known.upto);
        below.sort_by_key(|manifest| (manifest.head.seq, manifest.number));
        ahead.sort_by_key(|manifest| (manifest.head.seq, manifest.number));
        let mut found = Restored::default();
        let is_first = below.is_empty() && ahead.is_empty();
        let is_certified = |manifest: &Manifest| {
            known.certificate.is_some_and(|certificate| manifest.head.seq <= certificate)
        };
        while let Some(manifest) = below.pop() {
            if found.whole.is_some() {
                self.keep(&manifest);
            } else if found.broken.is_none() || found.broken.as_ref().map(slot) == Some(slot(&manifest)) {
                let rest = found.take_whole(self, manifest, source)?;
                found.broken = found.broken.or(rest.filter(is_certified));
            }
        }
        // This replica may have voted for them, and others may have a certificate by that: they are theirs to have.
        let voted = ahead.clone();
        // Not looked at unless there is nothing else: they are written again.
        let mut ahead = ahead.into_iter();
        while found.whole.is_none()
            && found.broken.is_none()
            && (incomplete || !found.damaged.is_empty())
            && let Some(manifest) = ahead.next()
        {
            found.take_whole(self, manifest, source)?;
        }
        if found.whole.is_some() {
            found.broken = None;
        }
        let own = found.whole.as_ref().map(|(manifest, _)| manifest).or(found.broken.as_ref());
        let own = own.map_or(Seq(0), |manifest| manifest.head.seq);
        parts.sort_by_key(|manifest| manifest.number);
        if let Some(manifest) = parts.pop().filter(|newest| newest.head.seq > own) {
            match self.load_forest(&manifest, source) {
                Ok((forest, _)) => found.part = Some((manifest, forest)),
                Err(error) => found.note(&manifest, error)?,
            }
        }
        // Whoever goes on from a newer one, as a learner does, keeps the newest that is certified: no other proves anything, and
        // where nobody votes any more none ever will.
        let certified = all.iter().filter(|manifest| is_certified(manifest));
        let certified = certified.max_by_key(|manifest| (slot(manifest), manifest.number));
        let is_ahead = known.certificate < Some(own);
        let passed = certified.filter(|_| is_ahead);
        // The lowest that is needed is certified, or the beginning.
        let lowest = is_ahead.then(|| passed.map_or(Seq(0), slot)).filter(|lowest| *lowest < own);
        let needed: Vec<Seq> = lowest.into_iter().chain([own]).collect();
        self.begin_with(&needed);
        found.may_tidy = !incomplete && found.damaged.is_empty() && (is_first || found.whole.is_some());
        if !found.may_tidy && is_made(Mistake::TidiesUnreadable) {
            found.may_tidy = true;
        }
        // Of one that was written twice the last is as good as both.
        let voted: BTreeMap<Seq, &Manifest> = voted.iter().map(|voted| (slot(voted), voted)).collect();
        let voted: Vec<&Manifest> = voted.into_values().filter(|voted| slot(voted) > own).collect();
        let newest = voted.last().map_or(Seq(0), |voted| slot(voted));
        if !found.may_tidy {
            self.set_aside(known.certificate.unwrap_or_default().max(own).max(newest), &voted);
        } else if !voted.is_empty() {
            self.set_aside_these(newest, &voted);
        } else if let Some(passed) = passed {
            self.set_aside_these(slot(passed).next(), &[passed]);
        }
        let is_damaged = incomplete || !found.damaged.is_empty();
        if is_damaged && (found.whole.is_none() || known.certificate > Some(own)) {
            let salvage = Salvage::gather(self.page_files(), all.iter(), source)?;
            found.salvage = Some(Arc::new(salvage));
        }
        Ok(found)
    }
}

fn slot(manifest: &Manifest) -> Seq {
    manifest.head.seq
}

impl Restored {
    /// Loads a checkpoint; gives its manifest back if it is damaged.
    fn take_whole(
        &mut self,
        store: &mut PageStore,
        manifest: Manifest,
        source: &mut impl ReadPages,
    ) -> Result<Option<Manifest>, LoadError> {
        match store.load(&manifest, source) {
            Ok((state, _)) => {
                self.whole = Some((manifest, state));
                Ok(None)
            }
            Err(error) => {
                self.note(&manifest, error)?;
                Ok(Some(manifest))
            }
        }
    }

    fn note(&mut self, manifest: &Manifest, error: LoadError) -> Result<(), LoadError> {
        if !error.is_damage() {
            return Err(error);
        }
        self.damaged.push((manifest.number, error));
        Ok(())
    }
}
