//! Trees and parts of trees, by their root nodes.

use std::fmt;
use std::sync::Arc;

use crate::node::Node;
use crate::tree::Tree;

/// Subtrees of a state: what a state transfer has, or had before a restart. Shares its nodes.
#[derive(Clone, Default)]
pub struct Forest {
    /// Each with its height, leaves included.
    pub(crate) trees: Vec<(u8, Arc<Node>)>,
}

impl fmt::Debug for Forest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Forest").field("trees", &self.trees.len()).finish()
    }
}

impl Forest {
    pub(crate) fn of(tree: &Tree) -> Self {
        let height = u8::try_from(tree.height()).expect("invariant: HEIGHT_MAX fits 8 bits");
        Self { trees: vec![(height, Arc::clone(tree.shared_root()))] }
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.trees.is_empty()
    }
}
