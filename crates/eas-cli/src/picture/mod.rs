//! A picture of a network: blocks of layers, with branches where branches are joined, and what repeats
//! told once. It is a value; `text`, `dot` and `svg` draw it.
//!
//! Blocks come from labels. Where there are none, a block is what works on one height and width. Batch
//! norms, activations and dropout follow nearly every layer: they are counted, and not drawn.

mod dot;
mod svg;
mod text;

use std::collections::{BTreeMap, BTreeSet};

use eas_ir::{Cost, Network, Node, NodeId, Op, Shape, Shapes, cost, node_cost};

pub(crate) use dot::dot;
pub(crate) use svg::svg;
pub(crate) use text::{COLUMNS, chain_words, text, words, wrapped};

/// The batch that memory is told for.
const BATCH: usize = 64;
/// Joins within branches of joins that are drawn as such; more would be illegible.
const DEEPEST: usize = 8;
/// The most layers that are looked for as a pattern that repeats.
const LONGEST: usize = 32;

/// What is drawn of a network.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Picture {
    /// The shape of an image.
    pub(crate) input: Shape,
    /// From the images to the logits.
    pub(crate) blocks: Vec<Block>,
    /// Convolutions and linear layers.
    pub(crate) depth: usize,
    /// Of all of it, with batches of 64 images.
    pub(crate) cost: Cost,
    /// How often each operation that isn't drawn stands in the network.
    pub(crate) undrawn: BTreeMap<&'static str, usize>,
}

/// Layers that belong together.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Block {
    /// Kind and number of its label, `conv0`; or `block 0` where it has none.
    pub(crate) name: String,
    /// The shape behind its last operation.
    pub(crate) output: Shape,
    /// What is drawn of it.
    pub(crate) chain: Chain,
    /// Of all its nodes, those that aren't drawn among them.
    pub(crate) cost: Cost,
}

/// Parts behind one another.
pub(crate) type Chain = Vec<Repeat>;

/// Parts that stand so many times behind one another.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Repeat {
    pub(crate) times: usize,
    pub(crate) parts: Vec<Part>,
}

/// What a chain is made of.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Part {
    /// An operation on what stands before it.
    Layer(Op),
    /// Branches from what stands before it, joined by an operation. An empty branch hands its input
    /// on.
    Join {
        /// The sum or concatenation.
        op: Op,
        /// In the order of its inputs.
        branches: Vec<Chain>,
    },
    /// Operations that are no branches apart from one another, in topological order.
    Web(Vec<Op>),
}

impl Picture {
    /// The picture of a network of these shapes.
    pub(crate) fn of(network: &Network, shapes: &Shapes) -> Self {
        let mut undrawn = BTreeMap::new();
        for node in network.nodes().iter().filter(|node| !is_drawn(&node.op)) {
            *undrawn.entry(node.op.name()).or_default() += 1;
        }
        undrawn.remove("input");
        Picture {
            input: shapes[network.nodes()[0].id],
            blocks: blocks(network, shapes),
            depth: network.depth(),
            cost: cost(network, shapes, BATCH),
            undrawn,
        }
    }
}

/// Whether an operation is drawn, and not only counted.
pub(crate) fn is_drawn(op: &Op) -> bool {
    match op {
        Op::Conv { .. }
        | Op::Linear { .. }
        | Op::MaxPool { .. }
        | Op::AveragePool { .. }
        | Op::GlobalPool
        | Op::Flatten
        | Op::Add
        | Op::Concat => true,
        Op::Input { .. } | Op::BatchNorm { .. } | Op::Relu | Op::Dropout { .. } => false,
    }
}

/// A block that is being put together.
struct Open<'a> {
    /// Kind and number of its label.
    label: Option<(&'a str, u32)>,
    /// Height and width of its first layer; nothing of those of a vector.
    area: Option<Option<(usize, usize)>>,
    block: Block,
    parts: Vec<Part>,
}

fn blocks(network: &Network, shapes: &Shapes) -> Vec<Block> {
    let nodes = network.nodes();
    let mut open: Vec<Open<'_>> = Vec::new();
    let mut unlabelled = 0;
    for piece in Walk::new(network).pieces() {
        let label = piece.nodes.iter().rev().find_map(|index| nodes[*index].label.as_ref());
        let label = label.map(|label| (label.kind.as_str(), label.block));
        let is_layer =
            |index: &usize| matches!(nodes[*index].op, Op::Conv { .. } | Op::Linear { .. });
        let output = shapes[nodes[*piece.nodes.last().expect("a piece has nodes")].id];
        let area = piece.nodes.iter().any(is_layer).then_some(match output {
            Shape::Image { height, width, .. } => Some((height, width)),
            Shape::Flat { .. } => None,
        });
        let goes_on = open.last().is_some_and(|open| match label {
            Some(_) => label == open.label,
            None => area.is_none() || open.area.is_none() || area == open.area,
        });
        if !goes_on {
            let name = match label {
                Some((kind, block)) => format!("{kind}{block}"),
                None => format!("block {unlabelled}"),
            };
            unlabelled += usize::from(label.is_none());
            let block = Block { name, output, chain: Vec::new(), cost: Cost::default() };
            open.push(Open { label, area, block, parts: Vec::new() });
        }
        let open = open.last_mut().expect("one was opened");
        open.area = open.area.or(area);
        open.block.output = output;
        let costs = piece.nodes.iter().map(|index| node_cost(&nodes[*index], shapes, BATCH));
        open.block.cost = costs.chain([open.block.cost]).sum();
        open.parts.extend(piece.part);
    }
    open.into_iter().map(|open| Block { chain: collapse(open.parts), ..open.block }).collect()
}

/// Tells what repeats once: from the front, whatever repetition covers most.
fn collapse(parts: Vec<Part>) -> Chain {
    let mut chain: Chain = Vec::new();
    let mut rest = parts.as_slice();
    while let Some(first) = rest.first() {
        let repeated = |period: usize| {
            let pattern = &rest[..period];
            let times = rest.chunks_exact(period).take_while(|chunk| *chunk == pattern).count();
            (period, times)
        };
        let repeats =
            (1..=LONGEST.min(rest.len() / 2)).map(repeated).filter(|(_, times)| *times > 1);
        // Of those that cover as much, the shortest pattern.
        let most = repeats.max_by_key(|(period, times)| (period * times, usize::MAX - period));
        match (most, chain.last_mut()) {
            (Some((period, times)), _) => {
                chain.push(Repeat { times, parts: rest[..period].to_vec() });
            }
            (None, Some(Repeat { times: 1, parts })) => parts.push(first.clone()),
            (None, _) => chain.push(Repeat { times: 1, parts: vec![first.clone()] }),
        }
        rest = &rest[most.map_or(1, |(period, times)| period * times)..];
    }
    chain
}

/// A part of a chain, and the indices of the nodes that it stands for, the last of them last.
struct Piece {
    part: Option<Part>,
    nodes: Vec<usize>,
}

/// Takes a network apart into a chain of layers and joins. Nodes are named by their index.
struct Walk<'a> {
    nodes: &'a [Node],
    inputs: Vec<Vec<usize>>,
    /// For each node the last one that all paths to it pass, itself apart; the input is its own.
    dominators: Vec<usize>,
    /// Those that have their place in the picture.
    placed: Vec<bool>,
}

impl<'a> Walk<'a> {
    fn new(network: &'a Network) -> Self {
        let nodes = network.nodes();
        let indices: BTreeMap<NodeId, usize> =
            nodes.iter().enumerate().map(|(index, node)| (node.id, index)).collect();
        let mut dominators = Vec::new();
        let mut inputs = Vec::new();
        for node in nodes {
            let read: Vec<usize> = node.inputs.iter().map(|input| indices[input]).collect();
            let common = |mut a: usize, mut b: usize| {
                while a != b {
                    let dominators: &[usize] = &dominators;
                    (a, b) = if a > b { (dominators[a], b) } else { (a, dominators[b]) };
                }
                a
            };
            let dominator = read.iter().copied().reduce(common).unwrap_or(0);
            dominators.push(dominator);
            inputs.push(read);
        }
        Walk { nodes, inputs, dominators, placed: vec![false; nodes.len()] }
    }

    /// All that stands behind the input.
    fn pieces(mut self) -> Vec<Piece> {
        let last = self.nodes.len() - 1;
        self.chain(0, last, 0).expect("what all paths pass lies between parts that share no node")
    }

    /// What stands behind `start` up to `end`, which all paths to `end` pass; nothing where a node of
    /// it has its place elsewhere.
    fn chain(&mut self, start: usize, end: usize, nested: usize) -> Option<Vec<Piece>> {
        let mut pieces = Vec::new();
        let mut at = end;
        while at != start {
            pieces.push(if self.inputs[at].len() > 1 {
                self.join(at, nested)?
            } else {
                self.place(&[at])?;
                let op = self.nodes[at].op;
                Piece { part: is_drawn(&op).then_some(Part::Layer(op)), nodes: vec![at] }
            });
            at = self.dominators[at];
        }
        pieces.reverse();
        Some(pieces)
    }

    /// A join with its branches, or a web where those aren't apart from one another.
    fn join(&mut self, at: usize, nested: usize) -> Option<Piece> {
        let start = self.dominators[at];
        let before = self.placed.clone();
        let inputs = self.inputs[at].clone();
        let mut branch = |input: &usize| self.chain(start, *input, nested + 1);
        let branches: Option<Vec<Vec<Piece>>> =
            (nested < DEEPEST).then(|| inputs.iter().map(&mut branch).collect()).flatten();
        let Some(branches) = branches else {
            self.placed = before;
            let nodes = self.between(start, at);
            self.place(&nodes)?;
            let ops = nodes.iter().map(|index| self.nodes[*index].op).filter(is_drawn);
            return Some(Piece { part: Some(Part::Web(ops.collect())), nodes });
        };
        self.place(&[at])?;
        let mut nodes: Vec<usize> =
            branches.iter().flatten().flat_map(|piece| &piece.nodes).copied().collect();
        nodes.push(at);
        let chain = |pieces: Vec<Piece>| {
            collapse(pieces.into_iter().filter_map(|piece| piece.part).collect())
        };
        let branches = branches.into_iter().map(chain).collect();
        Some(Piece { part: Some(Part::Join { op: self.nodes[at].op, branches }), nodes })
    }

    /// Gives nodes their place, unless one has it already.
    fn place(&mut self, nodes: &[usize]) -> Option<()> {
        let free = nodes.iter().all(|index| !self.placed[*index]);
        nodes.iter().for_each(|index| self.placed[*index] = true);
        free.then_some(())
    }

    /// Nodes on the way from `start` to `end`, `start` not among them.
    fn between(&self, start: usize, end: usize) -> Vec<usize> {
        let mut found = BTreeSet::from([end]);
        let mut open = vec![end];
        while let Some(index) = open.pop() {
            for input in &self.inputs[index] {
                if *input != start && found.insert(*input) {
                    open.push(*input);
                }
            }
        }
        found.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use eas_ir::Rng;

    use super::*;

    /// Convolutions of one width, each behind a node or two before it, and whatever nothing reads
    /// summed up: branches, and webs.
    fn random_network(rng: &mut Rng) -> Network {
        let mut network = Network::new();
        let shape = Shape::Image { channels: 2, height: 4, width: 4 };
        let mut nodes = vec![network.push(Op::Input { shape }, &[], None)];
        for _ in 0..rng.below(12) {
            let mut pick = || nodes[rng.below(nodes.len())];
            let (one, other) = (pick(), pick());
            nodes.push(match rng.below(3) {
                0 => network.push(Op::Add, &[one, other], None),
                1 => network.push(Op::Relu, &[one], None),
                _ => network.push(Op::conv(2, 1 + 2 * rng.below(2)), &[one], None),
            });
        }
        let consumers = network.consumer_map();
        let unread: Vec<NodeId> =
            nodes.into_iter().filter(|node| !consumers.contains_key(node)).collect();
        let last = match unread[..] {
            [only] => only,
            _ => network.push(Op::Add, &unread, None),
        };
        let pooled = network.push(Op::GlobalPool, &[last], None);
        network.push(Op::Linear { units: 2, bias: true }, &[pooled], None);
        network
    }

    /// How often each operation is drawn.
    fn count(chain: &Chain, times: usize, counts: &mut BTreeMap<&'static str, usize>) {
        for Repeat { times: own, parts } in chain {
            let times = times * own;
            for part in parts {
                let ops = match part {
                    Part::Layer(op) => std::slice::from_ref(op),
                    Part::Web(ops) => ops,
                    Part::Join { op, branches } => {
                        branches.iter().for_each(|branch| count(branch, times, counts));
                        std::slice::from_ref(op)
                    }
                };
                ops.iter().for_each(|op| *counts.entry(op.name()).or_default() += times);
            }
        }
    }

    #[test]
    fn every_node_is_drawn_or_counted_once_and_blocks_cost_what_the_network_costs() {
        let (mut joins, mut webs) = (0, 0);
        for seed in 0..500 {
            let network = random_network(&mut Rng::new(seed));
            let picture = Picture::of(&network, &network.verify().unwrap());
            let mut expected: BTreeMap<&str, usize> = BTreeMap::new();
            for node in network.nodes() {
                *expected.entry(node.op.name()).or_default() += 1;
            }
            let mut found = picture.undrawn.clone();
            found.insert("input", 1);
            picture.blocks.iter().for_each(|block| count(&block.chain, 1, &mut found));
            assert_eq!(found, expected, "seed {seed}: {picture:?}\n{network}");
            let blocks: Cost = picture.blocks.iter().map(|block| block.cost).sum();
            let found = (blocks.parameters, blocks.macs);
            assert_eq!(found, (picture.cost.parameters, picture.cost.macs), "seed {seed}");
            let drawn = format!("{picture:?}");
            joins += usize::from(drawn.contains("Join"));
            webs += usize::from(drawn.contains("Web"));
        }
        assert!(joins > 50 && webs > 50, "{joins} networks with joins, {webs} with webs");
    }

    #[test]
    fn what_repeats_is_told_once() {
        let check = |widths: &[usize], expected: &str| {
            let parts = widths.iter().map(|width| Part::Layer(Op::conv(*width, 1))).collect();
            let found = chain_words(&collapse(parts)).replace("conv 1x1 ", "");
            assert_eq!(found, expected, "{widths:?}");
        };
        check(&[], "");
        check(&[1, 2, 3], "1, 2, 3");
        check(&[1, 1, 2], "2 x 1, 2");
        check(&[3, 1, 2, 1, 2, 1, 2, 4], "3, 3 x [1, 2], 4");
        check(&[1, 1, 1, 1], "4 x 1");
        check(&[1, 2, 2, 1, 2, 2], "2 x [1, 2, 2]");
    }
}
