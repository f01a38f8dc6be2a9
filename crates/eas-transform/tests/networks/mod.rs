//! Small random networks of the shapes that edits must survive, and a space that admits them all.

use eas_ir::{Label, Network, NodeId, Op, Rng, Shape};
use eas_transform::{ConvNet, Limits, Problem, Residual, SearchSpace, Token, law};

/// A space of toy widths without a start network of its own.
#[derive(Debug, Default)]
pub(crate) struct Fixed {
    limits: Limits,
}

impl SearchSpace for Fixed {
    fn start(&self, _: &Problem) -> anyhow::Result<Network> {
        anyhow::bail!("tests bring their own networks")
    }

    fn widths(&self, _: &Network, _: NodeId) -> &[usize] {
        &[2, 3, 4, 6, 8, 10, 12]
    }

    fn kernels(&self) -> &[usize] {
        &[1, 3, 5]
    }

    fn limits(&self) -> &Limits {
        &self.limits
    }

    fn vocabulary(&self) -> Vec<String> {
        Vec::new()
    }

    fn tokens(&self, _: &Network) -> Vec<Token> {
        Vec::new()
    }

    fn miniature(&self, _: &mut Rng) -> anyhow::Result<Box<dyn SearchSpace>> {
        Ok(Box::new(Fixed::default()))
    }
}

fn width(rng: &mut Rng) -> usize {
    [2, 3, 4, 6][rng.below(4)]
}

fn input(network: &mut Network) -> NodeId {
    let shape = Shape::Image { channels: 3, height: 8, width: 8 };
    network.push(Op::Input { shape }, &[], None)
}

/// A plain network of the small preset's miniature.
pub(crate) fn plain(rng: &mut Rng) -> Network {
    let space = ConvNet::small().miniature(rng).unwrap();
    space.start(&law::problem()).unwrap()
}

/// A network of the residual space's miniature.
pub(crate) fn resnet(rng: &mut Rng) -> Network {
    let space = Residual::resnet20().miniature(rng).unwrap();
    space.start(&law::problem()).unwrap()
}

/// A residual network: convolution, two blocks whose branches are added, one of them with a
/// projection, and a depthwise convolution or a concatenation in a branch; with biases or without;
/// pooled or flattened before a hidden linear layer.
pub(crate) fn residual(rng: &mut Rng) -> Network {
    let mut network = Network::new();
    let mut last = input(&mut network);
    let mut channels = width(rng);
    let biased = rng.below(2) == 0;
    let conv = |filters, kernel| Op::Conv {
        filters,
        kernel,
        stride: 1,
        padding: kernel / 2,
        groups: 1,
        bias: biased,
    };
    let layer = |network: &mut Network, input: NodeId, op: Op, relu: bool, label: Label| {
        let mut last = network.push(op, &[input], Some(label.clone()));
        last = network.push(Op::batch_norm(), &[last], Some(label.clone()));
        if relu { network.push(Op::Relu, &[last], Some(label)) } else { last }
    };
    last = layer(&mut network, last, conv(channels, 3), true, Label::new("conv", 0, 0));
    for block in 1..3 {
        let label = |layer| Label::new("residual", block, layer);
        let inner = width(rng);
        let mut branch = layer(&mut network, last, conv(inner, 3), true, label(0));
        if rng.below(2) == 0 {
            let side = network.push(conv(width(rng), 1), &[last], Some(label(4)));
            branch = network.push(Op::Concat, &[side, branch, side], None);
        } else if rng.below(2) == 0 {
            let depthwise = Op::Conv {
                filters: inner,
                kernel: 3,
                stride: 1,
                padding: 1,
                groups: inner,
                bias: biased,
            };
            branch = layer(&mut network, branch, depthwise, true, label(1));
        }
        let shortcut = if rng.below(2) == 0 {
            channels = width(rng);
            network.push(conv(channels, 1), &[last], Some(label(3)))
        } else {
            last
        };
        branch = layer(&mut network, branch, conv(channels, 3), false, label(2));
        last = network.push(Op::Add, &[branch, shortcut], Some(label(2)));
        last = network.push(Op::Relu, &[last], None);
        last = network.push(Op::MaxPool { size: 3, stride: 2, padding: 1 }, &[last], None);
    }
    let flat = if rng.below(2) == 0 { Op::GlobalPool } else { Op::Flatten };
    last = network.push(flat, &[last], None);
    let hidden = Some(Label::new("linear", 3, 0));
    last = network.push(Op::Linear { units: 8, bias: biased }, &[last], hidden.clone());
    last = network.push(Op::Relu, &[last], hidden);
    let classifier = Some(Label::new("classifier", 4, 0));
    network.push(Op::Linear { units: 4, bias: true }, &[last], classifier);
    network
}

/// A dense network: two dense blocks with or without bottlenecks, a transition between them.
pub(crate) fn dense(rng: &mut Rng) -> Network {
    let mut network = Network::new();
    let mut last = input(&mut network);
    last = network.push(Op::conv(width(rng), 3), &[last], Some(Label::new("stem", 0, 0)));
    let bottleneck = rng.below(3) > 0;
    for block in 0..2 {
        for layer in 0..2 {
            let label = Some(Label::new("dense", block, layer));
            let growth = width(rng);
            let mut body = network.push(Op::batch_norm(), &[last], label.clone());
            body = network.push(Op::Relu, &[body], label.clone());
            if bottleneck {
                body = network.push(Op::conv(2 * growth, 1), &[body], label.clone());
                body = network.push(Op::batch_norm(), &[body], label.clone());
                body = network.push(Op::Relu, &[body], label.clone());
            }
            body = network.push(Op::conv(growth, 3), &[body], label.clone());
            last = network.push(Op::Concat, &[last, body], label);
        }
        if block == 0 {
            let label = Some(Label::new("transition", 0, 0));
            last = network.push(Op::batch_norm(), &[last], label.clone());
            last = network.push(Op::Relu, &[last], label.clone());
            last = network.push(Op::conv(width(rng), 1), &[last], label.clone());
            last = network.push(Op::AveragePool { size: 2, stride: 2 }, &[last], label);
        }
    }
    last = network.push(Op::batch_norm(), &[last], None);
    last = network.push(Op::Relu, &[last], None);
    last = network.push(Op::GlobalPool, &[last], None);
    network.push(Op::Linear { units: 4, bias: true }, &[last], None);
    network
}
