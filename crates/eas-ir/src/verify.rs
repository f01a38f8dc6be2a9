//! The rules of a network. [`Network::verify`] checks all of them and collects every violation:
//!
//! 1. There is at least one node and at most [`MAX_NODES`].
//! 2. No id stands twice, and the number of the next node is at most [`MAX_NEXT`], so that edits never
//!    run out of ids.
//! 3. Every input names a node that comes earlier, so that the order is topological and no cycle is
//!    possible.
//! 4. There is exactly one input operation, and it comes first.
//! 5. Every node but the last is read by another; the last is the output.
//! 6. Every operation takes the number and kind of inputs it is given, and its parameters are in
//!    their ranges ([`Op::output_shape`]).
//! 7. The output is flat: one logit a class.
//! 8. No value of one image, its padding included, has more than [`MAX_ELEMENTS`] numbers, and all
//!    parameters together no more than [`MAX_PARAMETERS`]: a file can't make a reader allocate what
//!    it merely claims.
//! 9. A label's kind is 1 to 32 lowercase letters and underscores, so that its text can be read back.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Index;

use crate::network::{Label, Network, NodeId};
use crate::op::Op;
use crate::shape::{Shape, ShapeError};

/// The most nodes a network may have.
pub const MAX_NODES: usize = 10_000;
/// The largest number that the next new node may have.
pub const MAX_NEXT: u32 = 1 << 31;
/// The most numbers one image's value at a node may have.
pub const MAX_ELEMENTS: usize = 1 << 28;
/// The most parameters a network may have.
pub const MAX_PARAMETERS: u64 = 1 << 31;

/// The shape of every node of a verified network.
#[derive(Clone, Debug, PartialEq)]
pub struct Shapes {
    shapes: BTreeMap<NodeId, Shape>,
    output: Shape,
}

impl Shapes {
    /// The shape of the logits.
    pub fn output(&self) -> Shape {
        self.output
    }

    /// The shape of a node, if the network has it.
    pub fn get(&self, id: NodeId) -> Option<Shape> {
        self.shapes.get(&id).copied()
    }
}

impl Index<NodeId> for Shapes {
    type Output = Shape;

    fn index(&self, id: NodeId) -> &Shape {
        &self.shapes[&id]
    }
}

/// One broken rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// Rule 1.
    #[error("expected between 1 and {MAX_NODES} nodes, found {0}")]
    NodeCount(usize),
    /// Rule 2.
    #[error("{0}: this id stands twice")]
    DuplicateId(NodeId),
    /// Rule 2, the next id.
    #[error("expected a next id of at most {MAX_NEXT}, found {0}")]
    Next(u32),
    /// Rule 3, an input that is no node.
    #[error("{node}: input {input} isn't a node of the network")]
    Dangling {
        /// The reading node.
        node: NodeId,
        /// What it reads.
        input: NodeId,
    },
    /// Rule 3, an input that comes later.
    #[error("{node}: input {input} doesn't come before it (a cycle, or nodes out of order)")]
    Order {
        /// The reading node.
        node: NodeId,
        /// What it reads.
        input: NodeId,
    },
    /// Rule 4.
    #[error("expected one input operation, at the first node; found {0}")]
    Input(String),
    /// Rule 5.
    #[error("{0}: nothing reads this node, and it isn't the last")]
    Unread(NodeId),
    /// Rule 6.
    #[error("{node}: {error}")]
    Shape {
        /// The node.
        node: NodeId,
        /// What is wrong.
        error: ShapeError,
    },
    /// Rule 7.
    #[error("{node}: the last node must give flat logits, found shape {shape}")]
    Output {
        /// The last node.
        node: NodeId,
        /// Its shape.
        shape: Shape,
    },
    /// Rule 8, values.
    #[error("{node}: a value of {shape} is larger than {MAX_ELEMENTS} numbers")]
    Elements {
        /// The node.
        node: NodeId,
        /// Its shape.
        shape: Shape,
    },
    /// Rule 8, parameters.
    #[error("expected at most {MAX_PARAMETERS} parameters, found {0}")]
    Parameters(u64),
    /// Rule 9.
    #[error(
        "{node}: expected a label of a kind of 1 to 32 lowercase letters and underscores, found {label:?}"
    )]
    Label {
        /// The node.
        node: NodeId,
        /// Its label.
        label: Label,
    },
}

/// How many violations a message names: a hostile file can have a million.
const SHOWN: usize = 20;

/// Every rule that a network breaks, in the order found; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violations(Vec<Violation>);

impl Violations {
    /// The violations.
    pub fn list(&self) -> &[Violation] {
        &self.0
    }
}

impl fmt::Display for Violations {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, violation) in self.0.iter().take(SHOWN).enumerate() {
            if index > 0 {
                out.write_str("; ")?;
            }
            write!(out, "{violation}")?;
        }
        match self.0.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => write!(out, "; and {more} more"),
        }
    }
}

impl std::error::Error for Violations {}

impl Network {
    /// Checks every rule of this module and returns the shape of each node.
    ///
    /// # Errors
    /// Every violation found. Nodes behind a broken one are not reported for its shape.
    pub fn verify(&self) -> Result<Shapes, Violations> {
        let mut violations = Vec::new();
        if self.nodes().is_empty() || self.nodes().len() > MAX_NODES {
            return Err(Violations(vec![Violation::NodeCount(self.nodes().len())]));
        }
        check_graph(self, &mut violations);
        let shapes = infer_shapes(self, &mut violations);
        match (violations.is_empty(), self.output().and_then(|last| shapes.get(&last.id))) {
            (true, Some(&output)) => Ok(Shapes { shapes, output }),
            _ => Err(Violations(violations)),
        }
    }
}

fn check_graph(network: &Network, violations: &mut Vec<Violation>) {
    let all: BTreeSet<NodeId> = network.nodes().iter().map(|node| node.id).collect();
    let read: BTreeSet<NodeId> =
        network.nodes().iter().flat_map(|node| &node.inputs).copied().collect();
    if network.next() > MAX_NEXT {
        violations.push(Violation::Next(network.next()));
    }
    let mut seen = BTreeSet::new();
    for node in network.nodes() {
        for &input in &node.inputs {
            if !all.contains(&input) {
                violations.push(Violation::Dangling { node: node.id, input });
            } else if !seen.contains(&input) {
                violations.push(Violation::Order { node: node.id, input });
            }
        }
        if !seen.insert(node.id) {
            violations.push(Violation::DuplicateId(node.id));
        }
        if let Some(label) = node.label.as_ref().filter(|label| !label.is_legible()) {
            violations.push(Violation::Label { node: node.id, label: label.clone() });
        }
    }
    let inputs: Vec<_> =
        network.nodes().iter().filter(|node| matches!(node.op, Op::Input { .. })).collect();
    match inputs.as_slice() {
        [only] if only.id == network.nodes()[0].id => {}
        [] => violations.push(Violation::Input("none".into())),
        [only] => violations.push(Violation::Input(format!("one at {}", only.id))),
        several => violations.push(Violation::Input(format!("{}", several.len()))),
    }
    let (_, but_last) = network.nodes().split_last().expect("there are nodes");
    let unread = but_last.iter().filter(|node| !read.contains(&node.id));
    violations.extend(unread.map(|node| Violation::Unread(node.id)));
}

fn infer_shapes(network: &Network, violations: &mut Vec<Violation>) -> BTreeMap<NodeId, Shape> {
    let mut shapes: BTreeMap<NodeId, Shape> = BTreeMap::new();
    let mut parameters = 0u64;
    for node in network.nodes() {
        // A node behind a broken one has no shapes to check.
        let known: Option<Vec<Shape>> =
            node.inputs.iter().map(|input| shapes.get(input).copied()).collect();
        let Some(inputs) = known else { continue };
        match node.op.output_shape(&inputs) {
            Ok(shape) if shape.elements() > MAX_ELEMENTS => {
                violations.push(Violation::Elements { node: node.id, shape });
            }
            Ok(shape) => {
                for (_, dimensions) in node.op.parameters(&inputs) {
                    let count =
                        dimensions.iter().fold(1u64, |n, side| n.saturating_mul(*side as u64));
                    parameters = parameters.saturating_add(count);
                }
                shapes.insert(node.id, shape);
            }
            Err(error) => violations.push(Violation::Shape { node: node.id, error }),
        }
    }
    if parameters > MAX_PARAMETERS {
        violations.push(Violation::Parameters(parameters));
    }
    let last = network.nodes().last().expect("there are nodes");
    match shapes.get(&last.id) {
        Some(Shape::Flat { .. }) | None => {}
        Some(&shape) => violations.push(Violation::Output { node: last.id, shape }),
    }
    shapes
}
