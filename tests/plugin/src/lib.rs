//! A plugin: the transform `branch` and the search space `pyramid`. `src/main.rs` is an `eas` that
//! has both, beside the built-in ones.

mod branch;
mod pyramid;

pub use branch::Branch;
pub use pyramid::Pyramid;

#[cfg(test)]
mod tests {
    use eas_controller::{Controller, Ending, Reinforce, ReinforceOptions, Scope, Trial, TrialId};
    use eas_transform::ir::{Network, NodeId, Rng};
    use eas_transform::{
        Candidate, Decision, Deepen, Patch, SearchSpace, Step, Target, Transform, Transforms,
        Widen, grow_network, law,
    };

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

    /// Branches that a policy decides about otherwise.
    #[derive(Debug)]
    struct Decided(Branch, Decision);

    impl Transform for Decided {
        fn decision(&self, _: &dyn SearchSpace) -> Decision {
            self.1.clone()
        }

        fn edits(&self, network: &Network, space: &dyn SearchSpace) -> Vec<Candidate> {
            self.0.edits(network, space)
        }

        fn patch(
            &self,
            network: &Network,
            site: NodeId,
            target: Target,
            rng: &mut Rng,
        ) -> anyhow::Result<Patch> {
            self.0.patch(network, site, target, rng)
        }
    }

    /// How many of these edits branch off the first block, and how many there are.
    fn in_first_block(parent: &Network, steps: &[Step]) -> (usize, usize) {
        let block =
            |edit: &eas_transform::Edit| Some(parent.node(edit.site)?.label.as_ref()?.block);
        let good = steps.iter().flatten().filter(|edit| block(edit) == Some(0)).count();
        (good, steps.iter().flatten().count())
    }

    /// For each batch, the share of branches that are off the first block, where those are good and all others
    /// bad. The controller knows of the transform what it declares.
    fn shares(transform: Box<dyn Transform>) -> Vec<f64> {
        let transforms = Transforms::new([("branch".to_owned(), transform)]);
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
        let mut batch = |number: u32| {
            let stream = Rng::new(5).split_index(u64::from(number));
            let proposals = controller.propose(&scope, 10, &stream).unwrap();
            let trial = |(index, steps): (u32, Vec<Step>)| {
                let (good, all) = in_first_block(&parent, &steps);
                let accuracy = Some(0.5 + 0.2 * good as f64 - 0.1 * (all - good) as f64);
                let network = grow_network(&parent, &steps, &transforms).unwrap();
                let (id, ending) = (TrialId(10 * number + index + 1), Ending::Trained { accuracy });
                Trial::once(id, TrialId(0), steps, network.fingerprint(), ending)
            };
            let steps = proposals.into_iter().map(|proposal| proposal.steps);
            let trials: Vec<Trial> = (0..).zip(steps).map(trial).collect();
            controller.observe(&scope, &trials).unwrap();
            let steps: Vec<Step> = trials.into_iter().flat_map(|trial| trial.steps).collect();
            let (good, all) = in_first_block(&parent, &steps);
            good as f64 / all.max(1) as f64
        };
        (0..40).map(&mut batch).collect()
    }

    #[test]
    fn the_papers_controller_learns_where_to_branch_off() {
        let each_site = Decided(Branch::default(), Decision::EachSite);
        for (name, transform) in [
            ("one pick", Box::new(Branch::default()) as Box<dyn Transform>),
            ("each site", Box::new(each_site)),
        ] {
            let shares = shares(transform);
            let last = shares[35..].iter().sum::<f64>() / 5.0;
            assert!(shares[0] < 0.6 && last > 0.9, "{name}: {shares:?}");
        }
    }

    #[test]
    fn what_is_always_done_is_done_to_every_layer() {
        let always = Decided(Branch::default(), Decision::Always);
        let shares = shares(Box::new(always));
        assert_eq!(shares, [1.0 / 3.0; 40], "one of three blocks");
    }
}
