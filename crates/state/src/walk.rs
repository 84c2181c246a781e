//! A walk over trees that can stop between any two nodes: children before their parents.

use std::sync::Arc;

use crate::forest::Forest;
use crate::node::Node;

/// What the walk came to.
#[derive(Debug)]
pub(crate) enum Exit {
    /// A node, all of its children passed or come to before. `moved` says whether one of them was marked.
    Node {
        node: Arc<Node>,
        moved: bool,
    },
    /// A node that is passed by with all that is below it.
    Passed,
    End,
}

#[derive(Debug)]
struct Frame {
    node: Arc<Node>,
    next: usize,
    moved: bool,
}

/// The state of a walk.
#[derive(Debug)]
pub(crate) struct Walk {
    roots: Vec<Arc<Node>>,
    next_root: usize,
    stack: Vec<Frame>,
}

impl Walk {
    pub(crate) fn over(forest: &Forest) -> Self {
        let roots = forest.trees.iter().map(|(_, node)| Arc::clone(node)).collect();
        Self { roots, next_root: 0, stack: Vec::new() }
    }

    /// Where it is: of the first tree, the next child to enter at each level.
    pub(crate) fn path(&self) -> Vec<usize> {
        self.stack.iter().map(|frame| frame.next).collect()
    }

    /// A walk over other trees from about the place at which another one was.
    pub(crate) fn resumed(forest: &Forest, path: &[usize]) -> Self {
        let mut walk = Self::over(forest);
        let mut at = walk.roots.first().cloned();
        for next in path {
            let Some(node) = at else { break };
            let children: &[Arc<Node>] = match &*node {
                Node::Inner(inner) => inner.children(),
                Node::Leaf(_) => &[],
            };
            let next = (*next).min(children.len());
            at = next.checked_sub(1).and_then(|open| children.get(open)).cloned();
            walk.next_root = 1;
            walk.stack.push(Frame { node, next, moved: false });
        }
        walk
    }

    /// Goes on to the next node that is left; passes nodes by for which `enter` says no.
    pub(crate) fn next(&mut self, enter: impl Fn(&Node) -> bool) -> Exit {
        loop {
            let next = match self.stack.last() {
                None => self.roots.get(self.next_root),
                Some(Frame { node, next, .. }) => match &**node {
                    Node::Inner(inner) => inner.children().get(*next),
                    Node::Leaf(_) => None,
                },
            };
            let Some(next) = next else {
                return match self.stack.pop() {
                    Some(Frame { node, moved, .. }) => Exit::Node { node, moved },
                    None => Exit::End,
                };
            };
            // Looked at before it is shared: counting a node's users would take it from the caches of the cores.
            let entered = enter(next).then(|| Arc::clone(next));
            match self.stack.last_mut() {
                None => self.next_root += 1,
                Some(frame) => frame.next += 1,
            }
            let Some(node) = entered else { return Exit::Passed };
            self.stack.push(Frame { node, next: 0, moved: false });
        }
    }

    /// Marks the parent of the node that the walk came to last.
    pub(crate) fn mark_moved(&mut self) {
        if let Some(frame) = self.stack.last_mut() {
            frame.moved = true;
        }
    }
}
