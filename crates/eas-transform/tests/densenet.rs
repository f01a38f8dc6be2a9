//! The DenseNet space and its transformations.

use std::collections::BTreeMap;
use std::path::Path;

use crate::laws::{NETWORKS, assert_sound, caught, each_gather, fill, misgather};
use crate::networks::dense;
use crate::spaces::{build, problem};
use eas_ir::{Label, Metadata, Network, Op, Rng, Role, SavedModel};
use eas_transform::{
    DeepenDense, DenseNet, Derive, Edit, Replicate, SearchSpace, Step, Transforms, WidenGrowth,
    WidenTransition, grow, grow_network, law,
};

/// Every transformation of the space.
fn edits() -> Transforms {
    Transforms::new([
        ("deepen_dense".to_owned(), Box::new(DeepenDense::default()) as _),
        ("replicate".to_owned(), Box::new(Replicate::default()) as _),
        ("widen_growth".to_owned(), Box::new(WidenGrowth::default()) as _),
        ("widen_transition".to_owned(), Box::new(WidenTransition::default()) as _),
    ])
}

/// The kinds of networks that the space has.
const KINDS: [(&str, &str); 4] = [
    ("bottlenecks and compression", "preset = 'small'"),
    ("neither", "preset = 'small'\nbottleneck = 0\ncompression = 1.0"),
    ("post-activation", "preset = 'small'\npre_activation = false"),
    ("dropout", "preset = 'small'\ndropout = 0.2"),
];

fn words(space: &dyn SearchSpace, network: &Network) -> String {
    let vocabulary = space.vocabulary();
    let words: Vec<&str> =
        space.tokens(network).iter().map(|token| vocabulary[token.id].as_str()).collect();
    words.join(" ")
}

#[test]
fn start_networks_have_the_published_sizes() {
    // Trainable parameters and multiply-accumulates by the released code's rule; those of the others
    // are published to two and three digits (Huang et al. 2017, table 2).
    for (options, parameters, macs, digits) in [
        ("preset = 'paper'", 1_901_930, 798_888_240, 1.0),
        ("depth = 100\ngrowth = 12", 770_000, 0, 5e3),
        ("depth = 190\ngrowth = 40", 25_600_000, 0, 5e4),
        // Without bottleneck and compression, from 16 channels: 1.0M (the same table).
        (
            "depth = 40\ngrowth = 12\nbottleneck = 0\ncompression = 1.0\nfirst_ratio = 1.34",
            1_000_000,
            0,
            5e4,
        ),
    ] {
        let limits =
            "limits = { depth = 200, parameters = \"30M\", macs = \"10G\", memory = \"64GiB\" }";
        let space = build("densenet", &format!("{options}\n{limits}")).unwrap();
        let network = space.start(&problem(Path::new(""))).unwrap();
        let (_, cost) = space.admits(&network, 64).unwrap();
        let off = cost.parameters as f64 - f64::from(parameters);
        assert!(off.abs() < digits, "{options}: {} parameters", cost.parameters);
        assert!(macs == 0 || cost.macs == macs, "{options}: {} multiply-adds", cost.macs);
    }
}

#[test]
fn presets_lie_in_their_own_limits() {
    for (preset, depth, tokens) in [("paper", 40, 22), ("small", 16, 10), ("bc-40-12", 40, 22)] {
        let space = build("densenet", &format!("preset = '{preset}'")).unwrap();
        let network = space.start(&problem(Path::new(""))).unwrap();
        space.admits(&network, 64).unwrap_or_else(|refusal| panic!("{preset}: {refusal}"));
        assert_eq!(network.depth(), depth, "{preset}");
        assert_eq!(space.tokens(&network).len(), tokens, "{preset}");
    }
}

#[test]
fn the_network_of_the_benchmarks_is_one_of_the_space() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../benches/networks/densenet.toml");
    let benched = Network::load(&file).unwrap();
    let network = DenseNet::bc_40_12().start(&problem(Path::new(""))).unwrap();
    assert_eq!(network.fingerprint(), benched.fingerprint());
    assert!(network.is_isomorphic(&benched), "{network}");
}

#[test]
fn every_key_of_the_dense_space_can_be_set() {
    let space = build(
        "densenet",
        r#"preset = "small"
        depth = 9
        growth = 6
        blocks = 2
        bottleneck = 0
        compression = 0.75
        first_ratio = 1.5
        pre_activation = false
        dropout = 0.1
        growths = [6, 7]
        kernels = [3, 5]
        limits = { depth = 12, parameters = "200k", macs = "50M", memory = "1GiB", blocks = 2, layers = 4 }"#,
    )
    .unwrap();
    let network = space.start(&problem(Path::new(""))).unwrap();
    assert_eq!(words(space.as_ref(), &network), "t g6 g6 g6 t g6 g6 g6 t");
    let ops: Vec<String> = network.nodes().iter().map(|node| node.op.to_string()).collect();
    // The first convolution has 1.5 growth rates of channels, the transition 0.75 of the 9 + 18 before.
    let convolutions: Vec<&str> =
        ops.iter().map(String::as_str).filter(|op| op.starts_with("conv")).collect();
    let dense = ["conv 6 3x3"; 3];
    assert_eq!(
        convolutions,
        [&["conv 9 3x3"][..], &dense, &["conv 20 1x1"], &dense].concat(),
        "{network}"
    );
    assert_eq!(ops[1..7], ["conv 9 3x3", "batch_norm", "relu", "conv 6 3x3", "batch_norm", "relu"]);
    assert_eq!(ops.iter().filter(|op| *op == "dropout 0.1").count(), 7, "{network}");
    assert_eq!(space.kernels(), [3, 5]);
    assert_eq!(space.limits().layers, 4);
}

#[test]
fn a_depth_that_no_dense_network_has_is_refused_with_its_neighbours() {
    for (options, expected) in [
        ("depth = 39", "depth = 39: expected 4 and a multiple of 6, such as 34 or 40"),
        ("depth = 4", "depth = 4: expected 4 and a multiple of 6, such as 10 or 16"),
        (
            "depth = 41\nbottleneck = 0",
            "depth = 41: expected 4 and a multiple of 3, such as 40 or 43",
        ),
        ("depth = 68\nblocks = 7", "depth = 68: expected 8 and a multiple of 14, such as 64 or 78"),
        ("depth = 22\nblocks = 7\nbottleneck = 0", "3x32x32"),
    ] {
        let space = build("densenet", options).unwrap();
        let error = space.start(&problem(Path::new(""))).map(|network| network.to_string());
        let error = format!("{:#}", error.unwrap_err());
        assert!(error.contains(expected), "{options}: {error}");
    }
}

#[test]
fn tokens_follow_the_edits() {
    let space = DenseNet::small();
    let mut network = space.start(&problem(Path::new(""))).unwrap();
    assert_eq!(words(&space, &network), "t g4 g4 t g4 g4 t g4 g4 t");
    for (edit, expected) in [
        ("widen_growth n7 to 6", "t g6 g4 t g4 g4 t g4 g4 t"),
        ("replicate n7", "t g6 g6 g4 t g4 g4 t g4 g4 t"),
        ("widen_growth n7 to 7", "t g g6 g4 t g4 g4 t g4 g4 t"),
        ("deepen_dense n7 with kernel 3", "t g k3 g6 g4 t g4 g4 t g4 g4 t"),
        ("widen_transition n1 to 9", "t g k3 g6 g4 t g4 g4 t g4 g4 t"),
    ] {
        let step: Step = vec![edit.parse().unwrap()];
        network = grow_network(&network, &[step], &edits()).unwrap();
        assert_eq!(words(&space, &network), expected, "{edit}");
    }
}

#[test]
fn wider_growth_keeps_the_ratio_of_every_convolution_of_a_layer() {
    for (options, site, inner) in [
        ("preset = 'small'", "n7", vec![24]),
        ("preset = 'small'\nbottleneck = 0\ndepth = 10", "n4", vec![]),
    ] {
        let space = build("densenet", options).unwrap();
        let start = space.start(&problem(Path::new(""))).unwrap();
        let steps = |edits: &[String]| -> Vec<Step> {
            edits.iter().map(|edit| vec![edit.parse().unwrap()]).collect()
        };
        let widths = |network: &Network| -> Vec<usize> {
            let first = Some(Label::new("dense", 0, 0));
            let of_layer = network.nodes().iter().filter(|node| node.label == first);
            let width = |op| if let Op::Conv { filters, .. } = op { Some(filters) } else { None };
            of_layer.filter_map(|node| width(node.op)).collect()
        };
        let wider = steps(&[format!("widen_growth {site} to 6")]);
        let wider = grow_network(&start, &wider, &edits()).unwrap();
        assert_eq!(widths(&wider), [inner.as_slice(), &[6]].concat(), "{options}");
        // An inserted convolution reads both signs of the four channels, and widens with them.
        let deeper = steps(&[format!("deepen_dense {site} with kernel 1")]);
        let deeper = grow_network(&start, &deeper, &edits()).unwrap();
        let last = edits().get("widen_growth").unwrap().edits(&deeper, space.as_ref())[0].site;
        let wider = steps(&[format!("widen_growth {last} to 6")]);
        let wider = grow_network(&deeper, &wider, &edits()).unwrap();
        assert_eq!(widths(&wider), [inner.as_slice(), &[12, 6]].concat(), "{options}");
    }
}

/// A quarter of the law's networks is of each kind.
const NETWORKS_OF_A_KIND: u64 = NETWORKS / KINDS.len() as u64;

#[test]
fn edits_preserve_the_function_in_every_dense_space() {
    for (place, (kind, options)) in (0..).zip(KINDS) {
        let space = build("densenet", options).unwrap();
        let seeds = place * NETWORKS_OF_A_KIND..(place + 1) * NETWORKS_OF_A_KIND;
        let report = law::check_preserves(&edits(), space.as_ref(), seeds);
        let report = report.unwrap_or_else(|broken| panic!("{kind}: {broken}"));
        println!("{kind}: {report:?}");
        assert_sound(report, NETWORKS_OF_A_KIND as usize);
    }
}

#[test]
fn exact_momentum_maps_carry_the_gradient_in_every_dense_space() {
    // Without the last: where dropout is on, two gradients of one network differ as well.
    for (kind, options) in &KINDS[..3] {
        let space = build("densenet", options).unwrap();
        let (mut exact, mut approximate) = (0.0f64, 0.0f64);
        for seed in 0..12 {
            let rng = Rng::new(seed);
            let space = space.miniature(&mut rng.split("space")).unwrap();
            let model = law::random_model(space.start(&law::problem()).unwrap(), &rng).unwrap();
            let worst = law::check_momentum(&edits(), space.as_ref(), &model, seed).unwrap();
            (exact, approximate) = (exact.max(worst.0), approximate.max(worst.1));
        }
        assert!(exact < 1e-4, "{kind}: exact maps are off by {exact:.1e}");
        assert!(approximate > 1e-3, "{kind}: approximate maps are off by {approximate:.1e}");
    }
}

/// Chains of ten random edits.
fn random_chain(space: &dyn SearchSpace, start: &Network, rng: &mut Rng) -> Vec<Step> {
    let transforms = edits();
    let mut network = start.clone();
    let mut steps = Vec::new();
    for _ in 0..law::CHAIN {
        let of_name = |name| transforms.edits(name, &network, space, 1).unwrap();
        let legal: Vec<Edit> = transforms.names().flat_map(of_name).map(|(edit, _)| edit).collect();
        let step = vec![legal[rng.below(legal.len())].clone()];
        network = grow_network(&network, std::slice::from_ref(&step), &transforms).unwrap();
        steps.push(step);
    }
    steps
}

#[test]
fn no_chain_breaks_the_rules_the_fingerprint_or_the_round_trip() {
    let folder = tempfile::tempdir().unwrap();
    for (kind, options) in KINDS {
        for seed in 0..20 {
            let rng = Rng::new(seed);
            let space = build("densenet", options).unwrap();
            let space = space.miniature(&mut rng.split("space")).unwrap();
            let start = space.start(&law::problem()).unwrap();
            let steps = random_chain(space.as_ref(), &start, &mut rng.split("chain"));
            let model = law::random_model(start.clone(), &rng).unwrap();
            let model = grow(&model, None, &steps, &edits(), &rng, true).unwrap().model;
            let network = model.network().clone();
            let told = format!("{kind}, seed {seed}, {steps:?}");
            assert_eq!(network, grow_network(&start, &steps, &edits()).unwrap(), "{told}");
            network.verify().unwrap_or_else(|broken| panic!("{told}: {broken}"));
            // Every layer has a label of its own, or what was two sites would become one.
            let layers = space.tokens(&network).into_iter().filter(|token| token.site.is_some());
            let dense = |node: &&eas_ir::Node| node.op == Op::Concat;
            assert_eq!(layers.count(), network.nodes().iter().filter(dense).count() + 2, "{told}");

            let read = Network::from_toml(&network.to_toml()).unwrap();
            assert_eq!(read, network, "{told}");
            let saved = SavedModel { model, metadata: Metadata::default() };
            let path = folder.path().join(seed.to_string());
            saved.save(&path).unwrap();
            assert_eq!(SavedModel::load(&path).unwrap(), saved, "{told}");
            // Labels and ids are no part of what a network computes.
            let (mut renamed, mut ids) = (Network::new(), BTreeMap::new());
            for node in network.nodes() {
                let inputs: Vec<_> = node.inputs.iter().map(|input| ids[input]).collect();
                ids.insert(node.id, renamed.push(node.op, &inputs, None));
            }
            assert_eq!(renamed.fingerprint(), network.fingerprint(), "{told}");
            assert_ne!(start.fingerprint(), network.fingerprint(), "{told}");
        }
    }
}

/// A miniature of the small preset.
fn bottlenecks(rng: &mut Rng) -> Network {
    DenseNet::small().miniature(rng).unwrap().start(&law::problem()).unwrap()
}

/// A miniature with batch norms and ReLUs behind convolutions.
fn post_activation(rng: &mut Rng) -> Network {
    let space = build("densenet", "preset = 'small'\npre_activation = false").unwrap();
    space.miniature(rng).unwrap().start(&law::problem()).unwrap()
}

#[test]
fn planted_bugs_in_dense_edits_are_caught() {
    caught("negative values are lost", DeepenDense::default(), bottlenecks, |_, _, patch| {
        each_gather(patch, &|_, axis, _, scale| {
            if axis == 0 {
                scale.iter_mut().for_each(|sign| *sign = sign.max(0.0));
            }
        });
    });
    caught("both signs are the positive one", DeepenDense::default(), dense, |_, _, patch| {
        each_gather(patch, &|_, _, _, scale| scale.fill(1.0));
    });
    caught("a channel has another's negative", DeepenDense::default(), dense, |_, _, patch| {
        each_gather(patch, &|_, axis, index, _| {
            let last = index.len() - 1;
            if (axis, index[last]) == (0, last / 2) {
                index.swap(last, last - 1);
            }
        });
    });
    caught("gamma forgets epsilon", DeepenDense::default(), post_activation, |_, _, patch| {
        fill(patch, Role::Gamma, 1.001);
    });
    caught("a transition's share is left out", WidenTransition::default(), dense, |_, _, patch| {
        each_gather(patch, &|_, axis, _, scale| {
            if axis == 1 {
                scale.fill(1.0);
            }
        });
    });
    caught(
        "a copy's batch norm isn't remapped",
        Replicate::default(),
        post_activation,
        |_, _, p| {
            misgather(p, Role::Mean);
        },
    );
    caught("a copy's unseen channels come first", Replicate::default(), bottlenecks, |_, _, p| {
        for derive in p.weights.values_mut() {
            if let Derive::Concat { axis: 1, parts } = derive {
                parts.reverse();
            }
        }
    });
}
