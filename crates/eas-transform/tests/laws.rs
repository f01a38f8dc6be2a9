//! The law over the built-in transforms and spaces, and bugs planted to see it catch them.

use crate::networks::{self, Fixed, dense, residual};
use eas_ir::{Model, Network, NodeId, Op, ParamId, Rng, Role};
use eas_transform::law::{self, Report};
use eas_transform::{
    Candidate, ConvNet, Decision, Deepen, Derive, Patch, Replicate, SearchSpace, Target, Transform,
    Transforms, Widen, WidenGrowth,
};

fn plain() -> Transforms {
    Transforms::new([
        ("deepen".to_owned(), Box::new(Deepen::default()) as Box<dyn Transform>),
        ("widen".to_owned(), Box::new(Widen::default())),
    ])
}

fn dense_edits() -> Transforms {
    Transforms::new([
        ("replicate".to_owned(), Box::new(Replicate::default()) as Box<dyn Transform>),
        ("widen_growth".to_owned(), Box::new(WidenGrowth::default())),
    ])
}

/// Networks of each preset: a thousand in all, each with a chain of ten.
const NETWORKS: u64 = 500;

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

fn assert_sound(report: Report, networks: usize) {
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
fn widening_preserves_the_function_through_additions() {
    let widen = Transforms::new([("widen".to_owned(), Box::new(Widen::default()) as _)]);
    let report = check_built(&widen, residual, 60).unwrap();
    assert_eq!(report.networks, 60);
    assert!(report.edits > 120 && report.worst < 1e-5, "{report:?}");
}

#[test]
fn exact_momentum_maps_carry_the_gradient() {
    let mut exact = 0.0f64;
    let mut approximate = 0.0f64;
    let both = [(plain(), residual as fn(&mut Rng) -> Network), (dense_edits(), dense)];
    for (transforms, build) in &both {
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
type Change<'a> = dyn Fn(ParamId, usize, &mut Vec<usize>, &mut Vec<f32>) + 'a;

/// Changes every gather.
fn each_gather(patch: &mut Patch, change: &Change<'_>) {
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
            Derive::Old(_) | Derive::Identity { .. } | Derive::Fill { .. } => {}
        }
    }
    patch.weights.iter_mut().for_each(|(id, derive)| walk(*id, derive, change));
}

/// Replicas of a role come from the wrong channel.
fn misgather(patch: &mut Patch, role: Role) {
    each_gather(patch, &|id, axis, index, _| {
        if id.role == role && axis == 0 {
            let first = index[0];
            if let Some(last) = index.last_mut() {
                *last = if *last == first { *last ^ 1 } else { first };
            }
        }
    });
}

fn caught<T: Transform + 'static>(
    bug: &str,
    sound: T,
    build: fn(&mut Rng) -> Network,
    spoil: fn(&Network, NodeId, &mut Patch),
) {
    let spoilt = Transforms::new([("spoilt".to_owned(), Box::new(Spoilt { sound, spoil }) as _)]);
    assert!(check_built(&spoilt, build, 20).is_err(), "the law did not catch: {bug}");
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
    caught("flattened channels in pixel order", Widen::default(), convnet, |_, _, patch| {
        // Rows of pixels where rows of channels belong: right only for one pixel.
        each_gather(patch, &|_, axis, index, _| {
            if axis == 1 && index.len() > 12 {
                let half = index.len() / 2;
                index.rotate_left(half.max(1));
            }
        });
    });
    caught("the identity is off centre", Deepen::default(), convnet, |_, _, patch| {
        let identity = |derive: &Derive| match derive {
            Derive::Identity { shape } if shape.len() == 4 && shape[2] > 1 => Some(shape.clone()),
            Derive::Noisy { of, .. } => match of.as_ref() {
                Derive::Identity { shape } if shape.len() == 4 && shape[2] > 1 => {
                    Some(shape.clone())
                }
                _ => None,
            },
            _ => None,
        };
        let found =
            patch.weights.iter().find_map(|(id, derive)| identity(derive).map(|s| (*id, s)));
        if let Some((id, shape)) = found {
            // Channels shifted by one: an identity of another order.
            let derive = Derive::Identity { shape: shape.clone() };
            let index: Vec<usize> = (0..shape[0]).map(|c| (c + 1) % shape[0]).collect();
            patch.weights.insert(id, derive.gather(0, index, vec![1.0; shape[0]]));
        }
    });
    caught(
        "the batch norm's epsilon is forgotten, and large",
        Deepen::default(),
        convnet,
        |_, _, patch| {
            for id in patch.calibrate.clone() {
                let gamma = ParamId::new(id, Role::Gamma);
                if let Some(Derive::Fill { value, .. }) = patch.weights.get_mut(&gamma) {
                    *value = 1.001;
                }
            }
        },
    );
    caught(
        "a ReLU where the input isn't a ReLU's",
        Deepen::default(),
        convnet,
        |parent, site, patch| {
            // The inserted layer moves before the ReLU of its site.
            let relu = parent
                .nodes()
                .iter()
                .skip_while(|node| node.id != site)
                .find(|node| node.op == Op::Relu);
            if let Some(relu) = relu {
                let first =
                    patch.network.nodes().iter().find(|node| parent.node(node.id).is_none());
                if let (Some(first), Some(before)) =
                    (first.map(|node| node.id), relu.inputs.first())
                {
                    let last = patch
                        .network
                        .nodes()
                        .iter()
                        .rfind(|node| parent.node(node.id).is_none())
                        .map(|node| node.id);
                    // The new layer reads what the ReLU read, so negative values are cut twice over.
                    if let Some(node) = patch.network.node_mut(first) {
                        node.inputs = vec![*before];
                    }
                    // Whoever is left unread would break the rules: the old ReLU joins by addition.
                    if let Some(last) = last {
                        let users = patch.network.consumers(last);
                        let joined =
                            patch.network.insert_behind(last, Op::Add, &[last, relu.id], None);
                        for user in users {
                            if let (Some(node), Some(joined)) =
                                (patch.network.node_mut(user), joined)
                            {
                                node.inputs
                                    .iter_mut()
                                    .filter(|i| **i == last)
                                    .for_each(|i| *i = joined);
                            }
                        }
                    }
                }
            }
        },
    );
    caught("a concat's offset is wrong", WidenGrowth::default(), dense, |_, _, patch| {
        each_gather(patch, &|_, axis, index, _| {
            if axis == 1
                && let Some(last) = index.last_mut()
            {
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
    caught(
        "one branch of an addition isn't widened alike",
        Widen::default(),
        residual,
        |_, _, patch| {
            let mut weights: Vec<ParamId> =
                patch.weights.keys().filter(|id| id.role == Role::Weight).copied().collect();
            if let (true, Some(first)) = (weights.len() > 2, weights.pop()) {
                let spoil = patch.weights.get_mut(&first);
                if let Some(Derive::Gather { scale, .. }) = spoil {
                    scale.iter_mut().for_each(|scale| *scale *= 1.5);
                }
            }
        },
    );
}

#[test]
fn a_chain_of_edits_keeps_momentum_in_step_with_the_weights() {
    let rng = Rng::new(3);
    let space = ConvNet::small().miniature(&mut rng.split("space")).unwrap();
    let model: Model = law::random_model(space.start(&law::problem()).unwrap(), &rng).unwrap();
    let momentum = model.weights().clone();
    let transforms = plain();
    let edits = transforms.edits("widen", model.network(), space.as_ref(), 1).unwrap();
    let steps = vec![vec![edits[0].0.clone()]];
    let grown =
        eas_transform::grow(&model, Some(&momentum), &steps, &transforms, &rng, true).unwrap();
    let carried = grown.momentum.unwrap();
    for (id, values) in grown.model.weights() {
        if id.role.trainable() {
            assert_eq!(carried[id].shape(), values.shape(), "{id}");
        }
    }
}
