//! A plugin: the transform `branch` and the search space `pyramid`. `src/main.rs` is an `eas` that
//! has both, beside the built-in ones.

mod branch;
mod pyramid;

pub use branch::{Branch, Layers};
pub use pyramid::Pyramid;

#[cfg(test)]
mod tests {
    use eas_controller::{Controller, Ending, Reinforce, ReinforceOptions, Scope, Trial, TrialId};
    use eas_transform::ir::{Network, Rng};
    use eas_transform::{Deepen, SearchSpace, Step, Transforms, Widen, grow_network, law};

    use super::*;

    /// Branches among the edits they have to get on with.
    fn transforms() -> Transforms {
        Transforms::new([
            ("branch".to_owned(), Box::new(Branch::default()) as _),
            ("deepen".to_owned(), Box::new(Deepen::default()) as _),
            ("widen".to_owned(), Box::new(Widen::default()) as _),
        ])
    }

    #[test]
    fn edits_preserve_the_function() {
        let report = law::check_preserves(&transforms(), &Pyramid::default(), 0..40).unwrap();
        assert!(report.edits > 400 && report.not_testable == 0, "{report:?}");
    }

    #[test]
    fn momentum_follows_the_gradient_to_the_last_bit() {
        let branch = Transforms::new([("branch".to_owned(), Box::new(Branch::default()) as _)]);
        for seed in 0..10 {
            let rng = Rng::new(seed);
            let space = Pyramid::default().miniature(&mut rng.split("space")).unwrap();
            let network = space.start(&law::problem()).unwrap();
            let model = law::random_model(network, &rng).unwrap();
            let gaps = law::check_momentum(&branch, space.as_ref(), &model, seed).unwrap();
            assert_eq!(gaps, (0.0, 0.0), "seed {seed}");
        }
    }

    /// How many of these edits branch off the first block.
    fn in_first_block(parent: &Network, steps: &[Step]) -> usize {
        let block = |edit: &eas_transform::Edit| parent.node(edit.site)?.label.as_ref();
        steps.iter().flatten().filter_map(block).filter(|label| label.block == 0).count()
    }

    #[test]
    fn the_papers_controller_learns_where_to_branch_off() {
        for layers in [Layers::One, Layers::Some] {
            let branch = Branch { layers, ..Branch::default() };
            let transforms = Transforms::new([("branch".to_owned(), Box::new(branch) as _)]);
            let space = Pyramid::default();
            let parent = space.start(&law::problem()).unwrap();
            let actions = ["branch x1".parse().unwrap()];
            let scope = Scope {
                space: &space,
                transforms: &transforms,
                actions: &actions,
                batch: 8,
                parent: &parent,
            };
            let options = ReinforceOptions { learning_rate: 2e-2, ..ReinforceOptions::default() };
            let mut controller = Reinforce::new(options);
            // A branch off the first block is good, any other is bad.
            let judge = |steps: &[Step]| {
                let (good, all) = (in_first_block(&parent, steps), steps.iter().flatten().count());
                0.5 + 0.2 * good as f64 - 0.1 * (all - good) as f64
            };
            let mut shares = Vec::new();
            for number in 0..40 {
                let stream = Rng::new(5).split_index(number);
                let proposals = controller.propose(&scope, 10, &stream).unwrap();
                let trial = |(index, steps): (u32, Vec<Step>)| {
                    let network = grow_network(&parent, &steps, &transforms).unwrap();
                    let ending = Ending::Trained { accuracy: Some(judge(&steps)) };
                    let id = TrialId(10 * number as u32 + index + 1);
                    Trial::once(id, TrialId(0), steps, network.fingerprint(), ending)
                };
                let steps = proposals.into_iter().map(|proposal| proposal.steps);
                let trials: Vec<Trial> = (0..).zip(steps).map(trial).collect();
                let (mut good, mut all) = (0, 0);
                for trial in &trials {
                    good += in_first_block(&parent, &trial.steps);
                    all += trial.steps.iter().flatten().count();
                }
                shares.push(good as f64 / all.max(1) as f64);
                controller.observe(&scope, &trials).unwrap();
            }
            let of = |shares: &[f64]| shares.iter().sum::<f64>() / shares.len() as f64;
            let (first, last) = (of(&shares[..5]), of(&shares[35..]));
            assert!(first < 0.6 && last > 0.9, "{layers:?}: {shares:?}");
        }
    }
}
