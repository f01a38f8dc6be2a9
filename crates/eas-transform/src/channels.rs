//! Channels followed through a network: which layers share them, and what widening does to all that
//! read them.

use std::collections::BTreeMap;

use anyhow::{Context, bail, ensure};
use eas_ir::{Network, Node, NodeId, Op, ParamId, Rng, Role, Shapes};

use crate::options::LARGEST;
use crate::patch::{Derive, GradientMap, Patch};

/// Layers whose outputs are one set of channels, because additions tie them: they are widened
/// together or not at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChannelGroup {
    /// The convolutions or linear layers that produce the channels, in topological order.
    pub producers: Vec<NodeId>,
    /// How many channels they are.
    pub width: usize,
}

/// Every group of channels that may be widened, in topological order of the first producer. Left out
/// are groups tied to the input or to a concatenation, groups that reach the logits unchanged, and
/// groups with a grouped convolution that isn't depthwise.
pub fn channel_groups(network: &Network, shapes: &Shapes) -> Vec<ChannelGroup> {
    let mut group_of: BTreeMap<NodeId, usize> = BTreeMap::new();
    let mut groups: Vec<Vec<NodeId>> = Vec::new();
    for node in network.nodes() {
        let inputs: Vec<usize> = node.inputs.iter().map(|input| group_of[input]).collect();
        let group = match node.op {
            Op::BatchNorm { .. }
            | Op::Relu
            | Op::MaxPool { .. }
            | Op::AveragePool { .. }
            | Op::GlobalPool
            | Op::Dropout { .. } => inputs[0],
            Op::Conv { .. } if is_depthwise(&node.op, shapes[node.inputs[0]].channels()) => {
                inputs[0]
            }
            Op::Add => {
                let first = inputs[0];
                for other in &inputs[1..] {
                    merge(&mut groups, &mut group_of, first, *other);
                }
                first
            }
            Op::Conv { .. } | Op::Linear { .. } => {
                groups.push(vec![node.id]);
                groups.len() - 1
            }
            Op::Input { .. } | Op::Flatten | Op::Concat => {
                groups.push(Vec::new());
                groups.len() - 1
            }
        };
        group_of.insert(node.id, group);
    }
    let output = network.output();
    let simple = !network.nodes().iter().any(|node| match node.op {
        Op::Add => true,
        Op::Conv { groups, .. } => groups > 1,
        _ => false,
    }) && output.is_some_and(|node| matches!(node.op, Op::Linear { .. }));
    let is_open = |group: &ChannelGroup| {
        if simple {
            // Nothing can refuse replicas but the logits. To follow channels costs as much as all else.
            return !group.producers.iter().any(|id| output.is_some_and(|last| last.id == *id));
        }
        // Whether all that read the channels can follow, one replica more tells.
        let index: Vec<usize> = (0..group.width).chain([0]).collect();
        let maps = group.producers.iter().map(|id| (*id, index.clone())).collect();
        follow(network, network, &maps).is_ok()
    };
    let mut open: Vec<ChannelGroup> = groups
        .into_iter()
        .filter(|producers| !producers.is_empty())
        .map(|mut producers| {
            producers.sort_by_key(|id| position(network, *id));
            ChannelGroup { width: shapes[producers[0]].channels(), producers }
        })
        .filter(is_open)
        .collect();
    open.sort_by_key(|group| position(network, group.producers[0]));
    open
}

fn position(network: &Network, id: NodeId) -> Option<usize> {
    network.nodes().iter().position(|node| node.id == id)
}

fn is_depthwise(op: &Op, channels: usize) -> bool {
    matches!(*op, Op::Conv { filters, groups, .. }
        if groups > 1 && groups == channels && filters == channels)
}

fn merge(
    groups: &mut [Vec<NodeId>],
    group_of: &mut BTreeMap<NodeId, usize>,
    into: usize,
    from: usize,
) {
    if into == from {
        return;
    }
    let producers = std::mem::take(&mut groups[from]);
    groups[into].extend(producers);
    group_of.values_mut().filter(|group| **group == from).for_each(|group| *group = into);
}

/// An index map that keeps `width` channels and adds replicas of channels drawn with replacement
/// (Net2WiderNet, Chen et al. 2016, section 2.2).
///
/// # Errors
/// A width that isn't larger than the present one, or too large for any layer.
pub fn replicate(width: usize, to: usize, rng: &mut Rng) -> anyhow::Result<Vec<usize>> {
    ensure!(to > width, "expected a width above the present {width}, found {to}");
    ensure!(to <= LARGEST, "expected a width of at most {LARGEST}, found {to}");
    Ok((0..width).chain((width..to).map(|_| rng.below(width))).collect())
}

/// What the channels are that a layer gains.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Gained {
    /// Replicas of old ones, all of which share what reads them (Net2WiderNet).
    Replicas {
        /// Deviation of the noise on replicas, as a ratio of the source weights' deviation.
        noise: f64,
    },
    /// Filters as a new network has them, batch norms and biases included, which what reads them
    /// multiplies by 0: nothing else of the network notices them until training does. Depthwise kernels
    /// start as copies of that of the channel that the map names.
    Fresh {
        /// The seed of the filters.
        seed: u64,
    },
}

/// The patch from a parent to a child in which some nodes have more output channels than the
/// parent's.
///
/// `child` has the new structure; `maps` says, for each node that is widened or newly stands for an
/// old one, which old channel each of its channels is a copy of. All that reads those channels
/// follows: batch norms gather their parameters, consumers gather their kernels' input rows and
/// divide them by the number of copies, or leave what was gained out. For new nodes the caller adds
/// where their weights come from.
///
/// # Errors
/// Maps that additions or grouped convolutions can't follow, that lose a channel, or that change the
/// logits.
pub fn rewire(
    parent: &Network,
    child: Network,
    maps: &BTreeMap<NodeId, Vec<usize>>,
    gained: Gained,
) -> anyhow::Result<Patch> {
    let followed = follow(parent, &child, maps)?;
    let mut child = child;
    let mut weights = BTreeMap::new();
    for old in parent.nodes() {
        let Some(node) = child.node(old.id) else { continue };
        let (inputs, output) = (known_inputs(&followed, node)?, &followed[&node.id]);
        let mut derive = |role, derived: Derive| {
            weights.insert(ParamId::new(old.id, role), derived);
        };
        let copy = |role, copies: &Copies| {
            let ones = vec![1.0; copies.index.len()];
            let known = Derive::Old(ParamId::new(old.id, role));
            match gained {
                Gained::Replicas { .. } => known.gather(0, copies.index.clone(), ones),
                Gained::Fresh { .. } => {
                    let shape = vec![copies.index.len() - copies.old];
                    copies.with_gained(known, Derive::Fill { shape, value: initial(role) })
                }
            }
        };
        match old.op {
            Op::BatchNorm { .. } if inputs[0].changed() => {
                for role in [Role::Gamma, Role::Beta, Role::Mean, Role::Variance] {
                    derive(role, copy(role, inputs[0]));
                }
            }
            Op::Conv { bias, .. } | Op::Linear { bias, .. } => {
                let depthwise = is_depthwise(&old.op, inputs[0].old);
                let weight = ParamId::new(old.id, Role::Weight);
                let mut value = Derive::Old(weight);
                if inputs[0].changed() && !depthwise {
                    let shares = match gained {
                        Gained::Replicas { .. } => inputs[0].shares(),
                        Gained::Fresh { .. } => inputs[0].originals(),
                    };
                    value = value.gather(1, inputs[0].index.clone(), shares);
                }
                if output.changed() {
                    let copies = |value: Derive| {
                        value.gather(0, output.index.clone(), vec![1.0; output.index.len()])
                    };
                    value = match gained {
                        Gained::Replicas { .. } | Gained::Fresh { .. } if depthwise => {
                            copies(value)
                        }
                        Gained::Replicas { noise } => {
                            let replicas = (output.old..output.index.len()).collect();
                            copies(value).noisy(noise, weight, Some((0, replicas)))
                        }
                        Gained::Fresh { seed } => {
                            let count = output.index.len() - output.old;
                            let mut rng = Rng::new(seed).split(&old.id.to_string());
                            let channels = inputs[0].index.len();
                            let fresh = fresh_filters(&old.op, channels, count, rng.next_u64());
                            output.with_gained(value, fresh)
                        }
                    };
                    if bias {
                        derive(Role::Bias, copy(Role::Bias, output));
                    }
                    set_width(&mut child, old.id, output.index.len(), depthwise);
                }
                if value != Derive::Old(weight) {
                    derive(Role::Weight, value);
                }
            }
            Op::BatchNorm { .. }
            | Op::Input { .. }
            | Op::Relu
            | Op::MaxPool { .. }
            | Op::AveragePool { .. }
            | Op::GlobalPool
            | Op::Flatten
            | Op::Dropout { .. }
            | Op::Add
            | Op::Concat => {}
        }
    }
    let gradient = match gained {
        Gained::Replicas { .. } => GradientMap::Exact,
        // What reads a fresh filter has a gradient that the parent knows nothing of.
        Gained::Fresh { .. } => GradientMap::Approximate,
    };
    Ok(Patch { network: child, weights, gradient, calibrate: Vec::new() })
}

/// What a parameter of one number a channel is in a new network.
fn initial(role: Role) -> f32 {
    match role {
        Role::Gamma | Role::Variance => 1.0,
        Role::Weight | Role::Bias | Role::Beta | Role::Mean => 0.0,
    }
}

/// Filters or units that a layer gains, as in any new network (He et al. 2015).
fn fresh_filters(op: &Op, channels: usize, count: usize, seed: u64) -> Derive {
    let mut shape = vec![count, channels];
    if let Op::Conv { kernel, .. } = op {
        shape.extend([*kernel, *kernel]);
    }
    let fan_in: usize = shape[1..].iter().product();
    Derive::Normal { shape, deviation: (2.0 / fan_in as f64).sqrt(), seed }
}

fn set_width(network: &mut Network, id: NodeId, width: usize, depthwise: bool) {
    if let Some(node) = network.node_mut(id) {
        match &mut node.op {
            Op::Conv { filters, groups, .. } => {
                *filters = width;
                if depthwise {
                    *groups = width;
                }
            }
            Op::Linear { units, .. } => *units = width,
            _ => unreachable!("only layers have a width"),
        }
    }
}

/// A node's channels in the child, as copies of its channels in the parent.
#[derive(Clone, Debug, PartialEq)]
struct Copies {
    /// Channels in the parent.
    old: usize,
    /// For each channel in the child, the one in the parent.
    index: Vec<usize>,
}

impl Copies {
    fn unchanged(channels: usize) -> Self {
        Copies { old: channels, index: (0..channels).collect() }
    }

    fn changed(&self) -> bool {
        self.index.len() != self.old || self.index.iter().enumerate().any(|(new, old)| new != *old)
    }

    /// One for each channel's first copy, 0 for the others.
    fn originals(&self) -> Vec<f32> {
        let mut seen = vec![false; self.old];
        let first = |old: &usize| !std::mem::replace(&mut seen[*old], true);
        self.index.iter().map(first).map(|first| if first { 1.0 } else { 0.0 }).collect()
    }

    /// A parameter whose entries are the old ones at each channel's first copy, and those of `fresh`,
    /// in order, at the others.
    fn with_gained(&self, old: Derive, fresh: Derive) -> Derive {
        let (mut seen, mut gained) = (vec![false; self.old], self.old..);
        let place = |old: &usize| match std::mem::replace(&mut seen[*old], true) {
            true => gained.next().unwrap_or(*old),
            false => *old,
        };
        let index = self.index.iter().map(place).collect();
        let parts = Derive::Concat { axis: 0, parts: vec![old, fresh] };
        parts.gather(0, index, vec![1.0; self.index.len()])
    }

    /// One over the number of copies of each channel's original.
    fn shares(&self) -> Vec<f32> {
        let mut copies = vec![0u32; self.old];
        self.index.iter().for_each(|old| copies[*old] += 1);
        self.index.iter().map(|old| 1.0 / copies[*old] as f32).collect()
    }
}

/// The copies at every node of the child that the parent has or a map names.
fn follow(
    parent: &Network,
    child: &Network,
    maps: &BTreeMap<NodeId, Vec<usize>>,
) -> anyhow::Result<BTreeMap<NodeId, Copies>> {
    let shapes = parent.verify().context("the parent breaks rules")?;
    let mut followed: BTreeMap<NodeId, Copies> = BTreeMap::new();
    for node in child.nodes() {
        let old = parent.node(node.id);
        let copies = if let Some(index) = maps.get(&node.id) {
            let grouped = matches!(node.op, Op::Conv { groups, .. } if groups > 1);
            ensure!(
                !grouped,
                "{} is a grouped convolution, whose channels can't be mapped",
                node.id
            );
            let channels = match old {
                Some(_) => shapes[node.id].channels(),
                None => index.iter().max().map_or(0, |last| last + 1),
            };
            let mut missing = vec![true; channels];
            for entry in index {
                *missing.get_mut(*entry).context("a map beyond the old channels")? = false;
            }
            ensure!(!missing.contains(&true), "{}: the map loses a channel", node.id);
            Copies { old: channels, index: index.clone() }
        } else if let Some(old) = old {
            let inputs = known_inputs(&followed, node)?;
            let old_inputs: Vec<_> = old.inputs.iter().map(|input| shapes[*input]).collect();
            for (new, shape) in inputs.iter().zip(&old_inputs) {
                ensure!(new.old == shape.channels(), "{} reads something else now", node.id);
            }
            pass(node.id, &old.op, &inputs, &old_inputs, shapes[node.id].channels())?
        } else {
            // A new node: its weights and its readers are the transform's business.
            continue;
        };
        followed.insert(node.id, copies);
    }
    let logits = child.output().and_then(|output| followed.get(&output.id));
    ensure!(!logits.is_some_and(Copies::changed), "the logits would be replicated, too");
    Ok(followed)
}

/// The copies that a node reads.
fn known_inputs<'a>(
    followed: &'a BTreeMap<NodeId, Copies>,
    node: &Node,
) -> anyhow::Result<Vec<&'a Copies>> {
    let inputs: Option<_> = node.inputs.iter().map(|input| followed.get(input)).collect();
    inputs
        .with_context(|| format!("{} reads a new node that doesn't stand for an old one", node.id))
}

/// What an operation makes of the copies at its inputs.
fn pass(
    id: NodeId,
    op: &Op,
    inputs: &[&Copies],
    shapes: &[eas_ir::Shape],
    channels: usize,
) -> anyhow::Result<Copies> {
    Ok(match op {
        Op::Input { .. } | Op::Linear { .. } => Copies::unchanged(channels),
        Op::Conv { groups: 1, .. } => Copies::unchanged(channels),
        Op::Conv { .. } if is_depthwise(op, inputs[0].old) => inputs[0].clone(),
        Op::Conv { .. } if inputs[0].changed() => {
            bail!("{id} is a grouped convolution, which can't read replicated channels")
        }
        Op::Conv { .. } => Copies::unchanged(channels),
        Op::BatchNorm { .. }
        | Op::Relu
        | Op::MaxPool { .. }
        | Op::AveragePool { .. }
        | Op::GlobalPool
        | Op::Dropout { .. } => inputs[0].clone(),
        Op::Flatten => {
            let area = shapes[0].area();
            let pixels = |channel: &usize| (channel * area)..(channel * area + area);
            let index = inputs[0].index.iter().flat_map(pixels).collect();
            Copies { old: channels, index }
        }
        Op::Add => {
            ensure!(
                inputs.iter().all(|input| *input == inputs[0]),
                "{id} adds channels that would no longer match"
            );
            inputs[0].clone()
        }
        Op::Concat => {
            let mut joined = Copies { old: 0, index: Vec::new() };
            for input in inputs {
                joined.index.extend(input.index.iter().map(|old| joined.old + old));
                joined.old += input.old;
            }
            joined
        }
    })
}
