//! What a run survives: each test does something terrible to a search over made-up images, and compares
//! what comes out with a search that nothing happened to.

mod garbage;
mod repair;
mod room;
mod strangers;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// Time that any command here may take.
const PATIENCE: Duration = Duration::from_secs(180);
/// The exit code of a damaged run.
const DAMAGED: i32 = 4;

/// A start network that is trained on, a stage that proposes a batch ahead and whose best are trained
/// again and longer, one that grows the best anew in each batch, one that trains only the best of a batch
/// to the end and a network anew each time, two finals, and a checkpoint after every step.
const SPEC: &str = r#"
schema = 1
name = "tiny"
seed = 3
[data.synthetic]
images = 240
validation = 80
height = 8
width = 8
[space.convnet]
start = ["conv 4", "pool", "conv 6", "global_pool"]
filters = [4, 6, 8]
units = [8, 16]
kernels = [1, 3]
[transform.widen]
[transform.deepen]
kernels = [1, 3]
[controller.random]
[start]
recipe = "quick"
epochs = 2
rounds = 1
[child]
recipe = "quick"
epochs = 2
momentum = "carry"
[[stage]]
batches = 3
networks = 2
lag = 1
actions = ["widen x1", "deepen x1"]
promote = { candidates = 2, seeds = 2, epochs = 1 }
repeat = "reuse"
[[stage]]
batches = 2
networks = 2
actions = ["widen x1", "deepen x1"]
parent = "frontier"
repeat = "reuse"
[[stage]]
batches = 2
networks = 4
actions = ["widen x1"]
parent = "start"
halving = { rungs = [1], eta = 2 }
repeat = "retrain"
[final]
equal_compute = true
ranked = 2
networks = 2
recipe = "quick"
epochs = 2
[run]
workers = 2
devices = "cpu"
checkpoint = "0s"
retries = { lost = 1000, failed = 1000 }
"#;

/// A folder with the spec, for runs.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("spec.toml"), SPEC).unwrap();
        Place(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn search(&self, run: &str, set: &[&str]) -> Command {
        let mut command = eas("search", &self.path("spec.toml"));
        command.arg("--run").arg(self.path(run));
        for text in set {
            command.args(["--set", text]);
        }
        command
    }
}

fn eas(command: &str, path: &Path) -> Command {
    let mut eas = Command::new(env!("CARGO_BIN_EXE_eas"));
    eas.arg(command).arg(path);
    eas
}

/// Runs a command to its end, which must be in time.
fn output(command: &mut Command) -> Output {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let id = child.id();
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || sender.send(child.wait_with_output()));
    receiver.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("process {id} hangs")).unwrap()
}

fn succeeds(command: &mut Command) -> Output {
    let output = output(command);
    assert!(output.status.success(), "{command:?}: {}", said(&output));
    output
}

fn said(output: &Output) -> String {
    format!(
        "{}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

fn json(path: &Path) -> Value {
    let bytes = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&bytes).unwrap()
}

/// The JSON of a file without what may differ between two runs of the same search.
fn timeless(path: &Path) -> Value {
    let mut value = json(path);
    for key in ["seconds", "attempt", "test_opened"] {
        value.as_object_mut().unwrap().remove(key);
    }
    value
}

/// All that a run came to: results with the digests of their weights, the report, the model.
fn outcome(run: &Path) -> BTreeMap<String, Value> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(run.join("trials")).unwrap() {
        let trial = entry.unwrap();
        for name in ["trial.json", "result.json"] {
            let path = trial.path().join(name);
            if path.exists() {
                all.insert(format!("{}/{name}", trial.file_name().display()), timeless(&path));
            }
        }
    }
    all.insert("report".to_owned(), timeless(&run.join("report.json")));
    let weights = fs::read(run.join("best/weights.safetensors")).unwrap();
    all.insert("best".to_owned(), weights.into());
    all
}

/// What the search comes to when nothing happens to it.
static UNDISTURBED: LazyLock<BTreeMap<String, Value>> = LazyLock::new(|| {
    let place = Place::new();
    succeeds(&mut place.search("run", &[]));
    outcome(&place.path("run"))
});

fn assert_undisturbed(run: &Path, what: &str) {
    let found = outcome(run);
    let differ: Vec<_> =
        UNDISTURBED.iter().filter(|(key, value)| found.get(*key) != Some(value)).collect();
    assert!(differ.is_empty(), "{what}: {differ:#?}");
    assert_eq!(found.len(), UNDISTURBED.len(), "{what}: {:?}", found.keys());
    let verified = output(&mut eas("verify", run));
    assert!(verified.status.success(), "{what}: {}", said(&verified));
}

/// Resumes a run until it is finished.
fn resume(run: &Path, failpoint: Option<&str>) {
    for _ in 0..20 {
        let mut command = eas("resume", run);
        command.envs(failpoint.map(|wish| ("EAS_FAILPOINT", wish)));
        if output(&mut command).status.success() {
            return;
        }
    }
    panic!("{}: not finished: {}", run.display(), said(&output(&mut eas("resume", run))));
}

fn wait_until(what: &str, holds: impl Fn() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < PATIENCE, "{what}: never");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn start(command: &mut Command) -> Child {
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

#[test]
fn results_do_not_depend_on_the_number_of_workers() {
    let place = Place::new();
    for workers in ["1", "3"] {
        succeeds(place.search(workers, &[]).args(["--workers", workers]));
        assert_undisturbed(&place.path(workers), &format!("{workers} workers"));
    }
}

/// The results of the undisturbed search that are for this purpose, in order.
fn undisturbed(purpose: &str) -> Vec<&'static Value> {
    UNDISTURBED
        .values()
        .filter(|value| value["purpose"] == purpose && value["ending"].is_object())
        .collect()
}

fn accuracy(result: &Value) -> f64 {
    result["ending"]["accuracy"].as_f64().unwrap_or(-1.0)
}

/// The best by this, the first of several.
fn best<'a>(results: &[&'a Value], score: impl Fn(&Value) -> f64) -> &'a Value {
    results.iter().rev().max_by(|a, b| score(a).total_cmp(&score(b))).unwrap()
}

#[test]
fn a_start_network_is_trained_on_while_that_pays() {
    let place = Place::new();
    for (name, set, rounds) in [
        ("always", ["start.rounds=3", "start.gain=0", "run.deadline=0s"], 1..=4),
        ("hardly", ["start.rounds=3", "start.gain=0.99", "run.deadline=0s"], 2..=2),
        ("never", ["start.rounds=0", "start.gain=0", "run.deadline=0s"], 1..=1),
    ] {
        succeeds(&mut place.search(name, &set));
        let all = outcome(&place.path(name));
        let starts: Vec<&Value> =
            all.values().filter(|v| v["purpose"] == "start" && v["ending"].is_object()).collect();
        assert!(rounds.contains(&starts.len()), "{name}: {} rounds", starts.len());
        for pair in starts.windows(2) {
            assert_eq!(pair[1]["parent"], pair[0]["trial"], "{name}: each goes on from the last");
        }
        let last = best(&starts, accuracy);
        let handed_over = all.values().find(|v| v["purpose"] == "final" && v["ending"].is_object());
        let parent = &handed_over.unwrap()["parent"];
        assert_eq!(parent, &last["trial"], "{name}: the best round is what is grown");
    }
}

#[test]
fn the_best_are_promoted_by_what_they_come_to_with_fresh_seeds() {
    let first_stage: Vec<&Value> = undisturbed("child").into_iter().take(6).collect();
    let again = undisturbed("reevaluation");
    assert_eq!(again.len(), 4);
    let of = |child: &Value| -> Vec<f64> {
        let key = |result: &Value| (result["parent"].clone(), result["fingerprint"].clone());
        again.iter().filter(|a| key(a) == key(child)).map(|a| accuracy(a)).collect()
    };
    let mut chosen: Vec<&Value> =
        first_stage.iter().copied().filter(|child| child["same_as"].is_null()).collect();
    chosen.sort_by(|a, b| accuracy(b).total_cmp(&accuracy(a)));
    chosen.truncate(2);
    for child in &chosen {
        assert_eq!(of(child).len(), 2, "{child}");
    }
    let mean = |child: &Value| of(child).iter().sum::<f64>() / 2.0;
    chosen.sort_by_key(|child| child["trial"].to_string());
    let promoted = undisturbed("promoted");
    assert_eq!(promoted.len(), 1);
    assert_eq!(promoted[0]["parent"], best(&chosen, mean)["trial"], "{chosen:#?}");
    let models: BTreeSet<String> = again.iter().map(|a| a["model"].to_string()).collect();
    assert_eq!(models.len(), 4, "each seed trains weights of its own");
    let report = &UNDISTURBED["report"]["reevaluated"];
    assert_eq!(report.as_array().map(Vec::len), Some(2), "{report}");
}

#[test]
fn a_frontier_grows_the_best_anew_in_each_batch() {
    let children = undisturbed("child");
    let (start, promoted) = (best(&undisturbed("start"), accuracy), undisturbed("promoted")[0]);
    let other = undisturbed("reevaluation")
        .iter()
        .map(|again| (again["fingerprint"].clone(), accuracy(again) / 2.0))
        .filter(|(fingerprint, _)| fingerprint != &promoted["fingerprint"])
        .map(|(_, half)| half)
        .sum::<f64>();
    let mut known = vec![start, promoted];
    for batch in children[6..10].chunks(2) {
        let parent = best(&known, accuracy);
        assert!(accuracy(parent) >= other, "the seed makes this a test of the frontier alone");
        for child in batch {
            assert_eq!(child["parent"], parent["trial"], "{child}");
        }
        known.extend(batch);
    }
}

#[test]
fn the_best_of_a_batch_go_on_as_if_they_had_never_been_stopped() {
    let place = Place::new();
    succeeds(&mut place.search("whole", &["stage.2.halving.rungs=[]"]));
    let whole = outcome(&place.path("whole"));
    let children = &undisturbed("child")[10..];
    let first = &children[0]["trial"];
    let (parts, went_on): (Vec<&Value>, Vec<&Value>) =
        children.iter().take(6).partition(|part| part["continues"].is_null());
    assert_eq!((parts.len(), went_on.len()), (4, 2), "{children:#?}");
    let reached = |part: &&Value| accuracy(part);
    let mut best = parts.clone();
    best.sort_by(|a, b| reached(b).total_cmp(&reached(a)));
    for part in &parts {
        assert_eq!((&part["ending"]["kind"], &part["epochs"]), (&"stopped".into(), &1.into()));
        let next = went_on.iter().find(|next| next["continues"] == part["trial"]);
        let chosen = best[..2].iter().any(|best| best["trial"] == part["trial"]);
        assert_eq!(next.is_some(), chosen, "first trial {first}: {part}");
        if let Some(next) = next {
            let undivided = &whole[&format!("{}/result.json", part["trial"].as_str().unwrap())];
            for key in ["ending", "model", "momentum", "certificate", "drift", "steps", "parent"] {
                assert_eq!(next[key], undivided[key], "{key} of {next}");
            }
        }
    }
    assert_eq!(UNDISTURBED["report"]["stopped"], 4, "{}", UNDISTURBED["report"]);
    assert_eq!(UNDISTURBED["report"]["children"], 18);
}

#[test]
fn a_network_that_is_proposed_again_is_trained_anew_where_the_stage_says_so() {
    for (repeat, anew) in [("retrain", true), ("reuse", false)] {
        let place = Place::new();
        let set = [&format!("stage.2.repeat={repeat}"), "stage.2.halving.rungs=[]"];
        succeeds(&mut place.search("run", &set));
        let all = outcome(&place.path("run"));
        let children: Vec<&Value> = all
            .values()
            .filter(|value| value["purpose"] == "child" && value["ending"].is_object())
            .skip(10)
            .collect();
        let networks: BTreeSet<String> =
            children.iter().map(|child| child["fingerprint"].to_string()).collect();
        assert!(networks.len() < 8, "the seed makes this a test: a network is proposed twice");
        let trained = children.iter().filter(|child| child["same_as"].is_null()).count();
        assert_eq!(trained == 8, anew, "{repeat}: {children:#?}");
        succeeds(&mut eas("verify", &place.path("run")));
    }
}

#[test]
fn a_deadline_within_a_promotion_is_kept_to_for_ever() {
    let place = Place::new();
    let run = place.path("run");
    succeeds(&mut place.search("run", &[]));
    // As the run was while its third re-evaluation was trained, when the deadline came.
    let again = undisturbed("reevaluation")[2]["trial"].as_str().unwrap();
    fs::remove_file(run.join(format!("trials/{again}/result.json"))).unwrap();
    for entry in fs::read_dir(run.join("trials")).unwrap() {
        let folder = entry.unwrap();
        if folder.file_name().to_str().unwrap() > again {
            fs::remove_dir_all(folder.path()).unwrap();
        }
    }
    fs::remove_file(run.join("report.json")).unwrap();
    fs::remove_file(run.join("events.jsonl")).unwrap();
    let plan = fs::read_to_string(run.join("plan.toml")).unwrap();
    let due = plan.replace("[run]\n", "[run]\ndeadline = \"1ms\"\n");
    assert_ne!(due, plan);
    fs::write(run.join("plan.toml"), due).unwrap();
    succeeds(&mut eas("resume", &run));
    let events = fs::read_to_string(run.join("events.jsonl")).unwrap();
    assert!(events.lines().next().unwrap().contains(again), "{events}");
    let before = outcome(&run);
    assert!(!before.values().any(|result| result["purpose"] == "promoted"));
    let final_of = before.values().find(|v| v["purpose"] == "final" && v["ending"].is_object());
    let known: Vec<&Value> = [undisturbed("start"), undisturbed("child")[..6].to_vec()].concat();
    assert_eq!(final_of.unwrap()["parent"], best(&known, accuracy)["trial"]);
    succeeds(eas("verify", &run).arg("--rebuild"));
    // Made again with all the time in the world, it gives up the same.
    fs::remove_file(run.join("report.json")).unwrap();
    fs::write(run.join("plan.toml"), plan.replace("[run]\n", "[run]\ndeadline = \"1h\"\n"))
        .unwrap();
    succeeds(&mut eas("resume", &run));
    assert_eq!(outcome(&run), before);
    succeeds(&mut eas("verify", &run));
}

#[test]
fn a_comparison_goes_on_where_it_stopped_and_gives_each_controller_the_same() {
    let place = Place::new();
    let compare = |folder: &str, more: &[&str]| {
        let mut command = eas("compare", &place.path("spec.toml"));
        command.args(["--controllers", "random,reinforce", "--seeds", "2", "--ranked", "2"]);
        // Six children of the first stage and two batches of the second.
        command.args(["--budget", "3200", "--json", "--out"]).arg(place.path(folder)).args(more);
        command
    };
    let whole = succeeds(&mut compare("whole", &[])).stdout;
    let marker = place.path("marker");
    let wish = format!("report.written=abort={}", marker.display());
    let stopped = output(compare("parts", &[]).env("EAS_FAILPOINT", wish));
    assert!(!stopped.status.success() && marker.exists(), "{}", said(&stopped));
    assert_eq!(succeeds(&mut compare("parts", &["--workers", "1"])).stdout, whole);
    let refused = output(&mut compare("twice", &["--controllers", "random"]));
    assert_eq!(refused.status.code(), Some(2), "{}", said(&refused));
    assert!(said(&refused).contains("`random` is named twice"), "{}", said(&refused));
    let refused = output(&mut compare("whole", &["--set", "child.epochs=3"]));
    assert_eq!(refused.status.code(), Some(2), "{}", said(&refused));
    assert!(said(&refused).contains("another spec or budget made this run"), "{}", said(&refused));
    let compared: Value = serde_json::from_slice(&whole).unwrap();
    assert_eq!(compared["seeds"], serde_json::json!([3, 4]));
    assert_eq!(compared["lines"].as_array().map(Vec::len), Some(2 * 6), "{compared}");
    for line in compared["lines"].as_array().unwrap() {
        let (what, validation) = (&line["what"], &line["validation"]);
        assert_eq!(validation["of_seeds"].as_array().map(Vec::len), Some(2), "{what}: {line}");
        // The test images are opened for finals alone.
        assert_eq!(line["test"]["summary"].is_null(), what == "best of the search", "{line}");
    }
    for (line, controller) in [(0, "random"), (6, "reinforce")] {
        let line = &compared["lines"][line];
        assert_eq!(
            (&line["controller"], &line["what"]),
            (&controller.into(), &"best of the search".into())
        );
        assert_eq!(line["validation"]["behind"].is_null(), controller == "random", "{line}");
    }
    let compared_with = &compared["lines"][2]["test"]["behind"];
    assert!(compared_with["margin"].is_number() && compared_with["count"] == 2, "{compared}");
    assert_eq!(compared["kendall"].as_array().map(Vec::len), Some(2 * 2), "{compared}");
    for seed in [3, 4] {
        let start = |controller: &str| {
            json(&place.path(&format!("whole/{controller}-{seed}/trials/0000/result.json")))["model"]
                .clone()
        };
        assert_eq!(start("random"), start("reinforce"), "seed {seed}");
    }
    let plot = fs::read_to_string(place.path("whole/comparison.svg")).unwrap();
    assert!(plot.starts_with("<svg") && plot.contains("reinforce"), "{plot}");
}

#[test]
fn a_budget_of_time_ends_the_stages_and_is_kept_in_the_run() {
    let place = Place::new();
    let compare = |budget: &str| {
        let mut command = eas("compare", &place.path("spec.toml"));
        command.args(["--controllers", "random", "--seeds", "1", "--ranked", "0", "--json"]);
        command.args(["--budget", budget, "--out"]).arg(place.path("timed"));
        command
    };
    let whole = succeeds(&mut compare("2s")).stdout;
    let run = place.path("timed/random-3");
    let events = fs::read_to_string(run.join("events.jsonl")).unwrap();
    assert!(events.contains("deadline"), "{events}");
    succeeds(&mut eas("verify", &run));
    assert_eq!(succeeds(&mut compare("2s")).stdout, whole);
    let refused = output(&mut compare("1 parsec"));
    assert_eq!(refused.status.code(), Some(2), "{}", said(&refused));
    assert!(said(&refused).contains("such as 20M, or a time, such as 30m"), "{}", said(&refused));
}

#[test]
fn what_is_trained_to_compare_is_never_taken_for_the_best() {
    let place = Place::new();
    let run = place.path("run");
    succeeds(&mut place.search("run", &[]));
    let candidates = ["start", "child", "promoted", "final"];
    let purpose = |trial: &str| {
        let result = json(&run.join(format!("trials/{trial}/result.json")));
        result["purpose"].as_str().unwrap().to_owned()
    };
    // As it is before there is a report, and with comparisons that are better than all candidates.
    fs::remove_file(run.join("report.json")).unwrap();
    let mut compared = BTreeSet::new();
    for trial in fs::read_dir(run.join("trials")).unwrap() {
        let path = trial.unwrap().path().join("result.json");
        let mut result = json(&path);
        let purpose = result["purpose"].as_str().unwrap().to_owned();
        if !candidates.contains(&purpose.as_str()) {
            compared.insert(purpose);
            result["ending"]["accuracy"] = 1.0.into();
            fs::write(path, result.to_string()).unwrap();
        }
    }
    assert!(compared.len() >= 5, "{compared:?}");
    let said = |command: &str| -> Value {
        let out = output(eas(command, &run).arg("--json"));
        serde_json::from_slice(&out.stdout).unwrap()
    };
    let (line, status) = (said("lineage"), said("status"));
    for best in [&line.as_array().unwrap().last().unwrap()["trial"], &status["best"]["trial"]] {
        let purpose = purpose(best.as_str().unwrap());
        assert!(candidates.contains(&purpose.as_str()), "{best} is a {purpose}");
    }
}

#[test]
fn a_death_at_any_step_that_publishes_changes_nothing() {
    for name in [
        "run.created",
        "trial.before",
        "trial.begun",
        "trial.built",
        "trial.step",
        "checkpoint.before",
        "checkpoint.written",
        "trial.trained",
        "store.written",
        "store.renamed",
        "result.before",
        "result.linked",
        "event.before",
        "event.written",
        "report.before",
        "report.written",
    ] {
        let place = Place::new();
        let (run, marker) = (place.path("run"), place.path("marker"));
        let wish = format!("{name}=abort={}", marker.display());
        let first = output(place.search("run", &[]).env("EAS_FAILPOINT", &wish));
        assert!(marker.exists(), "{name} was never reached: {}", said(&first));
        if !first.status.success() {
            resume(&run, Some(&wish));
        }
        assert_undisturbed(&run, name);
    }
}

#[test]
fn a_run_that_died_before_it_was_one_is_no_run() {
    let place = Place::new();
    let wish = format!("run.before=abort={}", place.path("marker").display());
    assert!(!output(place.search("run", &[]).env("EAS_FAILPOINT", &wish)).status.success());
    let resumed = output(&mut eas("resume", &place.path("run")));
    assert_eq!(resumed.status.code(), Some(2), "{}", said(&resumed));
    assert!(said(&resumed).contains("expected a run"), "{}", said(&resumed));
}

/// The processes that this one has started.
fn children(pid: u32) -> Vec<u32> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let text = fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

fn kill(pid: u32) {
    // It may be gone by now.
    Command::new("kill").args(["-9", &pid.to_string()]).stderr(Stdio::null()).status().unwrap();
}

#[test]
fn forty_random_kills_change_nothing() {
    let mut state = 7u64;
    let mut random = |below: u64| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let place = Place::new();
    let (mut kills, mut runs) = (0, 0);
    while kills < 40 {
        runs += 1;
        let name = format!("run{runs}");
        let run = place.path(&name);
        let mut coordinator = start(&mut place.search(&name, &[]));
        loop {
            std::thread::sleep(Duration::from_millis(50 + random(250)));
            let status = coordinator.try_wait().unwrap();
            if status.is_some_and(|status| status.success()) {
                break;
            }
            let trials = children(coordinator.id());
            if status.is_none() && kills < 40 {
                kills += 1;
                match trials.as_slice() {
                    [_, ..] if random(2) == 0 => kill(trials[random(trials.len() as u64) as usize]),
                    _ => coordinator.kill().unwrap(),
                }
            }
            if coordinator.try_wait().unwrap().is_some_and(|status| !status.success()) {
                // Killed before it was a run, it is begun anew.
                let started = run.join("run.json").exists();
                if !started && run.exists() {
                    fs::remove_dir_all(&run).unwrap();
                }
                let mut again =
                    if started { eas("resume", &run) } else { place.search(&name, &[]) };
                coordinator = start(&mut again);
            }
        }
        assert_undisturbed(&run, &format!("{kills} kills, run {runs}"));
    }
}

#[test]
fn a_controller_that_learns_goes_on_deciding_as_if_it_had_never_been_stopped() {
    for (name, options) in [
        ("reinforce", "learning_rate = 0.05"),
        ("hill_climb", ""),
        ("evolution", "population = 4\nsample = 2"),
    ] {
        let place = Place::new();
        let (before, after) = SPEC.split_once("[[stage]]").unwrap();
        let before =
            before.replace("[controller.random]", &format!("[controller.{name}]\n{options}"));
        let stage = "[[stage]]\nbatches = 5\nnetworks = 3\nactions = ['widen x1', 'deepen x1']\n\
                     parent = 'start'\n";
        let (_, last) = after.split_once("[final]").unwrap();
        fs::write(place.path("spec.toml"), format!("{before}{stage}[final]{last}")).unwrap();
        succeeds(&mut place.search("whole", &[]));
        let whole = outcome(&place.path("whole"));
        // Two start trainings come first, so this one is of the fourth batch.
        let run = place.path("run");
        let mut coordinator = start(&mut place.search("run", &[]));
        wait_until("the fourth batch", || run.join("trials/0011").exists());
        coordinator.kill().unwrap();
        coordinator.wait().unwrap();
        assert!(!run.join("report.json").exists(), "{name}: it was stopped before its end");
        resume(&run, None);
        assert_eq!(outcome(&run), whole, "{name}");
        succeeds(&mut eas("verify", &run));
        // What was learned had a part in it: told something else, it decides otherwise.
        let steps = |all: &BTreeMap<String, Value>| -> Vec<Value> {
            let children =
                all.values().filter(|v| v["purpose"] == "child" && v["ending"].is_object());
            children.skip(3).map(|child| child["steps"].clone()).collect()
        };
        succeeds(&mut place.search("other", &["child.learning_rate=1e-9"]));
        assert_ne!(steps(&outcome(&place.path("other"))), steps(&whole), "{name}");
    }
}

#[test]
fn an_interrupted_run_says_how_to_go_on_and_goes_on_from_its_checkpoints() {
    let place = Place::new();
    let run = place.path("run");
    let mut command = place.search("run", &["start.epochs=400"]);
    let coordinator = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let epochs = run.join("trials/0000/attempts/1/epochs.jsonl");
    wait_until("an epoch", || epochs.exists());
    Command::new("kill").args(["-INT", &coordinator.id().to_string()]).status().unwrap();
    let ended = coordinator.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(130), "{}", said(&ended));
    assert!(said(&ended).contains("eas resume"), "{}", said(&ended));
    let done = fs::read_to_string(&epochs).unwrap().lines().count();
    assert!((1..400).contains(&done), "{done} epochs before the interruption");
    succeeds(&mut eas("resume", &run));
    let second = fs::read_to_string(run.join("trials/0000/attempts/2/epochs.jsonl")).unwrap();
    let first_line: Value = serde_json::from_str(second.lines().next().unwrap()).unwrap();
    assert_eq!(first_line["epoch"], done, "the second attempt goes on where the first stopped");
    assert_eq!(second.lines().count() + done, 400);
}

#[test]
fn a_finished_run_is_left_as_it_is() {
    let place = Place::new();
    let run = place.path("run");
    let first = succeeds(&mut place.search("run", &[]));
    let before = files(&run);
    let second = succeeds(&mut eas("resume", &run));
    assert_eq!(first.stdout, second.stdout);
    assert_eq!(files(&run), before);
}

/// Every file of a folder but the lock, with its bytes.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(files(&path));
        } else if !path.ends_with("lock") {
            all.insert(path.clone(), fs::read(&path).unwrap());
        }
    }
    all
}

#[test]
fn a_trial_that_hangs_is_stopped_and_tried_again() {
    let place = Place::new();
    let run = place.path("run");
    let wish = format!("trial.step=hang={}", place.path("marker").display());
    succeeds(place.search("run", &["run.silence=2s"]).env("EAS_FAILPOINT", &wish));
    assert_undisturbed(&run, "one hung");
    let ending = json(&run.join("trials/0000/attempts/1/ending.json"));
    assert_eq!((&ending["kind"], &ending["why"]), (&"lost".into(), &"no progress for 2s".into()));
}

#[test]
fn what_can_not_be_carried_out_ends_with_its_reason() {
    for (wish, set, expected) in [
        ("trial.step=hang", ["run.timeout=1s"].as_slice(), "it took longer than 1s"),
        (
            "trial.step=hang",
            &["run.silence=1s", "run.retries.lost=1"],
            "it was lost 2 times; at last: no progress for 1s",
        ),
        (
            "trial.built=abort",
            &["run.retries.failed=2"],
            "the program failed 3 times; at last: signal 6",
        ),
        ("", &["run.memory=1000B"], "expected to need at most 1000B of memory to train, found"),
    ] {
        let place = Place::new();
        let ended = output(place.search("run", set).env("EAS_FAILPOINT", wish));
        assert_eq!(ended.status.code(), Some(1), "{wish} {set:?}: {}", said(&ended));
        assert!(said(&ended).contains(expected), "{wish} {set:?}: {}", said(&ended));
        let result = json(&place.path("run/trials/0000/result.json"));
        assert_eq!(result["ending"]["kind"], "failed", "{wish} {set:?}");
    }
}

#[test]
fn a_run_has_one_coordinator_and_any_number_of_watchers() {
    let place = Place::new();
    let run = place.path("run");
    let mut coordinator = start(place.search("run", &[]).env("EAS_FAILPOINT", "trial.step=hang"));
    wait_until("a trial", || run.join("trials/0000/attempts/1").exists());
    let pid = coordinator.id();
    let second = output(&mut eas("resume", &run));
    assert_eq!(second.status.code(), Some(1), "{}", said(&second));
    assert!(said(&second).contains(&format!("process {pid} on ")), "{}", said(&second));
    let status = |run: &Path| -> Value {
        serde_json::from_slice(&succeeds(eas("status", run).arg("--json")).stdout).unwrap()
    };
    assert_eq!(
        (&status(&run)["state"], &status(&run)["coordinator"]["pid"]),
        (&"running".into(), &pid.into())
    );
    let copy = place.path("copy");
    Command::new("cp").arg("-r").arg(&run).arg(&copy).status().unwrap();
    assert_eq!(status(&copy)["state"], "stopped");
    let watched = succeeds(&mut eas("watch", &copy));
    assert!(said(&watched).contains("stopped"), "{}", said(&watched));
    let trials = children(pid);
    assert!(!trials.is_empty(), "the trial's process");
    coordinator.kill().unwrap();
    coordinator.wait().unwrap();
    wait_until("orphans leave", || {
        trials.iter().all(|trial| !Path::new(&format!("/proc/{trial}")).exists())
    });
    assert_eq!(status(&run)["state"], "stopped");
    resume(&run, None);
    assert_eq!(status(&run)["state"], "finished");
    assert_undisturbed(&run, "a coordinator killed while its trial hung");
}

#[test]
fn whoever_stops_while_reading_the_index_does_not_hold_up_a_search() {
    let place = Place::new();
    let run = place.path("run");
    let mut coordinator = start(&mut place.search("run", &[]));
    wait_until("a trial", || run.join("trials/0000/attempts/1").exists());
    let reader = rusqlite::Connection::open(run.join("index.sqlite")).unwrap();
    reader.execute_batch("BEGIN; SELECT count(*) FROM trial").unwrap();
    assert!(coordinator.wait().unwrap().success());
    assert_undisturbed(&run, "a locked index");
    succeeds(&mut eas("verify", &run));
    drop(reader);
}

#[test]
fn torn_bytes_are_found_and_never_trained_from() {
    let place = Place::new();
    let run = place.path("run");
    succeeds(&mut place.search("run", &[]));
    let report = json(&run.join("report.json"));
    let best = report["rows"][0]["trial"].as_str().unwrap().to_owned();
    let model = json(&run.join(format!("trials/{best}/result.json")))["model"].clone();
    let (shelf, rest) = model.as_str().unwrap().split_at(2);
    let weights = run.join("store").join(shelf).join(rest).join("weights.safetensors");
    let whole = fs::read(&weights).unwrap();
    let mut flipped = whole.clone();
    *flipped.last_mut().unwrap() ^= 1;
    for (what, torn) in [("shorter", &whole[..whole.len() / 2]), ("a bit flipped", &flipped)] {
        fs::write(&weights, torn).unwrap();
        let verified = output(&mut eas("verify", &run));
        assert_eq!(verified.status.code(), Some(DAMAGED), "{what}: {}", said(&verified));
        assert!(said(&verified).contains("damaged"), "{what}: {}", said(&verified));
        let shown = output(eas("show", &run).arg(&best).arg("--json"));
        assert!(!shown.status.success(), "{what}: {}", said(&shown));
    }
    fs::write(&weights, whole).unwrap();
    fs::remove_file(run.join("index.sqlite")).unwrap();
    fs::write(run.join("index.sqlite"), "torn").unwrap();
    assert_eq!(output(&mut eas("verify", &run)).status.code(), Some(DAMAGED));
    succeeds(eas("verify", &run).arg("--rebuild"));
    assert_undisturbed(&run, "mended");
}

#[test]
fn other_data_or_a_newer_run_is_refused() {
    let place = Place::new();
    let run = place.path("run");
    let wish = format!("trial.trained=abort={}", place.path("marker").display());
    let set = ["run.retries.failed=0"];
    assert!(!output(place.search("run", &set).env("EAS_FAILPOINT", &wish)).status.success());
    let plan = fs::read_to_string(run.join("plan.toml")).unwrap();
    fs::write(run.join("plan.toml"), plan.replace("noise = 0.3", "noise = 0.4")).unwrap();
    let resumed = output(&mut eas("resume", &run));
    assert!(said(&resumed).contains("another assignment (other data)"), "{}", said(&resumed));
    fs::write(run.join("plan.toml"), plan).unwrap();
    let about = fs::read_to_string(run.join("run.json")).unwrap();
    fs::write(run.join("run.json"), about.replace("\"format\": 2", "\"format\": 3")).unwrap();
    for command in ["resume", "status", "verify", "trials"] {
        let refused = output(&mut eas(command, &run));
        assert_eq!(refused.status.code(), Some(2), "{command}: {}", said(&refused));
        assert!(said(&refused).contains("a newer version"), "{command}: {}", said(&refused));
    }
}

#[test]
fn the_same_training_is_never_done_twice() {
    let place = Place::new();
    let run = place.path("run");
    let narrow = [
        "stage.0.actions=[\"widen x1\"]",
        "stage.1.actions=[\"widen x1\"]",
        "stage.0.promote.seeds=0",
        "stage.0.promote.epochs=0",
        "stage.1.parent=start",
        "stage.1.batches=1",
        "stage.1.networks=6",
    ];
    succeeds(&mut place.search("run", &narrow));
    let results: Vec<Value> = (1..=12)
        .map(|trial| json(&run.join(format!("trials/{:04}/result.json", trial + 1))))
        .collect();
    let trained: Vec<&Value> =
        results.iter().filter(|result| result["same_as"].is_null()).collect();
    let networks: BTreeSet<&str> =
        trained.iter().map(|result| result["fingerprint"].as_str().unwrap()).collect();
    assert_eq!(
        networks.len(),
        trained.len(),
        "a network of one parent trained twice: {trained:#?}"
    );
    let repeats = |trials: std::ops::RangeInclusive<usize>, of: std::ops::RangeInclusive<u64>| {
        trials.into_iter().any(|trial| {
            let same_as = results[trial - 1]["same_as"].as_str();
            // The first child is trial 2.
            same_as.is_some_and(|same| of.contains(&(same.parse::<u64>().unwrap() - 1)))
        })
    };
    assert!(repeats(1..=3, 1..=3), "no duplicate within a batch: {results:#?}");
    assert!(repeats(4..=6, 1..=3), "no duplicate of an earlier batch: {results:#?}");
    assert!(repeats(7..=12, 1..=6), "no duplicate of an earlier stage: {results:#?}");
    for result in results.iter().filter(|result| !result["same_as"].is_null()) {
        let same =
            json(&run.join(format!("trials/{}/result.json", result["same_as"].as_str().unwrap())));
        for key in ["fingerprint", "ending", "model", "momentum"] {
            assert_eq!(result[key], same[key], "{key} of {result}");
        }
    }
    // An index that was lost has what was repeated, too, once the run has gone on.
    fs::remove_file(run.join("index.sqlite")).unwrap();
    fs::remove_file(run.join("report.json")).unwrap();
    resume(&run, None);
    succeeds(&mut eas("verify", &run));
    let shown = succeeds(&mut eas("trials", &run));
    assert!(said(&shown).contains("(cached: 00"), "{}", said(&shown));
    succeeds(&mut eas("verify", &run));
}

#[test]
fn a_broken_disk_stops_the_run_and_blames_no_network() {
    let place = Place::new();
    let run = place.path("run");
    let set = ["run.retries.failed=1"];
    let wish = format!("trial.built=hang={}", place.path("marker").display());
    let mut coordinator = start(place.search("run", &set).env("EAS_FAILPOINT", wish));
    wait_until("a trial", || place.path("marker").exists());
    coordinator.kill().unwrap();
    coordinator.wait().unwrap();
    fs::write(run.join("store"), "no folder").unwrap();
    let stopped = output(&mut eas("resume", &run));
    assert_eq!(stopped.status.code(), Some(1), "{}", said(&stopped));
    assert!(said(&stopped).contains("trial 0000: error: "), "{}", said(&stopped));
    assert!(!run.join("trials/0000/result.json").exists());
    fs::remove_file(run.join("store")).unwrap();
    fs::remove_dir_all(run.join("trials/0000/attempts")).unwrap();
    fs::create_dir(run.join("trials/0000/attempts")).unwrap();
    resume(&run, None);
    assert_undisturbed(&run, "a broken disk");
}

#[test]
fn another_program_goes_on_with_a_run_only_where_that_is_accepted() {
    let place = Place::new();
    let run = place.path("run");
    succeeds(&mut place.search("run", &["run.deadline=0s"]));
    let build = fs::read_to_string(run.join("build.json")).unwrap();
    let other = build.replace("transform `widen`", "transform `wider`");
    assert_ne!(other, build);
    fs::write(run.join("build.json"), other).unwrap();
    let refused = output(&mut eas("resume", &run));
    assert_eq!(refused.status.code(), Some(2), "{}", said(&refused));
    for part in ["no transform `wider`, which was declared at", "bin/eas", "--accept-build"] {
        assert!(said(&refused).contains(part), "{part}: {}", said(&refused));
    }
    succeeds(eas("resume", &run).arg("--accept-build"));
    assert_eq!(fs::read_to_string(run.join("build.json")).unwrap(), build);
    assert!(fs::read_to_string(run.join("events.jsonl")).unwrap().contains("transform `wider`"));
}

#[test]
fn a_deadline_hands_over_what_there_is_and_can_be_put_off() {
    let place = Place::new();
    let run = place.path("run");
    let set = ["run.deadline=0s", "stage.2.promote.seeds=1", "stage.2.promote.epochs=1"];
    succeeds(&mut place.search("run", &set));
    for name in ["event.before", "event.written"] {
        let wish = format!("{name}=abort={}", place.path(&format!("{name}.marker")).display());
        assert!(!output(place.search(name, &set).env("EAS_FAILPOINT", &wish)).status.success());
        resume(&place.path(name), None);
        assert_eq!(outcome(&place.path(name)), outcome(&run), "{name}");
    }
    let report = json(&run.join("report.json"));
    assert_eq!((&report["children"], &report["rows"][0]["purpose"]), (&0.into(), &"final".into()));
    succeeds(&mut eas("verify", &run));
    succeeds(eas("resume", &run).args(["--extend-deadline", "1h", "--extend-batches", "1"]));
    let report = json(&run.join("report.json"));
    // Eighteen of the plan, and a batch of four.
    assert_eq!(report["children"], 22, "{report}");
    succeeds(&mut eas("verify", &run));
    // Other children may be the best now, so that other trials decide about them.
    succeeds(eas("resume", &run).args(["--extend-batches", "1"]));
    let reported = json(&run.join("report.json"))["reevaluated"].as_array().unwrap().len();
    succeeds(&mut eas("verify", &run));
    let results = outcome(&run);
    let again = results.values().filter(|result| result["purpose"] == "reevaluation");
    let networks: BTreeSet<String> =
        again.map(|again| format!("{} {}", again["parent"], again["fingerprint"])).collect();
    assert_eq!(reported, networks.iter().filter(|name| !name.starts_with("null")).count());
    assert!(reported >= 2 + 3, "{networks:?}");
    for (key, value) in UNDISTURBED.iter().filter(|(_, value)| value["purpose"] == "child") {
        assert_eq!(results.get(key), Some(value), "{key}");
    }
}
