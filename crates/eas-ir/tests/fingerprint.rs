//! A fingerprint names an architecture and nothing else.

use std::collections::BTreeMap;

use eas_ir::{Fingerprint, Label, Network, NodeId, Op, Rng, Shape};

use crate::networks::random_network;

/// The same architecture with other ids and labels, and its nodes in another topological order.
fn renamed(network: &Network, rng: &mut Rng) -> Network {
    let mut numbers: Vec<u32> = (0..network.nodes().len() as u32).map(|n| 3 * n + 1_000).collect();
    rng.shuffle(&mut numbers);
    let mut left: Vec<_> = network.nodes().iter().zip(numbers).collect();
    let names: BTreeMap<NodeId, NodeId> =
        left.iter().map(|(node, number)| (node.id, NodeId::new(*number))).collect();
    let mut other = Network::new();
    let mut placed = Vec::new();
    // The output depends on all other nodes, so it comes last.
    while !left.is_empty() {
        let ready: Vec<usize> = (0..left.len())
            .filter(|index| left[*index].0.inputs.iter().all(|input| placed.contains(input)))
            .collect();
        let (node, number) = left.remove(ready[rng.below(ready.len())]);
        let inputs: Vec<NodeId> = node.inputs.iter().map(|input| names[input]).collect();
        let label = (rng.below(2) == 1).then(|| Label::new("other", number, 0));
        let id = other.push(node.op, &inputs, label);
        other.node_mut(id).expect("it was pushed").id = NodeId::new(number);
        placed.push(node.id);
    }
    other
}

#[test]
fn ids_labels_and_order_do_not_count() {
    for seed in 0..200 {
        let rng = &mut Rng::new(seed);
        let network = random_network(rng);
        let other = renamed(&network, rng);
        other.verify().unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        assert_eq!(other.fingerprint(), network.fingerprint(), "seed {seed}\n{network}{other}");
        assert!(network.is_isomorphic(&other), "seed {seed}");
    }
}

/// The operations that differ from this one in one parameter.
fn mutations(op: Op) -> Vec<Op> {
    match op {
        Op::Input { shape } => {
            let channels = Op::Input { shape: shape.with_channels(shape.channels() + 1) };
            match shape {
                Shape::Image { channels: c, height, width } => vec![
                    channels,
                    Op::Input { shape: Shape::Image { channels: c, height: height + 1, width } },
                    Op::Input { shape: Shape::Image { channels: c, height, width: width + 1 } },
                ],
                Shape::Flat { .. } => vec![channels],
            }
        }
        Op::Conv { filters, kernel, stride, padding, groups, bias } => vec![
            Op::Conv { filters: filters + 1, kernel, stride, padding, groups, bias },
            Op::Conv { filters, kernel: kernel + 1, stride, padding, groups, bias },
            Op::Conv { filters, kernel, stride: stride + 1, padding, groups, bias },
            Op::Conv { filters, kernel, stride, padding: padding + 1, groups, bias },
            Op::Conv { filters, kernel, stride, padding, groups: groups + 1, bias },
            Op::Conv { filters, kernel, stride, padding, groups, bias: !bias },
        ],
        Op::BatchNorm { epsilon } => vec![Op::BatchNorm { epsilon: epsilon.next_up() }, Op::Relu],
        Op::Relu => vec![Op::Dropout { rate: 0.0 }],
        Op::MaxPool { size, stride, padding } => vec![
            Op::MaxPool { size: size + 1, stride, padding },
            Op::MaxPool { size, stride: stride + 1, padding },
            Op::MaxPool { size, stride, padding: padding + 1 },
            Op::AveragePool { size, stride },
        ],
        Op::AveragePool { size, stride } => vec![
            Op::AveragePool { size: size + 1, stride },
            Op::AveragePool { size, stride: stride + 1 },
        ],
        Op::GlobalPool => vec![Op::Flatten],
        Op::Flatten => vec![Op::GlobalPool],
        Op::Linear { units, bias } => {
            vec![Op::Linear { units: units + 1, bias }, Op::Linear { units, bias: !bias }]
        }
        Op::Dropout { rate } => vec![Op::Dropout { rate: rate.next_up() }],
        Op::Add => vec![Op::Concat],
        Op::Concat => vec![Op::Add],
    }
}

#[test]
fn a_change_of_any_parameter_counts() {
    for seed in 0..100 {
        let network = random_network(&mut Rng::new(seed));
        for node in network.nodes() {
            for op in mutations(node.op) {
                let mut other = network.clone();
                other.node_mut(node.id).expect("it is a node").op = op;
                let message = || format!("seed {seed}: {} became {op} at {}", node.op, node.id);
                assert_ne!(other.fingerprint(), network.fingerprint(), "{}", message());
                assert!(!other.is_isomorphic(&network), "{}", message());
            }
        }
    }
}

#[test]
fn different_random_networks_differ_where_they_are_not_isomorphic() {
    let networks: Vec<Network> = (0..300).map(|seed| random_network(&mut Rng::new(seed))).collect();
    for (index, network) in networks.iter().enumerate() {
        for other in &networks[..index] {
            assert_eq!(
                network.fingerprint() == other.fingerprint(),
                network.is_isomorphic(other),
                "{network}\n{other}"
            );
        }
    }
}

/// `relu(linear(x)) + ...`, where both summands read one linear layer or each its own.
fn summands(shared: bool) -> Network {
    let mut network = Network::new();
    let input = network.push(Op::Input { shape: Shape::Flat { features: 4 } }, &[], None);
    let linear = Op::Linear { units: 4, bias: false };
    let first = network.push(linear, &[input], None);
    let second = if shared { first } else { network.push(linear, &[input], None) };
    let (left, right) =
        (network.push(Op::Relu, &[first], None), network.push(Op::Relu, &[second], None));
    network.push(Op::Add, &[left, right], None);
    network
}

#[test]
fn shared_and_duplicated_subgraphs_differ() {
    // Hashing each node by its operation and its inputs' hashes can't tell these two apart.
    assert_ne!(summands(true).fingerprint(), summands(false).fingerprint());
    assert!(!summands(true).is_isomorphic(&summands(false)));
}

#[test]
fn the_order_of_inputs_counts() {
    let concat = |swapped: bool| {
        let mut network = Network::new();
        let input = network.push(Op::Input { shape: Shape::Flat { features: 4 } }, &[], None);
        let relu = network.push(Op::Relu, &[input], None);
        let inputs = if swapped { [relu, input] } else { [input, relu] };
        network.push(Op::Concat, &inputs, None);
        network
    };
    assert_ne!(concat(true).fingerprint(), concat(false).fingerprint());
}

#[test]
fn a_fingerprint_keeps_its_text_over_versions() {
    // A run's records hold fingerprints: whoever changes this text raises the version.
    let text = "1-c2806069fa448f5d953f0a58b4e694f5";
    let fingerprint = summands(true).fingerprint();
    assert_eq!(fingerprint.to_string(), text);
    assert_eq!(text.parse::<Fingerprint>().unwrap(), fingerprint);
}

#[test]
fn what_is_no_fingerprint_is_refused() {
    let text = summands(true).fingerprint().to_string();
    let cases = [
        String::new(),
        text.replacen('1', "2", 1),
        text.to_uppercase(),
        text[..33].to_owned(),
        format!("{text}0"),
        format!("1-{}", "ß".repeat(16)),
    ];
    for case in cases {
        let error = case.parse::<Fingerprint>().expect_err(&case).to_string();
        assert!(error.contains("expected a fingerprint"), "{case}: {error}");
    }
}

#[test]
fn what_is_not_a_network_still_has_a_fingerprint() {
    let mut cycle = summands(true);
    cycle.node_mut(NodeId::new(1)).expect("it is a node").inputs = vec![NodeId::new(4)];
    let mut dangling = summands(true);
    dangling.node_mut(NodeId::new(1)).expect("it is a node").inputs = vec![NodeId::new(99)];
    for (name, broken) in [("empty", Network::new()), ("cycle", cycle), ("dangling", dangling)] {
        assert_ne!(broken.fingerprint(), summands(true).fingerprint(), "{name}");
    }
}

#[test]
fn the_largest_networks_are_walked_once() {
    // A path as long as allowed, read by a last node that names its inputs a hundred times over:
    // a walk that starts again at each return would take minutes.
    let mut network = Network::new();
    let mut tip = network.push(Op::Input { shape: Shape::Flat { features: 1 } }, &[], None);
    let mut inputs = vec![tip; 1_000_000];
    for _ in 2..eas_ir::MAX_NODES {
        tip = network.push(Op::Relu, &[tip], None);
        inputs.push(tip);
    }
    network.push(Op::Add, &inputs, None);
    network.verify().unwrap();
    assert_eq!(network.fingerprint(), network.clone().fingerprint());
}
