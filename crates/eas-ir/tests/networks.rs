//! Random valid networks and models, small enough for the reference evaluator.

use std::collections::BTreeMap;

use eas_ir::{
    Images, Label, Model, Network, NodeId, Op, Rng, Role, Shape, Weights, parameter_list, tensor,
};

/// A network being grown at its tip.
struct Growth<'a> {
    network: Network,
    shapes: BTreeMap<NodeId, Shape>,
    tip: NodeId,
    rng: &'a mut Rng,
}

/// A random valid network: blocks of every kind there is, or linear layers alone.
pub(crate) fn random_network(rng: &mut Rng) -> Network {
    let channels = 1 + rng.below(4);
    let flat = rng.below(6) == 0;
    let shape = if flat {
        Shape::Flat { features: 2 + channels }
    } else {
        Shape::Image { channels, height: 6 + rng.below(4), width: 6 + rng.below(4) }
    };
    let mut network = Network::new();
    let tip = network.push(Op::Input { shape }, &[], None);
    let mut growth = Growth { network, shapes: BTreeMap::from([(tip, shape)]), tip, rng };
    for block in 0..1 + growth.rng.below(4) {
        if flat { growth.flat_block(block as u32) } else { growth.image_block(block as u32) }
    }
    growth.head(flat)
}

impl Growth<'_> {
    fn shape(&self) -> Shape {
        self.shapes[&self.tip]
    }

    fn join(&mut self, op: Op, inputs: &[NodeId], label: Option<Label>) {
        let shapes: Vec<Shape> = inputs.iter().map(|input| self.shapes[input]).collect();
        self.tip = self.network.push(op, inputs, label);
        self.shapes.insert(self.tip, op.output_shape(&shapes).expect("the generator knows shapes"));
    }

    fn then(&mut self, op: Op) {
        self.join(op, &[self.tip], None);
    }

    fn coin(&mut self) -> bool {
        self.rng.below(2) == 1
    }

    fn normalise(&mut self) {
        if self.coin() {
            let epsilon = if self.coin() { 1e-5 } else { 1e-3 };
            self.then(Op::BatchNorm { epsilon });
        }
        if self.coin() {
            self.then(Op::Relu);
        }
    }

    fn conv(&mut self, filters: usize, label: Option<Label>) {
        let kernel = [1, 3, 5][self.rng.below(3)];
        let bias = self.coin();
        let op = Op::Conv { filters, kernel, stride: 1, padding: kernel / 2, groups: 1, bias };
        self.join(op, &[self.tip], label);
    }

    fn image_block(&mut self, block: u32) {
        let start = self.tip;
        let channels = self.shape().channels();
        let label = |kind| Some(Label::new(kind, block, 0));
        match self.rng.below(8) {
            0 => {
                let filters = 1 + self.rng.below(5);
                self.conv(filters, label("conv"));
                self.normalise();
            }
            1 => {
                self.conv(channels, label("residual"));
                self.normalise();
                self.join(Op::Add, &[start, self.tip], None);
            }
            2 => {
                self.normalise();
                let growth_rate = 1 + self.rng.below(3);
                self.conv(growth_rate, label("dense"));
                self.join(Op::Concat, &[start, self.tip], None);
            }
            3 => {
                let divisors: Vec<usize> =
                    (1..=channels).filter(|d| channels.is_multiple_of(*d)).collect();
                let groups = divisors[self.rng.below(divisors.len())];
                let filters = groups * (1 + self.rng.below(2));
                let bias = self.coin();
                self.then(Op::Conv { filters, kernel: 3, stride: 1, padding: 1, groups, bias });
                self.normalise();
            }
            4 => {
                let filters = 1 + self.rng.below(4);
                let padding = self.rng.below(2);
                self.shrink(Op::Conv {
                    filters,
                    kernel: 3,
                    stride: 2,
                    padding,
                    groups: 1,
                    bias: false,
                });
            }
            5 => self.shrink(Op::MaxPool { size: 3, stride: 2, padding: 1 }),
            6 => self.shrink(Op::AveragePool { size: 2, stride: 2 }),
            _ => {
                let rate = self.rng.unit() as f32 * 0.9;
                self.then(Op::Dropout { rate });
            }
        }
    }

    /// Adds an operation that makes the image smaller, where it still is large enough for it.
    fn shrink(&mut self, op: Op) {
        if op.output_shape(&[self.shape()]).is_ok() {
            self.then(op);
        }
    }

    fn flat_block(&mut self, block: u32) {
        let start = self.tip;
        let features = self.shape().channels();
        let bias = self.coin();
        match self.rng.below(3) {
            0 => {
                let units = 2 + self.rng.below(5);
                let label = Label::new("linear", block, 0);
                self.join(Op::Linear { units, bias }, &[start], Some(label));
                self.normalise();
            }
            1 => {
                self.then(Op::Linear { units: features, bias });
                self.normalise();
                self.join(Op::Add, &[start, self.tip], None);
            }
            _ => {
                self.then(Op::Linear { units: 2, bias });
                self.join(Op::Concat, &[self.tip, start, self.tip], None);
            }
        }
    }

    fn head(mut self, flat: bool) -> Network {
        if !flat {
            let op = if self.coin() { Op::GlobalPool } else { Op::Flatten };
            self.then(op);
        }
        if self.coin() {
            let units = 3 + self.rng.below(4);
            self.then(Op::Linear { units, bias: false });
            self.normalise();
        }
        let classes = 2 + self.rng.below(3);
        self.then(Op::Linear { units: classes, bias: true });
        self.network
    }
}

/// A model of this network with every parameter random, running statistics included.
pub(crate) fn random_model(network: Network, rng: &mut Rng) -> Model {
    let shapes = network.verify().expect("the network is valid");
    let weights: Weights = parameter_list(&network, &shapes)
        .into_iter()
        .map(|(parameter, shape)| {
            let mut draw = || match parameter.role {
                Role::Weight => rng.normal() * 0.5,
                Role::Bias | Role::Beta | Role::Mean => rng.normal() * 0.3,
                Role::Gamma | Role::Variance => 0.5 + rng.unit(),
            };
            let values = (0..shape.iter().product()).map(|_| draw() as f32).collect();
            (parameter, tensor(&shape, values))
        })
        .collect();
    Model::new(network, weights).expect("the weights fit")
}

/// Random images of the model's input shape.
pub(crate) fn random_images(model: &Model, batch: usize, rng: &mut Rng) -> Images {
    let (channels, height, width) = match model.input_shape() {
        Shape::Image { channels, height, width } => (channels, height, width),
        Shape::Flat { features } => (features, 1, 1),
    };
    Images::from_shape_simple_fn((batch, channels, height, width), || rng.normal() as f32)
}
