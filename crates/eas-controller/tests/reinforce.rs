//! What holds of the paper's controller, whatever it has learned.

use std::collections::{BTreeMap, BTreeSet};

use eas_controller::{
    BaselineKind, Controller, Ending, Reinforce, ReinforceOptions, Scope, Trial, TrialId,
    every_site, pick_one, take_all,
};
use eas_ir::{Label, Network, Op, Rng, Shape};
use eas_transform::{Decision, Step, grow_network};

use crate::settings::Setting;

/// A controller whose decisions soon become extreme.
fn eager() -> Reinforce {
    small(ReinforceOptions { learning_rate: 0.2, ..ReinforceOptions::default() })
}

fn small(options: ReinforceOptions) -> Reinforce {
    Reinforce::new(ReinforceOptions { units: 8, ..options })
}

/// Proposes and observes batches, each with the accuracies that `judge` gives; returns all steps.
fn teach(
    controller: &mut Reinforce,
    scope: &Scope<'_>,
    batches: u64,
    networks: usize,
    judge: &mut dyn FnMut(&Network) -> f64,
) -> Vec<Vec<Step>> {
    let rng = Rng::new(11);
    let mut all = Vec::new();
    for batch in 0..batches {
        let stream = rng.split_index(batch);
        let proposals = controller.propose(scope, networks, &stream).unwrap();
        let trials: Vec<Trial> = proposals
            .into_iter()
            .enumerate()
            .map(|(index, proposal)| {
                let network =
                    grow_network(scope.parent, &proposal.steps, scope.transforms).unwrap();
                let (id, parent) = (TrialId(1 + index as u32), TrialId(0));
                let ending = Ending::Trained { accuracy: Some(judge(&network)) };
                Trial::once(id, parent, proposal.steps, network.fingerprint(), ending)
            })
            .collect();
        controller.observe(scope, &trials).unwrap();
        all.extend(trials.into_iter().map(|trial| trial.steps));
    }
    all
}

/// An accuracy that differs from network to network.
fn by_name(network: &Network) -> f64 {
    let digits = &network.fingerprint().to_string()[2..10];
    f64::from(u32::from_str_radix(digits, 16).unwrap()) / 2f64.powi(32)
}

/// Every episode that a scope has.
fn all_episodes(scope: &Scope<'_>) -> Vec<Vec<Step>> {
    let mut episodes: Vec<(Network, Vec<Step>)> = vec![(scope.parent.clone(), Vec::new())];
    for action in scope.actions {
        let transform = &action.transform;
        let decision = scope.transforms.get(transform).unwrap().decision(scope.space);
        for _ in 0..action.count {
            let mut longer = Vec::new();
            for (network, steps) in &episodes {
                for (network, step) in all_steps(scope, network, transform, &decision) {
                    longer.push((network, [steps.as_slice(), &[step]].concat()));
                }
            }
            episodes = longer;
        }
    }
    episodes.into_iter().map(|(_, steps)| steps).collect()
}

fn all_steps(
    scope: &Scope<'_>,
    network: &Network,
    transform: &str,
    decision: &Decision,
) -> Vec<(Network, Step)> {
    let legal = scope.edits(transform, network).unwrap();
    let mut steps = BTreeMap::new();
    let mut keep = |network: Network, step: Step| steps.insert(step, network);
    match decision {
        Decision::EachSite => {
            for answers in 0..1u32 << legal.len() {
                let mut child = network.clone();
                let mut asked = 0;
                let step = every_site(scope, &mut child, transform, &mut |_| {
                    asked += 1;
                    answers >> (asked - 1) & 1 == 1
                });
                let step = step.unwrap();
                keep(child, step);
            }
        }
        Decision::OnePick { .. } => {
            for (_, path) in &legal {
                let mut child = network.clone();
                let step = pick_one(scope, &mut child, transform, &mut |l, _| path[l]).unwrap();
                keep(child, step);
            }
            if legal.is_empty() {
                keep(network.clone(), Step::new());
            }
        }
        Decision::Always => {
            let mut child = network.clone();
            let step = take_all(scope, &mut child, transform).unwrap();
            keep(child, step);
        }
    }
    steps.into_iter().map(|(step, network)| (network, step)).collect()
}

/// A network of two dense layers.
fn dense() -> Network {
    let mut network = Network::new();
    let input = Shape::Image { channels: 3, height: 8, width: 8 };
    let mut last = network.push(Op::Input { shape: input }, &[], None);
    for layer in 0..2 {
        let label = Some(Label::new("dense", 0, layer));
        let mut body = network.push(Op::batch_norm(), &[last], label.clone());
        body = network.push(Op::Relu, &[body], label.clone());
        body = network.push(Op::conv(4, 3), &[body], label.clone());
        last = network.push(Op::Concat, &[last, body], label);
    }
    last = network.push(Op::GlobalPool, &[last], None);
    network.push(Op::Linear { units: 10, bias: true }, &[last], None);
    network
}

/// Scopes with few episodes: masked or not, of every kind of decision.
fn small_settings() -> Vec<(&'static str, Setting)> {
    let options = "start = ['conv 4', 'pool', 'conv 4', 'global_pool', 'linear 8']
                   filters = [4, 6, 8]\nunits = [8, 12]";
    let tight = "start = ['conv 4', 'pool', 'conv 4', 'global_pool', 'linear 8']
                 filters = [4, 6, 8]\nunits = [8, 12]\nlimits = { parameters = 800, depth = 5 }";
    let mut growing = Setting::new(options, &["widen_growth x2", "replicate x2"]);
    growing.parent = dense();
    let stages =
        "stages = [{ blocks = 1, width = 4 }, { blocks = 1, width = 8 }]\nkernels = [1, 3]";
    let residual = ["grow_kernel x2", "add_block x1", "skip x1"];
    vec![
        ("both", Setting::new(options, &["widen x1", "deepen x1"])),
        ("widen twice", Setting::new(options, &["widen x2"])),
        ("deeper first", Setting::new(options, &["deepen x1", "widen x1"])),
        ("within tight limits", Setting::new(tight, &["widen x2", "deepen x2"])),
        ("dense layers", growing),
        ("residual blocks", Setting::of("residual", stages, &residual)),
        ("always wider", Setting::new(options, &["deepen x2", "widen_all x1"])),
    ]
}

#[test]
fn the_probabilities_of_all_episodes_sum_to_one() {
    for (name, setting) in small_settings() {
        let scope = setting.scope();
        let episodes = all_episodes(&scope);
        assert!(episodes.len() > 10, "{name}: {} episodes", episodes.len());
        for (learned, batches) in [("nothing", 1), ("something", 5)] {
            let mut controller = eager();
            let drawn = teach(&mut controller, &scope, batches, 4, &mut by_name);
            let mut probability =
                |steps: &Vec<Step>| controller.log_probability(&scope, steps).unwrap().exp();
            let sum: f64 = episodes.iter().map(&mut probability).sum();
            assert!((sum - 1.0).abs() < 1e-9, "{name}, {learned} learned: {sum}");
            let known: BTreeSet<_> = episodes.iter().collect();
            assert!(drawn.iter().all(|steps| known.contains(steps)), "{name}");
        }
    }
}

#[test]
fn episodes_are_drawn_as_often_as_they_are_probable() {
    let (_, setting) = small_settings().swap_remove(0);
    let scope = setting.scope();
    let mut controller = small(ReinforceOptions::default());
    let draws = 4000;
    let proposals = controller.propose(&scope, draws, &Rng::new(2)).unwrap();
    let mut counts: BTreeMap<Vec<Step>, usize> = BTreeMap::new();
    for proposal in proposals {
        *counts.entry(proposal.steps).or_default() += 1;
    }
    for steps in all_episodes(&scope) {
        let probability = controller.log_probability(&scope, &steps).unwrap().exp();
        let expected = probability * draws as f64;
        let found = counts.get(&steps).copied().unwrap_or(0) as f64;
        // Five deviations of a Poisson variable.
        let room = 5.0 * expected.sqrt() + 1.0;
        assert!((found - expected).abs() < room, "{steps:?}: {found}, expected {expected}");
    }
}

#[test]
fn what_a_transform_always_does_is_done_and_has_no_part_in_the_probability() {
    let options = "preset = 'small'";
    let asked = Setting::new(options, &["deepen x2"]);
    let setting = Setting::new(options, &["deepen x2", "widen_all x1"]);
    let scope = setting.scope();
    let mut controller = eager();
    for steps in teach(&mut controller, &scope, 4, 5, &mut by_name) {
        let [deeper @ .., wider] = steps.as_slice() else { panic!("an episode has steps") };
        let network = grow_network(scope.parent, deeper, scope.transforms).unwrap();
        let sites: BTreeSet<_> =
            scope.edits("widen_all", &network).unwrap().iter().map(|(edit, _)| edit.site).collect();
        assert_eq!(wider.iter().map(|edit| edit.site).collect::<BTreeSet<_>>(), sites);
        let both = controller.log_probability(&scope, &steps).unwrap();
        let alone = controller.log_probability(&asked.scope(), deeper).unwrap();
        assert_eq!(both, alone, "{steps:?}");
    }
}

#[test]
fn an_unmasked_policy_spends_probability_on_what_is_not_legal() {
    let setting = Setting::new("start = ['pool', 'conv 16', 'pool']", &["deepen x1"]);
    let scope = setting.scope();
    let sum = |mask| {
        let mut controller = small(ReinforceOptions { mask, ..ReinforceOptions::default() });
        teach(&mut controller, &scope, 2, 4, &mut by_name);
        let mut probability =
            |steps: &Vec<Step>| controller.log_probability(&scope, steps).unwrap().exp();
        all_episodes(&scope).iter().map(&mut probability).sum::<f64>()
    };
    assert!((sum(true) - 1.0).abs() < 1e-9, "{}", sum(true));
    assert!(sum(false) < 0.2, "{}", sum(false));
}

#[test]
fn no_episode_leaves_the_space() {
    let tight = "limits = { parameters = 150000, macs = '5M', layers = 2 }";
    for options in ["preset = 'paper'", "preset = 'small'", tight] {
        let setting = Setting::new(options, &["widen x2", "deepen x2"]);
        let scope = setting.scope();
        let mut controller = eager();
        let mut limited = 0;
        let episodes = teach(&mut controller, &scope, 70, 10, &mut |network| {
            let admitted = scope.space.admits(network, scope.batch);
            assert!(admitted.is_ok(), "{options}: {admitted:?}\n{network}");
            // Five layers can be widened at first, and each has widths left after two steps.
            let widened = scope.edits("widen", network).unwrap().len();
            limited += usize::from(widened < 5);
            by_name(network)
        });
        assert_eq!(episodes.len(), 700);
        assert_eq!(limited > 0, options == tight, "{options}: {limited} episodes met a limit");
    }
}

#[test]
fn a_policy_is_a_function_of_the_seed_and_what_was_observed() {
    let setting = Setting::new("preset = 'small'", &["widen x2", "deepen x2"]);
    let scope = setting.scope();
    let run = |judge: fn(&Network) -> f64| {
        let mut controller = small(ReinforceOptions::default());
        let steps = teach(&mut controller, &scope, 4, 6, &mut |network| judge(network));
        (steps, controller.state().unwrap())
    };
    let (steps, state) = run(by_name);
    assert_eq!((&steps, &state), (&run(by_name).0, &run(by_name).1));
    let (others, another) = run(|network| 1.0 - by_name(network));
    assert_eq!(steps[..6], others[..6], "the first batch is proposed before anything is learned");
    assert_ne!(state, another);
}

/// Set for a child process, which writes there what it decided.
const DECISIONS: &str = "EAS_TEST_DECISIONS";

#[test]
fn decisions_do_not_depend_on_the_number_of_threads() {
    let setting = Setting::new("preset = 'small'", &["widen x1", "deepen x1"]);
    let scope = setting.scope();
    if let Some(path) = std::env::var_os(DECISIONS) {
        // Batches of this size are large enough for matrix products to be spread over threads.
        let mut controller = Reinforce::new(ReinforceOptions::default());
        let steps = teach(&mut controller, &scope, 2, 100, &mut by_name);
        let decided = format!("{steps:?}\n{:?}\n", controller.state().unwrap());
        std::fs::write(path, decided).unwrap();
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let decided = ["1", "2", "5"].map(|threads| {
        let path = folder.path().join(threads);
        let done = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "reinforce::decisions_do_not_depend_on_the_number_of_threads"])
            .env("RAYON_NUM_THREADS", threads)
            .env(DECISIONS, &path)
            .output()
            .unwrap();
        assert!(done.status.success(), "{done:?}");
        std::fs::read_to_string(path).unwrap()
    });
    assert!(decided[0].contains("deepen") && decided[0].len() > 10_000);
    assert!(decided.iter().all(|other| *other == decided[0]));
}

#[test]
fn nothing_that_can_happen_leaves_the_finite_numbers() {
    let settings = [
        (
            "at its widest",
            "filters = [16, 32, 64, 128]\nunits = [256]\nstart = ['conv 128', \
          'global_pool', 'linear 256']",
        ),
        ("empty blocks", "start = ['pool', 'pool', 'conv 16', 'pool']"),
        ("no token", "start = ['flatten']"),
        ("no room", "start = ['conv 16']\nlimits = { depth = 2, parameters = 170000 }"),
    ];
    type Judge = fn(&Network) -> f64;
    let accuracies: [(&str, Judge); 4] =
        [("0", |_| 0.0), ("1", |_| 1.0), ("equal", |_| 0.7), ("any", by_name)];
    for (name, options) in settings {
        let setting = Setting::new(options, &["widen x2", "deepen x1"]);
        for (accuracy, judge) in accuracies {
            for baseline in [BaselineKind::Ema, BaselineKind::Released, BaselineKind::None] {
                let options = ReinforceOptions { baseline, ..ReinforceOptions::default() };
                let mut controller = small(options);
                teach(&mut controller, &setting.scope(), 3, 3, &mut |network| judge(network));
                for (number, values) in controller.state().unwrap() {
                    let finite = values.iter().all(|value| value.is_finite());
                    assert!(finite, "{name}, accuracy {accuracy}, {baseline:?}: {number}");
                }
            }
        }
    }
}

#[test]
fn what_is_rewarded_becomes_more_probable() {
    for (name, setting) in small_settings() {
        let scope = setting.scope();
        let options = ReinforceOptions { learning_rate: 0.02, ..ReinforceOptions::default() };
        let mut controller = small(options);
        let grown = |network: &Network| {
            let convolutions = network.nodes().iter().filter_map(|node| match node.op {
                Op::Conv { filters, .. } => Some(filters),
                _ => None,
            });
            0.1 + 0.01 * convolutions.sum::<usize>() as f64
        };
        let mut seen = Vec::new();
        teach(&mut controller, &scope, 40, 10, &mut |network| {
            seen.push(grown(network));
            grown(network)
        });
        let mean = |of: &[f64]| of.iter().sum::<f64>() / of.len() as f64;
        let (early, late) = (mean(&seen[..50]), mean(&seen[350..]));
        assert!(late > early + 0.01, "{name}: {early} before, {late} after");
    }
}

#[test]
fn trials_that_say_nothing_of_their_network_teach_nothing() {
    let setting = Setting::new("preset = 'small'", &["widen x1"]);
    let scope = setting.scope();
    let mut controller = small(ReinforceOptions::default());
    let proposals = controller.propose(&scope, 2, &Rng::new(3)).unwrap();
    let (steps, fingerprint) = (&proposals[0].steps, setting.parent.fingerprint());
    let trial = |ending| Trial::once(TrialId(1), TrialId(0), steps.clone(), fingerprint, ending);
    let before = controller.state().unwrap();
    let why = "no memory".to_owned();
    let mute = [trial(Ending::Failed { why: why.clone() }), trial(Ending::Refused { why })];
    controller.observe(&scope, &mute).unwrap();
    assert_eq!(before, controller.state().unwrap());
    controller.observe(&scope, &[trial(Ending::Diverged { epoch: 0 })]).unwrap();
    assert_ne!(before, controller.state().unwrap());
}

#[test]
fn steps_of_another_scope_are_refused() {
    let setting = Setting::new("preset = 'small'", &["widen x1", "deepen x1"]);
    let scope = setting.scope();
    let mut controller = small(ReinforceOptions::default());
    let edit = |text: &str| text.parse().unwrap();
    let before =
        controller.log_probability(&scope, &[vec![], vec![edit("deepen n1 with kernel 3")]]);
    let expected = "expected a proposal before anything else: it initialises the policy";
    assert_eq!(before.unwrap_err().to_string(), expected);
    controller.propose(&scope, 1, &Rng::new(1)).unwrap();
    let cases = [
        (vec![vec![]], "expected 2 steps of an episode, found 1"),
        (vec![vec![edit("widen n1 to 9")], vec![edit("deepen n1 with kernel 3")]], "expected []"),
        (vec![vec![], vec![edit("deepen n999")]], "is not among [0, 1, 2, 3, 4]"),
    ];
    for (steps, expected) in cases {
        let error = controller.log_probability(&scope, &steps).unwrap_err().to_string();
        assert!(error.contains(expected), "{steps:?}: {error}");
    }
    let other = Setting::new("preset = 'paper'", &["widen x1", "deepen x1"]);
    let error = controller.propose(&other.scope(), 1, &Rng::new(1)).unwrap_err().to_string();
    assert!(error.starts_with("encoder.embedding: expected the shape"), "{error}");
}
