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
    roots: std::vec::IntoIter<Arc<Node>>,
    stack: Vec<Frame>,
}

impl Walk {
    pub(crate) fn over(forest: &Forest) -> Self {
        let roots: Vec<_> = forest.trees.iter().map(|(_, node)| Arc::clone(node)).collect();
        Self { roots: roots.into_iter(), stack: Vec::new() }
    }

    /// Goes on to the next node that is left; passes nodes by for which `enter` says no.
    pub(crate) fn next(&mut self, enter: impl Fn(&Node) -> bool) -> Exit {
        loop {
            let node = match self.stack.last_mut() {
                None => match self.roots.next() {
                    None => return Exit::End,
                    Some(root) => root,
                },
                Some(frame) => match &*frame.node {
                    Node::Inner(inner) if frame.next < inner.children().len() => {
                        let child = Arc::clone(&inner.children()[frame.next]);
                        frame.next += 1;
                        child
                    }
                    _ => {
                        let frame = self.stack.pop().expect("invariant: there is a last one");
                        return Exit::Node { node: frame.node, moved: frame.moved };
                    }
                },
            };
            if !enter(&node) {
                return Exit::Passed;
            }
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
