//! Episodes in the DenseNet space: controllers build their actors from what its transforms declare.

use eas_controller::{
    Controller, Ending, Random, Reinforce, ReinforceOptions, Trial, TrialId, take_all,
};
use eas_ir::{Network, Op, Rng};
use eas_transform::{Decision, Step, grow_network};

use crate::settings::Setting;

const ACTIONS: [&str; 4] =
    ["widen_growth x3", "replicate x2", "deepen_dense x1", "widen_transition x1"];

/// Filters of the first convolution and of the transitions.
fn transitions(network: &Network) -> Vec<usize> {
    let filters = |node: &eas_ir::Node| match (node.op, node.label.as_ref()?.kind.as_str()) {
        (Op::Conv { filters, .. }, "stem" | "transition") => Some(filters),
        _ => None,
    };
    network.nodes().iter().filter_map(filters).collect()
}

#[test]
fn transitions_are_widened_in_order_each_by_what_then_enters_it() {
    let setting = Setting::of("densenet", "preset = 'small'", &ACTIONS);
    let scope = setting.scope();
    assert_eq!(transitions(&setting.parent), [8, 8, 8]);
    // Two layers of the last block alone: what enters the transitions has changed for neither, until
    // the first convolution is wider.
    let last: Vec<String> =
        ["n44", "n51"].iter().map(|site| format!("widen_growth {site} to 12")).collect();
    let step: Step = last.iter().map(|edit| edit.parse().unwrap()).collect();
    let grown = grow_network(&setting.parent, &[step], scope.transforms).unwrap();
    let mut network = grown.clone();
    let step = take_all(&scope, &mut network, "widen_transition").unwrap();
    // The mean growth rate is 40 / 6; 13 + 2·4 channels enter the first transition, 10 + 2·4 the second.
    assert_eq!(transitions(&network), [13, 10, 9], "{step:?}");
    assert_eq!(step.len(), 3);
    assert!(take_all(&scope, &mut network, "widen_transition").unwrap().is_empty());
}

#[test]
fn every_controller_runs_episodes_of_dense_edits() {
    for options in ["preset = 'small'", "preset = 'small'\nbottleneck = 0\npre_activation = false"]
    {
        let setting = Setting::of("densenet", options, &ACTIONS);
        let scope = setting.scope();
        let reinforce =
            Reinforce::new(ReinforceOptions { units: 8, ..ReinforceOptions::default() });
        let controllers: [Box<dyn Controller>; 2] =
            [Box::new(Random::default()), Box::new(reinforce)];
        for mut controller in controllers {
            for batch in 0..3 {
                let proposals = controller.propose(&scope, 3, &Rng::new(batch)).unwrap();
                let mut trials = Vec::new();
                for (index, proposal) in proposals.into_iter().enumerate() {
                    let steps = proposal.steps;
                    let network = grow_network(scope.parent, &steps, scope.transforms).unwrap();
                    scope.space.admits(&network, scope.batch).unwrap();
                    // What is always done was done: nothing is left of it.
                    let mut done = network.clone();
                    let left = take_all(&scope, &mut done, "widen_transition").unwrap();
                    assert!(left.is_empty(), "{controller:?}: {left:?} after {steps:?}");
                    assert_eq!(steps.len(), 7, "{steps:?}");
                    trials.push(Trial {
                        id: TrialId(1 + index as u32),
                        parent: TrialId(0),
                        fingerprint: network.fingerprint(),
                        ending: Ending::Trained { accuracy: Some(0.1 * index as f64) },
                        steps,
                        same_as: None,
                    });
                }
                controller.observe(&scope, &trials).unwrap();
            }
        }
    }
    let setting = Setting::of("densenet", "preset = 'paper'", &ACTIONS);
    let decision = |name| setting.transforms.get(name).unwrap().decision(setting.space.as_ref());
    // The released code's softmaxes: 3 blocks, 20 layers of a block.
    assert_eq!(decision("replicate"), Decision::OnePick { levels: vec![3, 20] });
    assert_eq!(decision("deepen_dense"), Decision::OnePick { levels: vec![3, 20, 2] });
}
