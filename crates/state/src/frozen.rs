//! An unchanging copy of the state, for checkpoints and catch-up.

use quorate_types::Digest;

use crate::entries::Entries;
use crate::leaf::VersionedRef;
use crate::manifest::ExecutedTip;
use crate::system::{self, USER};
use crate::totals::Totals;
use crate::tree::Tree;

/// The state as it was when it was frozen. Shares its nodes with the living state, which copies what it
/// changes; may be read on another thread.
#[derive(Clone, Debug)]
pub struct Frozen {
    pub(crate) tree: Tree,
    pub(crate) totals: Totals,
}

const _: () = {
    const fn shared<T: Send + Sync>() {}
    shared::<Frozen>();
};

impl Frozen {
    /// The root digest. Hashes what was not hashed yet; the living state gains from it, too.
    #[must_use]
    pub fn root(&self) -> Digest {
        self.tree.digest(&mut Vec::new())
    }

    /// As [`Frozen::root`], but `pause` is called after each few nodes that were hashed, which are some tens of
    /// microseconds of work: whoever has time can spread the work over it.
    #[must_use]
    pub fn root_with_pauses(&self, mut pause: impl FnMut()) -> Digest {
        self.tree.hash_below(&mut Vec::new(), &mut pause);
        self.root()
    }

    /// Where the lanes stand that have moved, by lane.
    #[must_use]
    pub fn executed_tips(&self) -> Vec<ExecutedTip> {
        let [start, end] = &system::LANES;
        let tip = |(key, entry): (&[u8], VersionedRef<'_>)| {
            let (upto, chain) = system::lane_fields(entry.value)?;
            Some(ExecutedTip { lane: system::lane_of(key)?, upto, chain })
        };
        self.tree.range(start, end).filter_map(tip).collect()
    }

    /// All entries in key order, system records first; keys begin with their namespace byte.
    #[must_use]
    pub fn entries(&self) -> Entries<'_> {
        self.tree.range(&[], &[])
    }

    /// Users' entries in key order, their keys as users know them.
    pub fn user_entries(&self) -> impl Iterator<Item = (&[u8], VersionedRef<'_>)> {
        self.tree.range(&[USER], &[]).map(|(key, entry)| (&key[1..], entry))
    }

    /// The revision of the last write before it was frozen, 0 when there was none.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.totals.revision
    }

    /// What users' entries come to, as [`StateLimits::bytes_max`](quorate_types::StateLimits::bytes_max) counts them.
    #[must_use]
    pub fn user_bytes(&self) -> u64 {
        self.totals.user_bytes
    }

    /// The page of the node at the end of `path`, the children's indices from the root down, or nothing if
    /// there is none. The BLAKE3 hash of a page is its node's digest, as it stands in the parent's page.
    #[must_use]
    pub fn page(&self, path: &[usize]) -> Option<Vec<u8>> {
        let node = self.tree.node(path)?;
        let mut page = Vec::new();
        node.encode(&mut page);
        Some(page)
    }
}
