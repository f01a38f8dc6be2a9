//! Every rule of a network, broken once.

use eas_ir::{Label, MAX_NODES, Network, NodeId, Op, Rng, Shape};

use crate::networks::random_network;

const IMAGE: Op = Op::Input { shape: Shape::Image { channels: 3, height: 8, width: 8 } };
const CLASSIFIER: Op = Op::Linear { units: 10, bias: true };

fn conv(filters: usize, kernel: usize, stride: usize, padding: usize, groups: usize) -> Op {
    Op::Conv { filters, kernel, stride, padding, groups, bias: false }
}

/// A network of these operations and the numbers of the nodes that each reads.
fn network(nodes: &[(Op, &[u32])]) -> Network {
    let mut network = Network::new();
    for (op, inputs) in nodes {
        let inputs: Vec<NodeId> = inputs.iter().map(|input| NodeId::new(*input)).collect();
        network.push(*op, &inputs, None);
    }
    network
}

/// An image network with one operation between the input and the classifier.
fn around(op: Op) -> Network {
    network(&[(IMAGE, &[]), (op, &[0]), (Op::GlobalPool, &[1]), (CLASSIFIER, &[2])])
}

fn check(network: &Network, expected: &[&str]) {
    let violations = network.verify().expect_err(expected[0]);
    let found: Vec<String> = violations.list().iter().map(|v| v.to_string()).collect();
    assert_eq!(found.len(), expected.len(), "expected {expected:?}, found {found:?}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.contains(expected), "expected `{expected}`, found `{found}`");
    }
}

#[test]
fn random_networks_are_networks() {
    for seed in 0..300 {
        let network = random_network(&mut Rng::new(seed));
        network.verify().unwrap_or_else(|error| panic!("seed {seed}: {error}\n{network}"));
    }
}

#[test]
fn each_broken_rule_of_the_graph_is_named() {
    check(&Network::new(), &["expected between 1 and 10000 nodes, found 0"]);
    let mut long = network(&[(IMAGE, &[])]);
    for last in 0..MAX_NODES as u32 {
        long.push(Op::Relu, &[NodeId::new(last)], None);
    }
    check(&long, &["expected between 1 and 10000 nodes, found 10001"]);

    let mut twice = around(Op::Relu);
    twice.node_mut(NodeId::new(1)).unwrap().id = NodeId::new(0);
    check(&twice, &["n0: this id stands twice", "n2: input n1 isn't a node of the network"]);
    let mut labelled = around(Op::Relu);
    labelled.node_mut(NodeId::new(1)).unwrap().label = Some(Label::new("Conv 1", 0, 0));
    check(&labelled, &["n1: expected a label of a kind of 1 to 32 lowercase letters"]);

    let flat = Op::Input { shape: Shape::Flat { features: 4 } };
    check(
        &network(&[(flat, &[]), (CLASSIFIER, &[7])]),
        &["n1: input n7 isn't a node", "n0: nothing reads this node"],
    );
    check(
        &network(&[(flat, &[]), (Op::Add, &[0, 2]), (Op::Relu, &[1])]),
        &["n1: input n2 doesn't come before it (a cycle, or nodes out of order)"],
    );
    check(&network(&[(flat, &[]), (Op::Add, &[0, 1])]), &["n1: input n1 doesn't come before it"]);
    check(
        &network(&[(flat, &[]), (flat, &[]), (Op::Add, &[0, 1])]),
        &["expected one input operation, at the first node; found 2"],
    );
    check(
        &network(&[(flat, &[]), (Op::Relu, &[0]), (Op::Relu, &[0])]),
        &["n1: nothing reads this node, and it isn't the last"],
    );
    check(
        &network(&[(IMAGE, &[]), (Op::Relu, &[0])]),
        &["n1: the last node must give flat logits, found shape 3x8x8"],
    );
    let mut no_input = network(&[(Op::Relu, &[]), (Op::Relu, &[0])]);
    check(
        &no_input,
        &[
            "expected one input operation, at the first node; found none",
            "n0: relu takes one input, found 0",
        ],
    );
    no_input.node_mut(NodeId::new(1)).unwrap().op = flat;
    no_input.node_mut(NodeId::new(1)).unwrap().inputs.clear();
    check(
        &no_input,
        &["found one at n1", "n0: nothing reads this node", "n0: relu takes one input, found 0"],
    );
}

#[test]
fn ids_never_run_out() {
    let text = around(Op::Relu).to_toml();
    let error = Network::from_toml(&text.replace("next = 4", "next = 4294967295")).unwrap_err();
    assert!(error.to_string().contains("expected a next id of at most 2147483648"), "{error}");
    let text = text.replace("\"n1\"", "\"n4294967295\"");
    let error = Network::from_toml(&text).unwrap_err().to_string();
    assert!(error.contains("found 4294967295"), "{error}");
}

#[test]
fn each_operation_refuses_what_it_cannot_take() {
    let pool = |size, stride, padding| Op::MaxPool { size, stride, padding };
    let average = |size, stride| Op::AveragePool { size, stride };
    let huge = 1_000_000_000;
    let cases = [
        (conv(0, 3, 1, 1, 1), "conv: filters must be between 1 and 1048576, found 0"),
        (conv(huge, 3, 1, 1, 1), "conv: filters must be between 1 and 1048576, found 1000000000"),
        (conv(4, 0, 1, 0, 1), "conv: kernel must be between"),
        (conv(4, 3, 0, 1, 1), "conv: stride must be between"),
        (conv(4, 3, 1, 1, 0), "conv: groups must be between"),
        (conv(4, 3, 1, 3, 1), "conv: padding must be less than the kernel 3, found 3"),
        (conv(4, 3, 1, 1, 3), "conv: groups must be a divisor of the 4 filters, found 3"),
        (conv(4, 3, 1, 1, 2), "conv: groups must be a divisor of the 3 input channels, found 2"),
        (conv(4, 11, 1, 1, 1), "conv: kernel must be at most the padded input's side 10, found 11"),
        (pool(0, 1, 0), "max_pool: size must be between"),
        (pool(2, 0, 0), "max_pool: stride must be between"),
        (pool(2, 2, 2), "max_pool: padding must be less than the size 2, found 2"),
        (pool(9, 2, 0), "max_pool: size must be at most the padded input's side 8, found 9"),
        (
            pool(1 << 17, 1 << 17, 1 << 16),
            "max_pool: padding must be less, as 3x131080x131080 padded is more than 268435456 numbers",
        ),
        (average(0, 1), "average_pool: size must be between"),
        (average(2, 0), "average_pool: stride must be between"),
        (average(9, 1), "average_pool: size must be at most the padded input's side 8"),
        (Op::Dropout { rate: 1.0 }, "dropout: rate must be at least 0 and less than 1, found 1"),
        (Op::Dropout { rate: -0.1 }, "dropout: rate must be"),
        (Op::Dropout { rate: f32::NAN }, "dropout: rate must be"),
        (
            Op::BatchNorm { epsilon: 0.0 },
            "batch_norm: epsilon must be positive and finite, found 0",
        ),
        (Op::BatchNorm { epsilon: f32::INFINITY }, "batch_norm: epsilon must be"),
        (Op::Linear { units: 4, bias: false }, "linear takes a flat input, found 3x8x8"),
        (Op::Add, "add takes two inputs or more, found 1"),
        (Op::Concat, "concat takes two inputs or more, found 1"),
    ];
    for (op, expected) in cases {
        check(&around(op), &[expected]);
    }
    let two_inputs = |op| network(&[(IMAGE, &[]), (op, &[0, 0]), (Op::Flatten, &[1])]);
    for op in
        [Op::conv(4, 3), Op::batch_norm(), Op::Relu, pool(2, 2, 0), average(2, 2), Op::Flatten]
    {
        check(&two_inputs(op), &["takes one input, found 2"]);
    }
    let flat: &[(Op, &[u32])] = &[(IMAGE, &[]), (Op::Flatten, &[0])];
    for op in [Op::conv(4, 3), pool(2, 2, 0), average(2, 2), Op::GlobalPool, Op::Flatten] {
        check(&network(&[flat, &[(op, &[1])]].concat()), &["takes an image, found 192"]);
    }
    let smaller: &[(Op, &[u32])] = &[(IMAGE, &[]), (pool(2, 2, 0), &[0])];
    let joins = [
        (Op::Add, "add takes inputs that agree in shape, found 3x8x8 and 3x4x4"),
        (Op::Concat, "concat takes inputs that agree in height and width, found 3x8x8 and 3x4x4"),
    ];
    for (op, expected) in joins {
        check(&network(&[smaller, &[(op, &[0, 1])]].concat()), &[expected]);
    }
    check(
        &network(&[(IMAGE, &[]), (IMAGE, &[0]), (Op::Flatten, &[1])]),
        &["expected one input operation", "n1: input takes no inputs, found 1"],
    );
}

#[test]
fn sizes_are_bounded_before_anything_is_allocated() {
    let input =
        |channels, height, width| Op::Input { shape: Shape::Image { channels, height, width } };
    check(&network(&[(input(0, 8, 8), &[]), (Op::Flatten, &[0])]), &["input: channels must be"]);
    check(
        &network(&[(input(1, usize::MAX, 8), &[]), (Op::Flatten, &[0])]),
        &["input: height must be"],
    );
    check(
        &network(&[(input(1 << 20, 1 << 20, 1 << 20), &[]), (Op::Flatten, &[0])]),
        &["n0: a value of 1048576x1048576x1048576 is larger than 268435456 numbers"],
    );
    check(
        &network(&[
            (input(1 << 8, 1 << 9, 1 << 10), &[]),
            (Op::Concat, &[0, 0, 0]),
            (Op::Flatten, &[1]),
        ]),
        &["n1: a value of 768x512x1024 is larger"],
    );
    let large = Op::Linear { units: 1 << 20, bias: false };
    check(
        &network(&[(input(1 << 4, 1 << 7, 1 << 7), &[]), (Op::Flatten, &[0]), (large, &[1])]),
        &["expected at most 2147483648 parameters, found 274877906944"],
    );
}

#[test]
fn all_violations_are_collected_and_twenty_are_shown() {
    let mut broken = network(&[(IMAGE, &[])]);
    for _ in 0..100 {
        broken.push(conv(0, 3, 1, 1, 1), &[NodeId::new(0)], None);
    }
    let violations = broken.verify().unwrap_err();
    assert_eq!(violations.list().len(), 100 + 99, "100 without filters, all but the last unread");
    let shown = violations.to_string();
    assert_eq!(shown.matches("; ").count(), 20, "{shown}");
    assert!(shown.ends_with("; and 179 more"), "{shown}");
}
