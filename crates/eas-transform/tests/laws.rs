//! The law over the built-in transforms and spaces, and bugs planted to see it catch them.

use crate::networks::{self, Fixed, dense, residual, resnet};
use eas_ir::{
    Gradients, Label, Model, Network, NodeId, Op, ParamId, Reference, Rng, Role, Shape, Tensor,
    Weights,
};
use eas_transform::law::{self, Report};
use eas_transform::{
    AddBlock, Candidate, ConvNet, Decision, Deepen, Derive, GradientMap, GrowKernel, NewFilters,
    Patch, Replicate, Residual, SearchSpace, Skip, Target, Transform, Transforms, Widen,
    WidenGrowth, channel_groups, grow,
};

fn fresh() -> Widen {
    Widen { filters: NewFilters::Fresh, ..Widen::default() }
}

fn plain() -> Transforms {
    Transforms::new([
        ("deepen".to_owned(), Box::new(Deepen::default()) as Box<dyn Transform>),
        ("grow_kernel".to_owned(), Box::new(GrowKernel::default())),
        ("skip".to_owned(), Box::new(Skip::default())),
        ("widen".to_owned(), Box::new(Widen::default())),
        ("widen_fresh".to_owned(), Box::new(fresh())),
    ])
}

/// All that a residual network may undergo.
pub(crate) fn residual_edits() -> Transforms {
    Transforms::new([
        ("add_block".to_owned(), Box::new(AddBlock::default()) as Box<dyn Transform>),
        ("deepen".to_owned(), Box::new(Deepen::default())),
        ("grow_kernel".to_owned(), Box::new(GrowKernel::default())),
        ("skip".to_owned(), Box::new(Skip::default())),
        ("widen".to_owned(), Box::new(Widen::default())),
        ("widen_fresh".to_owned(), Box::new(fresh())),
    ])
}

fn dense_edits() -> Transforms {
    Transforms::new([
        ("replicate".to_owned(), Box::new(Replicate::default()) as Box<dyn Transform>),
        ("widen_growth".to_owned(), Box::new(WidenGrowth::default())),
    ])
}

/// Networks of each preset, each with a chain of ten.
pub(crate) const NETWORKS: u64 = 1000;

#[test]
fn edits_preserve_the_function_in_the_papers_space() {
    let report = law::check_preserves(&plain(), &ConvNet::paper(), 0..NETWORKS).unwrap();
    assert_sound(report, NETWORKS as usize);
}

#[test]
fn edits_preserve_the_function_in_the_small_space() {
    let report = law::check_preserves(&plain(), &ConvNet::small(), NETWORKS..2 * NETWORKS).unwrap();
    assert_sound(report, NETWORKS as usize);
}

#[test]
fn edits_preserve_the_function_in_the_residual_space() {
    let seeds = 2 * NETWORKS..3 * NETWORKS;
    let report = law::check_preserves(&residual_edits(), &Residual::resnet20(), seeds).unwrap();
    assert_sound(report, NETWORKS as usize);
}

pub(crate) fn assert_sound(report: Report, networks: usize) {
    assert_eq!(report.networks, networks);
    assert!(report.edits > 10 * networks, "{report:?}");
    assert!(report.not_testable * 10 < report.edits, "{report:?}");
    assert!(report.worst < 1e-5, "{report:?}");
}

fn check_built(
    transforms: &Transforms,
    build: fn(&mut Rng) -> Network,
    seeds: u64,
) -> Result<Report, law::Broken> {
    let mut report = Report::default();
    for seed in 0..seeds {
        let rng = Rng::new(seed);
        let network = build(&mut rng.split("network"));
        let model = law::random_model(network, &rng).unwrap();
        law::check_model(transforms, &Fixed::default(), &model, seed, &mut report)?;
    }
    Ok(report)
}

#[test]
fn dense_edits_preserve_the_function_through_concats_and_transitions() {
    let report = check_built(&dense_edits(), dense, 40).unwrap();
    assert_sound(report, 40);
}

#[test]
fn edits_preserve_the_function_through_additions_and_concats() {
    let report = check_built(&plain(), residual, 60).unwrap();
    assert_sound(report, 60);
}

#[test]
fn edits_beyond_any_network_are_refused() {
    let space = ConvNet::small().miniature(&mut Rng::new(1)).unwrap();
    let mut network = space.start(&law::problem()).unwrap();
    for label in network.labels_mut().filter(|label| label.block == 1) {
        label.layer = u32::MAX;
    }
    let last = network.nodes().iter().find(|node| {
        matches!(node.op, Op::Conv { .. })
            && node.label.as_ref().is_some_and(|label| label.layer == u32::MAX)
    });
    let last = last.unwrap().id;
    for (edit, expected) in [
        (format!("widen n1 to {}", usize::MAX), "expected a width of at most 65536"),
        ("widen n1 to 1000000000".to_owned(), "expected a width of at most 65536"),
        (format!("deepen {last} with kernel 3"), "no layer number is left behind it"),
    ] {
        let edit = edit.parse().unwrap();
        let error = plain().patch(&network, &edit, &mut Rng::new(1)).unwrap_err();
        assert!(format!("{error:#}").contains(expected), "{edit}: {error:#}");
    }
}

#[test]
fn an_inserted_layer_has_a_bias_where_the_layer_before_it_has_one() {
    for biased in [false, true] {
        let mut network = Network::new();
        let shape = Shape::Image { channels: 3, height: 4, width: 4 };
        let input = network.push(Op::Input { shape }, &[], None);
        let label = Some(Label::new("conv", 0, 0));
        let op = Op::Conv { filters: 4, kernel: 3, stride: 1, padding: 1, groups: 1, bias: biased };
        let conv = network.push(op, &[input], label.clone());
        let relu = network.push(Op::Relu, &[conv], label);
        let flat = network.push(Op::Flatten, &[relu], None);
        network.push(Op::Linear { units: 4, bias: true }, &[flat], None);
        let edit = format!("deepen {conv} with kernel 1").parse().unwrap();
        let child = plain().patch(&network, &edit, &mut Rng::new(1)).unwrap().network;
        let inserted = child.nodes().iter().find(|node| node.inputs == [relu]).unwrap();
        assert!(matches!(inserted.op, Op::Conv { bias, .. } if bias == biased), "{child}");
        let mut report = Report::default();
        let model = law::random_model(network, &Rng::new(1)).unwrap();
        law::check_model(&plain(), &Fixed::default(), &model, 1, &mut report).unwrap();
    }
}

#[test]
fn exact_momentum_maps_carry_the_gradient() {
    let mut exact = 0.0f64;
    let mut approximate = 0.0f64;
    let all = [
        (plain(), residual as fn(&mut Rng) -> Network),
        (residual_edits(), resnet),
        (dense_edits(), dense),
    ];
    for (transforms, build) in &all {
        for seed in 0..12 {
            let rng = Rng::new(seed);
            let model = law::random_model(build(&mut rng.split("network")), &rng).unwrap();
            let space = Fixed::default();
            let worst = law::check_momentum(transforms, &space, &model, seed).unwrap();
            exact = exact.max(worst.0);
            approximate = approximate.max(worst.1);
        }
    }
    for seed in 0..12 {
        let rng = Rng::new(seed);
        let space = ConvNet::small().miniature(&mut rng.split("space")).unwrap();
        let model = law::random_model(space.start(&law::problem()).unwrap(), &rng).unwrap();
        let worst = law::check_momentum(&plain(), space.as_ref(), &model, seed).unwrap();
        exact = exact.max(worst.0);
        approximate = approximate.max(worst.1);
    }
    assert!(exact > 0.0 && exact < 1e-4, "exact maps are off by {exact:.1e}");
    // Replication shares one gradient between two kernels: declared, and seen.
    assert!(approximate > 1e-3, "approximate maps are off by {approximate:.1e}");
}

/// A transform whose patches are spoilt on the way out.
#[derive(Debug)]
struct Spoilt<T: Transform> {
    sound: T,
    spoil: fn(&Network, NodeId, &mut Patch),
}

impl<T: Transform> Transform for Spoilt<T> {
    fn decision(&self, space: &dyn SearchSpace) -> Decision {
        self.sound.decision(space)
    }

    fn edits(&self, network: &Network, space: &dyn SearchSpace) -> Vec<Candidate> {
        self.sound.edits(network, space)
    }

    fn patch(
        &self,
        network: &Network,
        site: NodeId,
        target: Target,
        rng: &mut Rng,
    ) -> anyhow::Result<Patch> {
        let mut patch = self.sound.patch(network, site, target, rng)?;
        (self.spoil)(network, site, &mut patch);
        Ok(patch)
    }
}

/// What is done to a gather: of a parameter, along an axis, its index and scale.
pub(crate) type Change<'a> = dyn Fn(ParamId, usize, &mut Vec<usize>, &mut Vec<f32>) + 'a;

/// Changes every gather.
pub(crate) fn each_gather(patch: &mut Patch, change: &Change<'_>) {
    fn walk(id: ParamId, derive: &mut Derive, change: &Change<'_>) {
        match derive {
            Derive::Gather { of, axis, index, scale } => {
                change(id, *axis, index, scale);
                walk(id, of, change);
            }
            Derive::Concat { parts, .. } => {
                parts.iter_mut().for_each(|part| walk(id, part, change))
            }
            Derive::Noisy { of, .. } => walk(id, of, change),
            Derive::Old(_)
            | Derive::Identity { .. }
            | Derive::Fill { .. }
            | Derive::Normal { .. } => {}
        }
    }
    patch.weights.iter_mut().for_each(|(id, derive)| walk(*id, derive, change));
}

/// The last replica of a role comes from another channel than all else of it.
pub(crate) fn misgather(patch: &mut Patch, role: Role) {
    each_gather(patch, &|id, axis, index, _| {
        if id.role == role && axis == 0 {
            let first = index[0];
            if let Some(last) = index.last_mut() {
                *last = if *last == first { *last ^ 1 } else { first };
            }
        }
    });
}

/// Every new parameter of a role is filled with a value.
pub(crate) fn fill(patch: &mut Patch, wanted: Role, other: f32) {
    for (id, derive) in &mut patch.weights {
        if let (true, Derive::Fill { value, .. }) = (id.role == wanted, derive) {
            *value = other;
        }
    }
}

/// An identity of another order: each channel gives the next one.
fn shift_identity(patch: &mut Patch) {
    for derive in patch.weights.values_mut() {
        if let Derive::Noisy { of, .. } = derive
            && let Derive::Identity { shape } = of.as_ref()
        {
            let channels = shape[0];
            let index = (0..channels).map(|channel| (channel + 1) % channels).collect();
            *derive = of.as_ref().clone().gather(0, index, vec![1.0; channels]);
        }
    }
}

pub(crate) fn caught<T: Transform + 'static>(
    bug: &str,
    sound: T,
    build: fn(&mut Rng) -> Network,
    spoil: fn(&Network, NodeId, &mut Patch),
) {
    let spoilt = Transforms::new([("spoilt".to_owned(), Box::new(Spoilt { sound, spoil }) as _)]);
    let broken = check_built(&spoilt, build, 20).expect_err(bug);
    // A bug whose child is no network at all would be caught without the law.
    assert!(broken.why.contains("function CHANGED"), "{bug}: {broken}");
}

#[test]
fn planted_bugs_are_caught() {
    use networks::plain as convnet;
    caught("the share of copies is left out", Widen::default(), convnet, |_, _, patch| {
        each_gather(patch, &|_, axis, _, scale| {
            if axis == 1 {
                scale.fill(1.0);
            }
        });
    });
    caught("the share is taken twice", Widen::default(), convnet, |_, _, patch| {
        each_gather(patch, &|_, axis, _, scale| {
            if axis == 1 {
                scale.iter_mut().for_each(|scale| *scale *= *scale);
            }
        });
    });
    caught("the variance isn't gathered", Widen::default(), convnet, |_, _, patch| {
        misgather(patch, Role::Variance);
    });
    caught("the mean isn't gathered", Widen::default(), convnet, |_, _, patch| {
        misgather(patch, Role::Mean);
    });
    caught("gamma isn't gathered", Widen::default(), convnet, |_, _, patch| {
        misgather(patch, Role::Gamma);
    });
    caught("a bias isn't gathered", Widen::default(), residual, |_, _, patch| {
        misgather(patch, Role::Bias);
    });
    caught("flattened channels in pixel order", Widen::default(), convnet, |parent, _, patch| {
        let shapes = parent.verify().unwrap();
        let flatten = parent.nodes().iter().find(|node| node.op == Op::Flatten);
        let area = flatten.map_or(1, |node| shapes[node.inputs[0]].area());
        each_gather(patch, &|_, axis, index, _| {
            // Only what is flattened is longer than any list of widths.
            if axis == 1 && index.len() > 12 {
                let channels = index.len() / area;
                let pixels =
                    (0..area).flat_map(|pixel| (0..channels).map(move |c| c * area + pixel));
                *index = pixels.map(|place| index[place]).collect();
            }
        });
    });
    caught("the identity is of another order", Deepen::default(), convnet, |_, _, patch| {
        shift_identity(patch);
    });
    caught(
        "a batch norm's gamma isn't 1 / deviation",
        Deepen::default(),
        convnet,
        |_, _, patch| {
            fill(patch, Role::Gamma, 1.001);
        },
    );
    caught("a ReLU behind what isn't positive", Deepen::default(), convnet, |_, site, patch| {
        patch.network.insert_after(site, Op::Relu, None);
    });
    caught("a concat's offset is wrong", WidenGrowth::default(), dense, |_, _, patch| {
        each_gather(patch, &|_, axis, index, _| {
            if let (1, Some(last)) = (axis, index.last_mut()) {
                *last = 0;
            }
        });
    });
    caught("replicated zeros aren't zero", Replicate::default(), dense, |_, _, patch| {
        for derive in patch.weights.values_mut() {
            if let Derive::Concat { axis: 1, parts } = derive
                && let Some(Derive::Fill { value, .. }) = parts.get_mut(1)
            {
                *value = 0.1;
            }
        }
    });
    for build in [residual, resnet] {
        caught(
            "tied layers replicate other channels",
            Widen::default(),
            build,
            |_, site, patch| {
                each_gather(patch, &|id, axis, index, _| {
                    if (id.role, axis) == (Role::Weight, 0) && id.node != site {
                        index.reverse();
                    }
                });
            },
        );
    }
    for build in [convnet, resnet] {
        caught("a kernel's old taps aren't at its centre", GrowKernel {}, build, |_, _, patch| {
            for derive in patch.weights.values_mut() {
                if let Derive::Concat { parts, .. } = derive {
                    parts.swap(0, 1);
                }
            }
        });
        caught("a kernel's border isn't zero", GrowKernel {}, build, |_, _, patch| {
            for derive in patch.weights.values_mut() {
                if let Derive::Concat { parts, .. } = derive
                    && let Derive::Fill { value, .. } = &mut parts[0]
                {
                    *value = 0.01;
                }
            }
        });
        caught("a skip isn't zero", Skip::default(), build, |_, _, patch| {
            fill(patch, Role::Weight, 0.01);
        });
    }
    caught("a new block's gamma isn't zero", AddBlock {}, resnet, |_, _, patch| {
        fill(patch, Role::Gamma, 0.1);
    });
    caught("a new block's beta isn't zero", AddBlock {}, resnet, |_, _, patch| {
        fill(patch, Role::Beta, 0.1);
    });
    caught("a new block's last kernel isn't zero", AddBlock {}, resnet, |_, _, patch| {
        fill(patch, Role::Weight, 0.1);
    });
    caught("a new block's ReLU meets negative values", AddBlock {}, resnet, |_, site, patch| {
        let activated = patch
            .network
            .nodes()
            .iter()
            .any(|node| node.op == Op::Relu && node.inputs == [site] && node.label.is_some());
        if !activated {
            patch.network.insert_after(site, Op::Relu, None);
        }
    });
}

#[test]
fn a_momentum_map_that_is_falsely_called_exact_is_caught() {
    let spoilt = Spoilt {
        sound: Replicate::default(),
        spoil: |_, _, patch| patch.gradient = GradientMap::Exact,
    };
    let spoilt = Transforms::new([("spoilt".to_owned(), Box::new(spoilt) as _)]);
    let rng = Rng::new(1);
    let model = law::random_model(dense(&mut rng.split("network")), &rng).unwrap();
    let broken = law::check_momentum(&spoilt, &Fixed::default(), &model, 1).unwrap_err();
    assert!(broken.why.contains("declared exact, but is off"), "{broken}");
}

#[test]
fn momentum_along_a_chain_of_widenings_is_the_childs_gradient() {
    let widen = Transforms::new([("widen".to_owned(), Box::new(Widen::default()) as _)]);
    for seed in 0..8 {
        let rng = Rng::new(seed);
        let model = law::random_model(residual(&mut rng.split("network")), &rng).unwrap();
        let mut network = model.network().clone();
        let mut steps = Vec::new();
        for _ in 0..law::CHAIN {
            let edits = widen.edits("widen", &network, &Fixed::default(), 1).unwrap();
            let Some((edit, _)) = edits.into_iter().next() else { break };
            network = widen.patch(&network, &edit, &mut Rng::new(0)).unwrap().network;
            steps.push(vec![edit]);
        }
        assert!(steps.len() > 3, "seed {seed}: {steps:?}");
        let images = law::random_images(model.input_shape(), 16, &rng);
        let labels: Vec<usize> = (0..16).map(|image| image % 4).collect();
        let gradients = |model: &Model| Reference.gradients(model, &images, &labels).unwrap();
        let before = gradients(&model);
        let grown = grow(&model, Some(&before), &steps, &widen, &rng, false).unwrap();
        let (carried, after) = (grown.momentum.unwrap(), gradients(&grown.model));
        let largest = |weights: &Weights| {
            weights.values().flatten().fold(0.0f32, |largest, value| largest.max(value.abs()))
        };
        let gap = |(id, carried): (&ParamId, &Tensor)| (*id, (carried - &after[id]).into_shared());
        let gaps = carried.iter().map(gap).collect();
        let gap = largest(&gaps) / largest(&after);
        assert!(gap < 1e-4, "seed {seed}: {gap:.1e} after {steps:?}");
    }
}

#[test]
fn channels_that_reach_the_logits_are_not_widened() {
    let head = |network: &mut Network, last, op| network.push(op, &[last], None);
    for (name, expected) in [("flatten", 1), ("concat", 1), ("linear", 2)] {
        let mut network = Network::new();
        let shape = Shape::Image { channels: 3, height: 2, width: 2 };
        let input = network.push(Op::Input { shape }, &[], None);
        let hidden = head(&mut network, input, Op::conv(3, 1));
        let wide = Op::Conv { filters: 4, kernel: 2, stride: 1, padding: 0, groups: 1, bias: true };
        let pixel = head(&mut network, hidden, wide);
        let flat = head(&mut network, pixel, Op::Flatten);
        match name {
            "concat" => {
                let pooled = head(&mut network, pixel, Op::GlobalPool);
                network.push(Op::Concat, &[flat, pooled], None);
            }
            "linear" => {
                head(&mut network, flat, Op::Linear { units: 4, bias: true });
            }
            _ => {}
        }
        let groups = channel_groups(&network, &network.verify().unwrap());
        let producers: Vec<NodeId> = groups.iter().map(|group| group.producers[0]).collect();
        assert_eq!(producers, [hidden, pixel][..expected], "{name}");
        let mut report = Report::default();
        let model = law::random_model(network, &Rng::new(1)).unwrap();
        let widen = Transforms::new([("widen".to_owned(), Box::new(Widen::default()) as _)]);
        law::check_model(&widen, &Fixed::default(), &model, 1, &mut report).unwrap();
    }
}
