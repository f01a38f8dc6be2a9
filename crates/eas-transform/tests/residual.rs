//! The residual space, and the edits that are its own.

use std::path::Path;

use eas_ir::{Gradients, Network, NodeId, Op, Reference, Rng, Role, cost};
use eas_transform::{
    Decision, Edit, Noise, Residual, SearchSpace, Transforms, apply, calibrate, channel_groups,
    drift, law,
};

use crate::laws::residual_edits;
use crate::networks::resnet;
use crate::spaces::{build, problem};

fn start(options: &str) -> (Box<dyn SearchSpace>, Network) {
    let space = build("residual", options).unwrap();
    let network = space.start(&problem(Path::new(""))).unwrap();
    (space, network)
}

#[test]
fn starts_have_the_parameters_of_the_literature() {
    // He et al. 2016, section 4.2, with identity shortcuts throughout: 6n + 2 layers of 269,722
    // parameters for n = 3, and 97,216 for each n more (table 6: 0.27M, 0.46M, 0.66M, 0.85M, 1.7M). Two
    // projections with batch norm have 16·32 + 2·32 and 32·64 + 2·64 parameters, two layers more.
    let resnet = |n: u64| 269_722 + (n - 3) * 97_216 + 576 + 2_176;
    for n in [3, 5, 7, 9, 18] {
        let stages: Vec<String> =
            [16, 32, 64].iter().map(|w| format!("{{ blocks = {n}, width = {w} }}")).collect();
        let (_, network) = start(&format!("stages = [{}]", stages.join(", ")));
        let found = cost(&network, &network.verify().unwrap(), 1);
        assert_eq!(found.parameters, resnet(n), "n = {n}");
        assert_eq!(network.depth() as u64, 6 * n + 2 + 2, "n = {n}");
    }
    // Multiply-accumulates of ResNet-20: 0.44M in the stem, 14.16M in the first stage, 12.98M in each
    // other, 0.13M in each projection, and 640 in the classifier.
    let (space, network) = start("");
    let (_, found) = space.admits(&network, 64).unwrap();
    assert_eq!(found.macs, 442_368 + 14_155_776 + 2 * (12_976_128 + 131_072) + 640);
}

#[test]
fn every_key_of_the_residual_space_can_be_set() {
    let (space, network) = start(
        r#"preset = "small"
        stages = [{ blocks = 1, width = 4 }, { blocks = 2, width = 6 }]
        bottleneck = true
        pre_activation = true
        dropout = 0.25
        filters = [4, 6, 16, 24, 32]
        kernels = [1, 3, 5, 7]
        limits = { depth = 20, parameters = "200k", macs = "5M", memory = "1GiB", blocks = 3, layers = 4 }"#,
    );
    let text = network.to_string();
    for expected in ["dropout 0.25", "conv 24 1x1", "conv 6 3x3 stride 2"] {
        assert!(text.contains(expected), "expected `{expected}` in\n{text}");
    }
    assert_eq!((space.limits().depth, space.kernels()), (20, &[1, 3, 5, 7][..]));
    // In pre-activation order, a convolution is what comes last before each addition.
    let shapes = network.verify().unwrap();
    let adds = network.nodes().iter().filter(|node| node.op == Op::Add);
    for add in adds {
        for input in &add.inputs {
            let op = network.node(*input).unwrap().op;
            assert!(matches!(op, Op::Conv { .. } | Op::Add), "{add:?} reads {op}");
        }
        assert!([16, 24].contains(&shapes[add.id].channels()));
    }
}

#[test]
fn a_stage_is_one_site_and_the_inside_of_each_block_another() {
    let (space, network) = start("");
    let groups = channel_groups(&network, &network.verify().unwrap());
    // The stem is tied to the first stage; each other stage begins with a projection.
    let tied: Vec<(usize, usize)> = groups
        .iter()
        .filter(|group| group.producers.len() > 1)
        .map(|group| (group.width, group.producers.len()))
        .collect();
    assert_eq!(tied, [(16, 4), (32, 4), (64, 4)]);
    assert_eq!(groups.len(), 3 + 9);
    let widen = |network: &Network| -> Vec<String> {
        let edits = residual_edits().edits("widen", network, space.as_ref(), 1).unwrap();
        edits.into_iter().map(|(edit, _)| edit.to_string()).collect()
    };
    let edits = widen(&network);
    assert_eq!(edits.len(), groups.len(), "{edits:?}");
    // Every site has a token, by which the policy decides about it.
    let tokens = space.tokens(&network);
    for group in &groups {
        assert!(tokens.iter().any(|token| token.site == Some(group.producers[0])), "{group:?}");
    }
}

/// The first edit of a transform on a network.
fn first(transforms: &Transforms, name: &str, network: &Network) -> Edit {
    let space = Residual::resnet20();
    let edits = transforms.edits(name, network, &space, 1).unwrap();
    edits.into_iter().next().unwrap_or_else(|| panic!("no {name} in\n{network}")).0
}

#[test]
fn what_starts_with_zeros_has_a_gradient_and_training_mode_notices_nothing() {
    let transforms = residual_edits();
    for seed in 0..6 {
        let rng = Rng::new(seed);
        let parent = law::random_model(resnet(&mut rng.split("network")), &rng).unwrap();
        let images = law::random_images(parent.input_shape(), 16, &rng);
        let labels: Vec<usize> = (0..16).map(|image| image % 4).collect();
        for name in ["add_block", "skip", "grow_kernel"] {
            let edit = first(&transforms, name, parent.network());
            let patch = transforms.patch(parent.network(), &edit, &mut rng.split(name)).unwrap();
            let child = apply(&parent, &patch, Noise::Off).unwrap();
            let child = calibrate(child, &patch.calibrate, &images, &Reference).unwrap().model;
            let drift = drift(&parent, &child, &images, &Reference).unwrap();
            assert!(drift < 1e-6, "seed {seed}, {edit}: training mode drifts by {drift:.1e}");
            let gradients = Reference.gradients(&child, &images, &labels).unwrap();
            for (id, values) in child.weights() {
                if !matches!(id.role, Role::Weight | Role::Gamma) {
                    continue;
                }
                let zeros = values.iter().zip(&gradients[id]).filter(|(value, _)| **value == 0.0);
                let moving = zeros.clone().filter(|(_, gradient)| **gradient != 0.0).count();
                assert!(
                    2 * moving >= zeros.count(),
                    "seed {seed}, {edit}: the zeros of {id} are stuck"
                );
            }
        }
    }
}

#[test]
fn a_new_block_has_the_layers_of_the_one_before_it() {
    let (space, network) = start("preset = \"small\"");
    let transforms = residual_edits();
    let mut offered = transforms.edits("add_block", &network, space.as_ref(), 64).unwrap();
    let paths: Vec<&[usize]> = offered.iter().map(|(_, path)| path.as_slice()).collect();
    assert_eq!(paths, [[1, 0], [2, 0], [3, 0]]);
    let (edit, _) = offered.remove(1);
    let child = transforms.patch(&network, &edit, &mut Rng::new(1)).unwrap().network;
    // What the space builds with two blocks in the second stage is the same network.
    let stages =
        "[{ blocks = 1, width = 8 }, { blocks = 2, width = 16 }, { blocks = 1, width = 32 }]";
    let (_, built) = start(&format!("stages = {stages}"));
    assert_eq!(child.fingerprint(), built.fingerprint(), "{child}\n{built}");
    let labels = |network: &Network| {
        let labels = network.nodes().iter().filter_map(|node| node.label.clone());
        labels.collect::<std::collections::BTreeSet<_>>()
    };
    assert_eq!(labels(&child), labels(&built));
}

#[test]
fn a_skip_joins_layers_of_one_resolution_once() {
    let transforms = residual_edits();
    let (space, network) = start("preset = \"small\"");
    let skips = |network: &Network| -> Vec<Edit> {
        let edits = transforms.edits("skip", network, space.as_ref(), 64).unwrap();
        edits.into_iter().map(|(edit, _)| edit).collect()
    };
    // Each stage has one block, so only the stem and the first lie at one resolution.
    let [edit] = skips(&network).try_into().unwrap();
    let child = transforms.patch(&network, &edit, &mut Rng::new(1)).unwrap().network;
    assert_eq!(skips(&child), [], "{child}");
    let again = transforms.patch(&child, &edit, &mut Rng::new(1)).unwrap_err();
    assert!(format!("{again:#}").contains("without a skip between them"), "{again:#}");
    // It is known when its kernel has grown, too.
    let grown = transforms.edits("grow_kernel", &child, space.as_ref(), 64).unwrap();
    let branch = grown.into_iter().map(|(edit, _)| edit).find(|e| network.node(e.site).is_none());
    let grown = transforms.patch(&child, &branch.unwrap(), &mut Rng::new(1)).unwrap().network;
    assert_eq!(skips(&grown), [], "{grown}");
}

#[test]
fn each_transform_declares_how_it_is_decided() {
    let space = Residual::small();
    let transforms = residual_edits();
    for (name, expected) in [
        ("add_block", Decision::OnePick { levels: vec![5, 10] }),
        ("grow_kernel", Decision::EachSite),
        ("skip", Decision::OnePick { levels: vec![5, 10, 3] }),
    ] {
        assert_eq!(transforms.get(name).unwrap().decision(&space), expected, "{name}");
    }
}

#[test]
fn edits_that_do_not_fit_are_refused_with_what_was_expected() {
    let (_, network) = start("preset = \"small\"");
    let site = |op: fn(&Op) -> bool| -> NodeId {
        network.nodes().iter().find(|node| op(&node.op)).unwrap().id
    };
    let conv = site(|op| matches!(op, Op::Conv { .. }));
    let add = site(|op| *op == Op::Add);
    for (edit, expected) in [
        (format!("add_block {conv}"), "is no addition of a residual block (those are: n"),
        (format!("add_block {add} to 3"), "without a width or kernel"),
        (format!("grow_kernel {conv} with kernel 3"), "expected a kernel above the present 3"),
        (format!("grow_kernel {conv} with kernel 4"), "by an even number, found 4"),
        (format!("grow_kernel {add} with kernel 5"), "is no convolution"),
        (format!("grow_kernel {conv}"), "with kernel 5"),
        (format!("skip {conv} option 0"), "of one resolution"),
        (format!("skip {conv}"), "expected the node where it begins"),
    ] {
        let error = residual_edits().patch(&network, &edit.parse().unwrap(), &mut Rng::new(1));
        let error = format!("{:#}", error.unwrap_err());
        assert!(error.contains(expected), "{edit}: {error}");
    }
}
