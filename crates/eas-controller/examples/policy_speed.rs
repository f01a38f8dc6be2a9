//! The time that a controller takes for an episode of nine steps on a network of twenty layers.

#![expect(clippy::print_stdout, reason = "the times are what this program is for")]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use eas_controller::{
    Action, Controller, Ending, Proposal, Random, Reinforce, ReinforceOptions, Scope, Trial,
    TrialId,
};
use eas_ir::{Rng, Shape};
use eas_transform::{ConvNet, Deepen, Problem, SearchSpace, Transforms, Widen, grow_network};

/// Episodes of a batch.
const NETWORKS: u32 = 10;

fn main() -> anyhow::Result<()> {
    let space = ConvNet::paper();
    let transforms = Transforms::new([
        ("widen".to_owned(), Box::new(Widen::default()) as _),
        ("deepen".to_owned(), Box::new(Deepen::default()) as _),
    ]);
    let input = Shape::Image { channels: 3, height: 32, width: 32 };
    let start = space.start(&Problem { input, classes: 10, directory: PathBuf::new() })?;
    let deeper: Vec<Action> = vec!["deepen x14".parse()?];
    let scope = Scope {
        space: &space,
        transforms: &transforms,
        actions: &deeper,
        batch: 64,
        parent: &start,
    };
    let Proposal { steps } = Random::default().propose(&scope, 1, &Rng::new(3))?.swap_remove(0);
    let parent = grow_network(&start, &steps, &transforms)?;
    let actions: Vec<Action> = vec!["widen x4".parse()?, "deepen x5".parse()?];
    let scope = Scope { actions: &actions, parent: &parent, ..scope };
    println!("a network of {} layers; milliseconds for an episode:", parent.depth());
    time("random", &mut Random::default(), &scope)?;
    time("reinforce", &mut Reinforce::new(ReinforceOptions::default()), &scope)
}

fn time(name: &str, controller: &mut dyn Controller, scope: &Scope<'_>) -> anyhow::Result<()> {
    let each = |took: Duration| 1e3 * took.as_secs_f64() / f64::from(NETWORKS);
    // The least of several is what the machine's other work disturbed least.
    let (mut proposing, mut observing) = (f64::MAX, f64::MAX);
    for batch in 0..5 {
        let began = Instant::now();
        let proposals = controller.propose(scope, NETWORKS as usize, &Rng::new(batch))?;
        proposing = proposing.min(each(began.elapsed()));
        let fingerprint = scope.parent.fingerprint();
        let ending = || Ending::Trained { accuracy: Some(0.1 * batch as f64) };
        let trial =
            |Proposal { steps }| Trial::once(TrialId(1), TrialId(0), steps, fingerprint, ending());
        let trials: Vec<Trial> = proposals.into_iter().map(trial).collect();
        let began = Instant::now();
        controller.observe(scope, &trials)?;
        observing = observing.min(each(began.elapsed()));
    }
    println!("{name:10} proposing {proposing:6.2}, observing {observing:6.2}");
    Ok(())
}
