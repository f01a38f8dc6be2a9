//! Inserting nodes keeps a network a network, and ids what they were.

use std::collections::BTreeMap;

use eas_ir::{Network, NodeId, Op, Rng};

use crate::networks::random_network;

/// A random network and one of its nodes.
fn case(seed: u64) -> (Network, NodeId) {
    let rng = &mut Rng::new(seed);
    let network = random_network(rng);
    let node = network.nodes()[rng.below(network.nodes().len())].id;
    (network, node)
}

#[test]
fn a_node_inserted_after_another_is_read_in_its_place() {
    for seed in 0..200 {
        let (network, site) = case(seed);
        let mut longer = network.clone();
        let id = longer.insert_after(site, Op::Relu, None).expect("the site is a node");
        longer.verify().unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        assert_eq!(longer.consumers(site), [id], "seed {seed}");
        assert_eq!(longer.consumers(id), network.consumers(site), "seed {seed}");
        assert_eq!(id.number(), network.next(), "seed {seed}: ids are never reused");
        assert_eq!(longer.next(), network.next() + 1, "seed {seed}");
        let kept = longer.nodes().iter().filter(|node| node.id != id);
        let ops = |node: &eas_ir::Node| (node.id, node.op, node.label.clone());
        assert!(kept.map(ops).eq(network.nodes().iter().map(ops)), "seed {seed}");
    }
}

#[test]
fn a_node_inserted_behind_another_is_read_by_none() {
    for seed in 0..200 {
        let (network, place) = case(seed);
        let mut longer = network.clone();
        let id = longer.insert_behind(place, Op::Relu, &[place], None).expect("a node");
        let index = network.nodes().iter().position(|node| node.id == place).expect("a node");
        assert_eq!(longer.nodes()[index + 1].id, id, "seed {seed}");
        assert!(longer.consumers(id).is_empty(), "seed {seed}");
        let mut without = longer.nodes().to_vec();
        without.remove(index + 1);
        assert_eq!(without, network.nodes(), "seed {seed}");
    }
}

#[test]
fn nothing_is_inserted_at_a_node_that_is_not_there() {
    let (network, _) = case(1);
    let mut same = network.clone();
    let nowhere = NodeId::new(network.next());
    assert_eq!(same.insert_after(nowhere, Op::Relu, None), None);
    assert_eq!(same.insert_behind(nowhere, Op::Relu, &[], None), None);
    assert!(same.node(nowhere).is_none() && same.node_mut(nowhere).is_none());
    assert_eq!(same, network);
}

#[test]
fn the_map_of_consumers_is_all_consumers() {
    for seed in 0..200 {
        let (network, _) = case(seed);
        let each = network.nodes().iter().map(|node| (node.id, network.consumers(node.id)));
        let read: BTreeMap<_, _> = each.filter(|(_, users)| !users.is_empty()).collect();
        assert_eq!(network.consumer_map(), read, "seed {seed}");
    }
}
