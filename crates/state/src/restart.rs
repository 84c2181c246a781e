//! From which checkpoint a restart goes on.

use quorate_types::Seq;

use crate::forest::Forest;
use crate::frozen::Frozen;
use crate::load::{LoadError, ReadPages};
use crate::manifest::Manifest;
use crate::store::PageStore;

/// What checkpoints give back.
#[derive(Debug, Default)]
pub struct Restored {
    /// The checkpoint to go on from.
    pub whole: Option<(Manifest, Frozen)>,
    /// What a transfer had received above it.
    pub part: Option<(Manifest, Forest)>,
    /// Manifests whose checkpoints could not be read, and why.
    pub damaged: Vec<(u64, LoadError)>,
    /// Whether what nothing needs may be removed at once. Otherwise it goes with the next checkpoint, as nothing proves
    /// before that it is of no use.
    pub may_tidy: bool,
}

impl PageStore {
    /// Loads what a replica goes on from after which others have `certified` the state, and keeps what it may need.
    ///
    /// That is the newest whole checkpoint up to there, not a newer one: of that nobody else may have heard, so what
    /// led to it may be wanted of this replica yet, and it is executed again from the log. Where all those are
    /// damaged, a newer one is better than none; `incomplete` says that manifests are missing among these, as they
    /// cannot be read.
    pub fn restore(
        &mut self,
        manifests: impl IntoIterator<Item = Manifest>,
        incomplete: bool,
        certified: Seq,
        source: &mut impl ReadPages,
    ) -> Restored {
        let (whole, mut parts): (Vec<_>, Vec<_>) =
            manifests.into_iter().partition(|manifest| manifest.complete);
        let (mut known, mut ahead): (Vec<_>, Vec<_>) =
            whole.into_iter().partition(|manifest| manifest.head.seq <= certified);
        known.sort_by_key(|manifest| (manifest.head.seq, manifest.number));
        ahead.sort_by_key(|manifest| (manifest.head.seq, manifest.number));
        let mut found = Restored::default();
        let is_first = known.is_empty() && ahead.is_empty();
        while let Some(manifest) = known.pop() {
            if found.whole.is_some() {
                self.keep(&manifest);
            } else {
                found.take_whole(self, manifest, source);
            }
        }
        // Not looked at unless there is nothing else: they are written again.
        let mut ahead = ahead.into_iter();
        while found.whole.is_none()
            && (incomplete || !found.damaged.is_empty())
            && let Some(manifest) = ahead.next()
        {
            found.take_whole(self, manifest, source);
        }
        parts.sort_by_key(|manifest| manifest.number);
        let own = found.whole.as_ref().map_or(Seq(0), |(manifest, _)| manifest.head.seq);
        if let Some(manifest) = parts.pop().filter(|newest| newest.head.seq > own) {
            match self.load_forest(&manifest, source) {
                Ok((forest, _)) => found.part = Some((manifest, forest)),
                Err(error) => found.damaged.push((manifest.number, error)),
            }
        }
        self.begin_with(&[found.whole.as_ref().map_or(Seq(0), |(manifest, _)| manifest.head.seq)]);
        found.may_tidy = !incomplete && found.damaged.is_empty() && (is_first || found.whole.is_some());
        found
    }
}

impl Restored {
    fn take_whole(&mut self, store: &mut PageStore, manifest: Manifest, source: &mut impl ReadPages) {
        match store.load(&manifest, source) {
            Ok((state, _)) => self.whole = Some((manifest, state)),
            Err(error) => self.damaged.push((manifest.number, error)),
        }
    }
}
