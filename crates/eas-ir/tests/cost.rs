//! The counts of published networks, and the laws of the estimates.

use eas_ir::{Cost, Network, NodeId, Op, Rng, Shape, cost};

use crate::networks::random_network;

const IMAGE: Op = Op::Input { shape: Shape::Image { channels: 3, height: 32, width: 32 } };

/// Appends operations one after another and returns the last.
fn chain(network: &mut Network, mut tip: NodeId, ops: &[Op]) -> NodeId {
    for op in ops {
        tip = network.push(*op, &[tip], None);
    }
    tip
}

/// The plain start network of the method: four blocks of a convolution and a pool, a hidden linear
/// layer and the classifier.
fn plain(filters: [usize; 4], units: usize) -> Network {
    let mut network = Network::new();
    let mut tip = network.push(IMAGE, &[], None);
    for (block, filters) in filters.into_iter().enumerate() {
        tip = chain(&mut network, tip, &[Op::conv(filters, 3), Op::batch_norm(), Op::Relu]);
        let pool = Op::MaxPool { size: 2, stride: 2, padding: 0 };
        let last = Op::AveragePool { size: 4, stride: 4 };
        tip = chain(&mut network, tip, &[if block < 3 { pool } else { last }]);
    }
    let hidden = Op::Linear { units, bias: false };
    let classifier = Op::Linear { units: 10, bias: true };
    chain(&mut network, tip, &[Op::Flatten, hidden, Op::batch_norm(), Op::Relu, classifier]);
    network
}

/// DenseNet-BC: a first convolution of 2 · growth filters, three blocks of mini-blocks with a
/// bottleneck of 4 · growth, and transitions that halve the channels.
fn densenet(growth: usize, mini_blocks: usize) -> Network {
    let mut network = Network::new();
    let input = network.push(IMAGE, &[], None);
    let mut channels = 2 * growth;
    let mut tip = chain(&mut network, input, &[Op::conv(channels, 3)]);
    let conv = |filters, kernel| [Op::batch_norm(), Op::Relu, Op::conv(filters, kernel)];
    for block in 0..3 {
        for _ in 0..mini_blocks {
            let bottleneck = chain(&mut network, tip, &conv(4 * growth, 1));
            let grown = chain(&mut network, bottleneck, &conv(growth, 3));
            tip = network.push(Op::Concat, &[tip, grown], None);
            channels += growth;
        }
        if block < 2 {
            channels /= 2;
            tip = chain(&mut network, tip, &conv(channels, 1));
            tip = chain(&mut network, tip, &[Op::AveragePool { size: 2, stride: 2 }]);
        }
    }
    let classifier = Op::Linear { units: 10, bias: true };
    chain(&mut network, tip, &[Op::batch_norm(), Op::Relu, Op::GlobalPool, classifier]);
    network
}

fn one_image(network: &Network) -> Cost {
    cost(network, &network.verify().expect("a network"), 1)
}

#[test]
fn the_start_networks_of_the_method_have_their_published_counts() {
    let paper = one_image(&plain([16, 32, 64, 128], 256));
    assert_eq!((paper.parameters, paper.macs), (133_530, 4_016_640));
    let small = one_image(&plain([4, 4, 4, 4], 8));
    assert_eq!((small.parameters, small.macs), (710, 159_088));
}

#[test]
fn densenets_have_their_published_counts() {
    let start = one_image(&densenet(40, 6));
    assert_eq!(start.parameters, 1_901_930);
    assert_eq!(format!("{:.1} M", start.macs as f64 / 1e6), "798.9 M");
    // Huang et al. 2017: (depth 100, growth 12) and (190, 40).
    for (growth, mini_blocks, expected) in [(12, 16, "0.77 M"), (40, 31, "25.62 M")] {
        let parameters = one_image(&densenet(growth, mini_blocks)).parameters;
        assert_eq!(format!("{:.2} M", parameters as f64 / 1e6), expected);
    }
}

#[test]
fn memory_counts_weights_thrice_statistics_once_and_values_twice() {
    let mut network = Network::new();
    let input = network.push(Op::Input { shape: Shape::Flat { features: 3 } }, &[], None);
    let linear = Op::Linear { units: 5, bias: true };
    chain(&mut network, input, &[linear, Op::batch_norm()]);
    let shapes = network.verify().unwrap();
    let trainable = 3 * 5 + 5 + 2 * 5;
    let values = 3 + 5 + 5;
    for batch in [1, 7, 64] {
        let expected = 4 * (3 * trainable + 2 * 5 + 2 * values * batch);
        assert_eq!(cost(&network, &shapes, batch as usize).memory, expected, "batch {batch}");
    }
}

#[test]
fn memory_grows_with_the_batch_and_nothing_else_does() {
    for seed in 0..100 {
        let network = random_network(&mut Rng::new(seed));
        let shapes = network.verify().unwrap();
        let costs = [0, 1, 2, 64, usize::MAX].map(|batch| cost(&network, &shapes, batch));
        for pair in costs.windows(2) {
            assert!(pair[0].memory < pair[1].memory, "seed {seed}: {costs:?}");
            let fixed = pair.iter().map(|cost| (cost.parameters, cost.macs));
            assert_eq!(fixed.clone().min(), fixed.max(), "seed {seed}: {costs:?}");
        }
        assert_eq!(costs[4].memory, u64::MAX, "seed {seed}: saturated");
    }
}
