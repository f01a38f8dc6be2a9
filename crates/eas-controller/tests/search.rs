//! What holds of episodes and of the search loop, whatever the controller.

use std::collections::BTreeMap;

use eas_controller::{
    Action, Assignment, Batches, Controller, Ending, Evaluator, Event, Halving, Outcome, Proposal,
    Random, Repeat, Scope, StopReason, Trial, TrialId, pick_one, search,
};
use eas_ir::{Network, NodeId, Rng};
use eas_transform::{
    Candidate, Decision, Deepen, Patch, SearchSpace, Target, Transform, Transforms,
};

use crate::settings::{Setting, controller};

/// Judges a network by its fingerprint alone, and hands outcomes back in an order of its own.
#[derive(Default)]
struct Judge {
    waiting: Vec<Assignment>,
    submitted: usize,
    last_first: bool,
    /// How many outcomes it gives before it stops.
    patience: Option<usize>,
}

impl Evaluator for Judge {
    fn submit(&mut self, assignments: Vec<Assignment>) -> anyhow::Result<()> {
        self.submitted += assignments.len();
        self.waiting.extend(assignments);
        Ok(())
    }

    fn collect(&mut self) -> anyhow::Result<Vec<Outcome>> {
        if self.patience == Some(0) || self.waiting.is_empty() {
            return Ok(Vec::new());
        }
        self.patience = self.patience.map(|left| left - 1);
        let place = if self.last_first { self.waiting.len() - 1 } else { 0 };
        let Assignment { trial, network, .. } = self.waiting.remove(place);
        let digits = &network.fingerprint().to_string()[2..10];
        let accuracy = f64::from(u32::from_str_radix(digits, 16).unwrap()) / 2f64.powi(32);
        let ending = Ending::Trained { accuracy: Some(accuracy) };
        Ok(vec![Outcome { trial, ending, seconds: 0.0 }])
    }
}

/// Random search that checks what it is told.
#[derive(Debug, Default)]
struct Watched {
    random: Random,
    /// Batches that were proposed, and how many were observed by then.
    proposed: Vec<(Vec<Proposal>, usize)>,
    observed: usize,
}

impl Controller for Watched {
    fn propose(
        &mut self,
        scope: &Scope<'_>,
        count: usize,
        rng: &Rng,
    ) -> anyhow::Result<Vec<Proposal>> {
        let proposed = self.random.propose(scope, count, rng)?;
        self.proposed.push((proposed.clone(), self.observed));
        Ok(proposed)
    }

    fn observe(&mut self, _: &Scope<'_>, batch: &[Trial]) -> anyhow::Result<()> {
        let steps: Vec<_> = batch.iter().map(|trial| trial.steps.clone()).collect();
        let proposed: Vec<_> =
            self.proposed[self.observed].0.iter().map(|proposal| proposal.steps.clone()).collect();
        assert_eq!(steps, proposed, "a batch is observed whole, in the order proposed");
        self.observed += 1;
        Ok(())
    }
}

/// A stage of batches of three, all of which are trained for one epoch.
fn stage(first_trials: Vec<TrialId>) -> Batches {
    let (halving, repeat) = (Halving::default(), Repeat::Reuse);
    let (parent, lag) = (TrialId(0), 0);
    Batches { parent, first_trials, networks: 3, lag, epochs: 1, halving, repeat }
}

/// Runs a stage of small episodes, in which networks repeat, and checks its events.
fn run(seed: u64, lag: usize, judge: &mut Judge) -> (Vec<Trial>, StopReason) {
    let setting = Setting::new("preset = 'small'", &["deepen x1"]);
    let scope = setting.scope();
    let first_trials = (0..5).map(|batch| TrialId(1 + 8 * batch)).collect();
    let stage = Batches { networks: 8, lag, ..stage(first_trials) };
    let mut controller = Watched::default();
    let mut ended: BTreeMap<TrialId, Trial> = BTreeMap::new();
    let mut assigned = 0;
    let (trials, reason) =
        search(&scope, &stage, &mut controller, judge, &Rng::new(seed), &mut |event| {
            match event {
                Event::Assigned { assignments, .. } => assigned += assignments.len(),
                Event::Ended(trial) => {
                    let before = ended.insert(trial.id, trial.clone());
                    assert!(before.is_none(), "trial {} ended twice", trial.id);
                }
                Event::Observed { .. } => {}
            }
            Ok(())
        })
        .unwrap();
    assert_eq!(assigned, judge.submitted);
    assert_eq!(
        trials,
        ended.into_values().collect::<Vec<_>>(),
        "every trial ends once, seed {seed}"
    );
    if reason == StopReason::Finished {
        assert_eq!((trials.len(), controller.observed), (40, 5));
        let known: Vec<usize> = controller.proposed.iter().map(|(_, known)| *known).collect();
        let expected: Vec<usize> = (0..5).map(|batch: usize| batch.saturating_sub(lag)).collect();
        assert_eq!(known, expected, "lag {lag}: what is known when a batch is proposed");
    }
    (trials, reason)
}

#[test]
fn a_search_does_not_depend_on_which_trial_ends_first() {
    for (seed, lag) in (0..10).flat_map(|seed| [(seed, 0), (seed, 2), (seed, 9)]) {
        let forwards = run(seed, lag, &mut Judge::default());
        let backwards = run(seed, lag, &mut Judge { last_first: true, ..Judge::default() });
        assert_eq!(forwards, backwards, "seed {seed}, lag {lag}");
        assert_ne!(forwards, run(seed + 1, lag, &mut Judge::default()));
    }
}

#[test]
fn a_network_is_trained_once_and_its_repetitions_say_so() {
    for (seed, lag) in (0..10).flat_map(|seed| [(seed, 0), (seed, 1), (seed, 4)]) {
        let mut judge = Judge::default();
        let (trials, _) = run(seed, lag, &mut judge);
        let mut first: BTreeMap<_, &Trial> = BTreeMap::new();
        for trial in &trials {
            match first.get(&trial.fingerprint) {
                None => {
                    assert_eq!(trial.same_as, None, "seed {seed}, trial {}", trial.id);
                    first.insert(trial.fingerprint, trial);
                }
                Some(known) => {
                    assert_eq!(trial.same_as, Some(known.id), "seed {seed}, trial {}", trial.id);
                    assert_eq!(trial.ending, known.ending);
                }
            }
        }
        // Twelve layers to insert, so that forty episodes repeat within batches and across them.
        assert_eq!(judge.submitted, first.len());
        assert!(first.len() < trials.len(), "seed {seed} repeats nothing");
    }
}

#[test]
fn a_stopped_search_keeps_what_is_done() {
    for (patience, lag) in
        [0, 1, 5, 9].into_iter().flat_map(|patience| [(patience, 0), (patience, 1)])
    {
        let (all, _) = run(3, lag, &mut Judge::default());
        let judge = &mut Judge { patience: Some(patience), ..Judge::default() };
        let (trials, reason) = run(3, lag, judge);
        assert_eq!(reason, StopReason::Stopped);
        assert!(trials.len() >= patience, "{} trials of {patience} outcomes", trials.len());
        assert!(trials.iter().all(|trial| all.contains(trial)), "patience {patience}");
    }
}

/// Random search that proposes one episode more than it is asked for.
#[derive(Debug)]
struct Eager(Random);

impl Controller for Eager {
    fn propose(
        &mut self,
        scope: &Scope<'_>,
        count: usize,
        rng: &Rng,
    ) -> anyhow::Result<Vec<Proposal>> {
        self.0.propose(scope, count + 1, rng)
    }

    fn observe(&mut self, _: &Scope<'_>, _: &[Trial]) -> anyhow::Result<()> {
        Ok(())
    }
}

#[test]
fn a_batch_has_as_many_networks_as_were_asked_for() {
    let setting = Setting::new("preset = 'small'", &["widen x1"]);
    let scope = setting.scope();
    let stage = stage(vec![TrialId(1), TrialId(4)]);
    let mut eager = Eager(Random::default());
    let judge = &mut Judge::default();
    let error =
        search(&scope, &stage, &mut eager, judge, &Rng::new(1), &mut |_| Ok(())).unwrap_err();
    assert_eq!(error.to_string(), "the controller was asked for 3 episodes and proposed 4");
}

#[test]
fn no_episode_leaves_the_space() {
    for name in ["paper", "small"] {
        let setting = Setting::new(&format!("preset = '{name}'"), &["widen x6", "deepen x12"]);
        let Setting { space, transforms, parent, .. } = &setting;
        let scope = setting.scope();
        let mut limited = 0;
        for seed in 0..12 {
            let proposals = Random::default().propose(&scope, 1, &Rng::new(seed)).unwrap();
            let mut network = parent.clone();
            for edit in proposals[0].steps.iter().flatten() {
                network = transforms.patch(&network, edit, &mut Rng::new(0)).unwrap().network;
                let admitted = space.admits(&network, 64);
                assert!(admitted.is_ok(), "{name}, seed {seed}, {edit}: {admitted:?}");
            }
            limited += usize::from(network.depth() == space.limits().depth);
            for transform in ["widen", "deepen"] {
                check_paths(&scope, transform, &network);
            }
        }
        // 6 + 12 layers stay below 32; what limits is the number of layers of a block, and width.
        assert_eq!(limited, 0, "{name}");
    }
}

/// Every path of a transform that picks one lies in the tree that its softmaxes span.
fn check_paths(scope: &Scope<'_>, transform: &str, network: &Network) {
    let decision = scope.transforms.get(transform).unwrap().decision(scope.space);
    for (edit, path) in scope.edits(transform, network).unwrap() {
        match &decision {
            Decision::OnePick { levels } => {
                assert_eq!(path.len(), levels.len(), "{edit}");
                let within = path.iter().zip(levels).all(|(choice, choices)| choice < choices);
                assert!(within, "{edit}: {path:?} of {levels:?}");
            }
            Decision::EachSite | Decision::Always => assert_eq!(path.len(), 1, "{edit}"),
        }
    }
}

#[test]
fn random_search_takes_sites_with_its_probability() {
    let setting = Setting::new("preset = 'paper'", &["widen x1"]);
    let scope = setting.scope();
    for (probability, low, high) in [(0.0, 0, 0), (0.5, 2300, 2700), (1.0, 5000, 5000)] {
        let mut random = Random { probability };
        let proposals = random.propose(&scope, 1000, &Rng::new(1)).unwrap();
        // Four convolutions and a linear layer.
        let taken = proposals.iter().flat_map(|proposal| &proposal.steps).flatten().count();
        assert!((low..=high).contains(&taken), "probability {probability}: {taken} of 5000");
    }
}

#[test]
fn a_choice_that_is_not_legal_is_refused() {
    let setting = Setting::new("preset = 'small'", &["deepen x1"]);
    let scope = setting.scope();
    let mut network = setting.parent.clone();
    let error = pick_one(&scope, &mut network, "deepen", &mut |_, _| 99).unwrap_err();
    assert_eq!(error.to_string(), "choice 99 is not among [0, 1, 2, 3, 4]");
    assert_eq!(network, setting.parent);
    let error = pick_one(&scope, &mut network, "deepn", &mut |_, choices| choices[0]).unwrap_err();
    assert_eq!(error.to_string(), "no transform named `deepn`; did you mean `deepen`?");
}

/// Deepening whose paths end sooner in the first block than in others.
#[derive(Debug)]
struct Ragged(Deepen);

impl Transform for Ragged {
    fn decision(&self, space: &dyn SearchSpace) -> Decision {
        self.0.decision(space)
    }

    fn edits(&self, network: &Network, space: &dyn SearchSpace) -> Vec<Candidate> {
        let mut candidates = self.0.edits(network, space);
        for Candidate { path, .. } in &mut candidates {
            path.truncate(if path[0] == 0 { 1 } else { 3 });
        }
        candidates
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

#[test]
fn paths_that_end_at_different_levels_are_refused_by_every_controller() {
    let mut setting = Setting::new("preset = 'small'", &["ragged x1"]);
    setting.transforms =
        Transforms::new([("ragged".to_owned(), Box::new(Ragged(Deepen::default())) as _)]);
    let scope = setting.scope();
    for name in ["random", "reinforce", "hill_climb", "evolution"] {
        let error = controller(name).propose(&scope, 3, &Rng::new(1)).unwrap_err().to_string();
        let expected =
            "transform `ragged`: expected paths of one length, found 1 choices to an edit, and 3";
        assert!(error.starts_with(expected), "{name}: {error}");
    }
}

#[test]
fn actions_are_read_as_they_are_written() {
    for text in ["widen x4", "deepen x1", "widen_growth x1000"] {
        assert_eq!(text.parse::<Action>().unwrap().to_string(), text);
    }
    assert_eq!("widen".parse::<Action>().unwrap().to_string(), "widen x1");
    for text in ["", "widen 4", "widen x0", "widen x1001", "widen x4 x5", "x"] {
        match text.parse::<Action>() {
            Ok(action) => assert_eq!((text, action.count), ("x", 1)),
            Err(error) => {
                assert!(error.to_string().ends_with(&format!("found `{text}`")), "{error}")
            }
        }
    }
}
