//! What no chain of edits breaks, whatever it does: the rules, names and files of networks.

use std::collections::BTreeSet;

use eas_ir::{Metadata, Model, Network, NodeId, Rng, SavedModel};
use eas_transform::{ConvNet, Residual, SearchSpace, Step, grow, law};

use crate::laws::residual_edits;

/// A chain of edits drawn at random, checking the architecture after each.
fn chain(space: &dyn SearchSpace, start: &Network, rng: &mut Rng, case: &str) -> Vec<Step> {
    let transforms = residual_edits();
    let names: Vec<&str> = transforms.names().collect();
    let mut network = start.clone();
    let mut seen = BTreeSet::from([network.fingerprint()]);
    let mut steps: Vec<Step> = Vec::new();
    for _ in 0..law::CHAIN {
        let name = names[rng.below(names.len())];
        let legal = transforms.edits(name, &network, space, 1).unwrap();
        if legal.is_empty() {
            continue;
        }
        let (edit, _) = legal[rng.below(legal.len())].clone();
        assert_eq!(edit.to_string().parse().as_ref(), Ok(&edit), "{case}: {steps:?}");
        let child = transforms.patch(&network, &edit, &mut Rng::new(0)).unwrap().network;
        steps.push(vec![edit]);
        child.verify().unwrap_or_else(|error| panic!("{case}: {error} after {steps:?}"));
        let ids: BTreeSet<NodeId> = child.nodes().iter().map(|node| node.id).collect();
        assert_eq!(ids.len(), child.nodes().len(), "{case}: an id twice after {steps:?}");
        let kept = network.nodes().iter().all(|node| ids.contains(&node.id));
        assert!(kept, "{case}: a node left after {steps:?}");
        assert!(seen.insert(child.fingerprint()), "{case}: an old fingerprint after {steps:?}");
        network = child;
    }
    steps
}

fn check(space: &dyn SearchSpace, seeds: u64) {
    let folder = tempfile::tempdir().unwrap();
    let mut edits = 0;
    for seed in 0..seeds {
        let rng = Rng::new(seed);
        let case = format!("{space:?}, seed {seed}");
        let space = space.miniature(&mut rng.split("space")).unwrap();
        let network = space.start(&law::problem()).unwrap();
        let parent = Model::initialise(network, &rng).unwrap();
        let steps = chain(space.as_ref(), parent.network(), &mut rng.split("chain"), &case);
        edits += steps.len();
        let grown = |noise| grow(&parent, None, &steps, &residual_edits(), &rng, noise).unwrap();
        let model = grown(true).model;
        assert_eq!(model, grown(true).model, "{case}: another child by {steps:?}");
        let read = Network::from_toml(&model.network().to_toml()).unwrap();
        assert_eq!(&read, model.network(), "{case}: another network after {steps:?}");
        assert_eq!(read.fingerprint(), model.network().fingerprint(), "{case}: {steps:?}");
        let saved = SavedModel { model, metadata: Metadata::default() };
        saved.save(&folder.path().join("model")).unwrap();
        let loaded = SavedModel::load(&folder.path().join("model")).unwrap();
        assert_eq!(loaded, saved, "{case}: another model after {steps:?}");
    }
    assert!(edits as u64 > 6 * seeds, "{edits} edits");
}

#[test]
fn no_chain_breaks_the_rules_the_fingerprint_or_the_round_trip() {
    check(&Residual::resnet20(), 60);
    check(&ConvNet::paper(), 30);
}
