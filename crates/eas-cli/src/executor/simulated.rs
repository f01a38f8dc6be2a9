//! Workers that only take time: what a coordinator does with thousands of them, and with runs of many
//! trials, without the trainings.

use std::collections::{BTreeMap, BinaryHeap};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use eas_controller::TrialId;
use eas_ir::Rng;
use eas_train::{Gpu, TrainingData};

use super::{Claim, Executor, Exit, Job, JobName};
use crate::commands::search::{Prepared, prepare};
use crate::devices::Places;
use crate::dispatcher::Dispatcher;
use crate::exit;
use crate::plan::Plan;
use crate::print::{Bar, note};
use crate::runs::{Build, Digest, Run};
use crate::schedule::Schedule;
use crate::search::{Search, Start};
use crate::spec::read_plan;

/// Which part of the workers' time was spent on trials, while there were more to come.
#[derive(Debug, Default)]
struct Busy {
    started: Option<Instant>,
    /// When the last trial was taken on.
    last: Option<Instant>,
    trials: Vec<Worked>,
}

/// An attempt at a trial.
#[derive(Clone, Debug)]
struct Worked {
    name: JobName,
    /// What it was told to train on.
    device: String,
    begin: Instant,
    end: Instant,
}

impl Busy {
    /// Of so many workers, from the first trial to the last that was taken on.
    fn share(&self, workers: usize) -> f64 {
        let (Some(from), Some(until)) = (self.started, self.last) else { return 0.0 };
        let spent = |worked: &Worked| {
            worked.end.min(until).saturating_duration_since(worked.begin).as_secs_f64()
        };
        let spent: f64 = self.trials.iter().map(spent).sum();
        spent / (workers as f64 * (until - from).as_secs_f64())
    }
}

/// Publishes made-up results after made-up times. It runs nothing, stops nothing and finds nothing again,
/// so that the conformance suite isn't for it.
struct Simulated {
    run: Run,
    model: Digest,
    /// An attempt whose GPU fails.
    fails: Option<JobName>,
    /// The shortest time of a trial, and the longest.
    seconds: (f64, f64),
    jobs: BTreeMap<JobName, Instant>,
    ends: BinaryHeap<std::cmp::Reverse<(Instant, JobName)>>,
    busy: Arc<Mutex<Busy>>,
}

impl Simulated {
    /// An accuracy by the network, and a little luck.
    fn publish(&self, trial: TrialId) -> anyhow::Result<()> {
        let record = self.run.record(trial)?;
        let size = (record.parameters as f64).ln() / 20.0;
        let accuracy = (size + 0.05 * Rng::new(record.seed).unit()).clamp(0.0, 1.0);
        let ended = record.ended(record.trained(Some(accuracy)), 1, 1.0);
        let (model, momentum) = (Some(self.model), record.keep_momentum.then_some(self.model));
        self.run.publish(&crate::runs::TrialResult { model, momentum, ..ended }).map(|_| ())
    }
}

impl Executor for Simulated {
    fn submit(&mut self, job: &Job) -> anyhow::Result<()> {
        let now = Instant::now();
        let (shortest, longest) = self.seconds;
        let unit = Rng::new(7).split_index(u64::from(job.name.trial.0)).unit();
        let end = now + Duration::from_secs_f64(shortest + (longest - shortest) * unit);
        let mut busy = self.busy.lock().unwrap();
        busy.started.get_or_insert(now);
        busy.last = Some(now);
        let device = job.arguments.last().expect("a trial is told its device");
        let device = device.to_string_lossy().into_owned();
        busy.trials.push(Worked { name: job.name, device, begin: now, end });
        self.jobs.insert(job.name, end);
        self.ends.push(std::cmp::Reverse((end, job.name)));
        Ok(())
    }

    fn poll(&mut self) -> anyhow::Result<BTreeMap<JobName, Claim>> {
        let now = Instant::now();
        let mut claims: BTreeMap<JobName, Claim> =
            self.jobs.keys().map(|name| (*name, Claim::Running)).collect();
        while self.ends.peek().is_some_and(|next| next.0.0 <= now) {
            let Some(std::cmp::Reverse((_, name))) = self.ends.pop() else { break };
            self.jobs.remove(&name);
            let exit = match Some(name) == self.fails {
                true => Exit::Code(exit::GPU),
                false => {
                    self.publish(name.trial)?;
                    Exit::Code(exit::SUCCESS)
                }
            };
            claims.insert(name, Claim::Ended(exit));
        }
        Ok(claims)
    }

    fn cancel(&mut self, _: JobName) -> anyhow::Result<()> {
        Ok(())
    }

    fn discover(&mut self) -> anyhow::Result<Vec<JobName>> {
        Ok(Vec::new())
    }
}

const SPEC: &str = r#"
schema = 1
name = "many"
seed = 3
[data.synthetic]
images = 80
validation = 16
height = 8
width = 8
[space.convnet]
start = ["conv 4", "pool", "conv 6", "global_pool", "linear 8"]
filters = [4, 6, 8, 10, 12, 14, 16, 20, 24, 28, 32]
units = [8, 12, 16, 24, 32, 48, 64]
[transform.widen]
[transform.deepen]
kernels = [1, 3]
[controller.random]
[start]
recipe = "quick"
epochs = 1
[child]
recipe = "quick"
epochs = 1
[[stage]]
batches = 1
networks = 100
actions = ["widen x2", "deepen x2"]
[final]
compare = false
epochs = 1
[run]
memory = "1TiB"
"#;

/// A made-up search in a folder.
struct Made {
    plan: Plan,
    data: TrainingData,
    start: Start,
    run: Run,
    places: Places,
    fails: Option<JobName>,
}

impl Made {
    fn new(folder: &Path, set: &[String]) -> Self {
        let plan = read_plan("many.toml", SPEC, set, Path::new("")).unwrap();
        let Prepared { data, start, .. } = prepare(&plan).unwrap();
        let build = Build::current().unwrap();
        let run = Run::create(folder, SPEC, &plan.text, Path::new("."), &build).unwrap();
        Made { plan, data, start, run, places: Places::Cpu, fails: None }
    }

    /// Does what is left of it, and tells the seconds that it took.
    fn search(&mut self, seconds: (f64, f64), busy: &Arc<Mutex<Busy>>) -> f64 {
        let Made { plan, data, start, run, places, fails } = self;
        // What nothing needs any more: no weights are made up.
        let model: Digest = "00".repeat(32).parse().unwrap();
        let remains = run.root().join("store/00").join("00".repeat(31) + ".collected");
        std::fs::create_dir_all(remains).unwrap();
        let simulated = Simulated {
            run: run.clone(),
            model,
            fails: *fails,
            seconds,
            jobs: BTreeMap::new(),
            ends: BinaryHeap::new(),
            busy: busy.clone(),
        };
        let (index, events) = (run.index().unwrap(), run.events().unwrap());
        let schedule = Schedule::new(plan, &events);
        let (limits, bar) = (plan.running.clone(), Bar::silent());
        let executor: Box<dyn Executor> = Box::new(simulated);
        let mut dispatcher =
            Dispatcher::new(run, Some(&index), Some(executor), limits, places, bar).unwrap();
        let (digest, transforms) = (data.digest(), plan.transforms.clone());
        let started = Instant::now();
        Search::new(plan, &transforms, &schedule, run, &digest, &mut dispatcher)
            .run(start)
            .unwrap();
        started.elapsed().as_secs_f64()
    }
}

/// The share of time that workers are busy: of so many, with batches of that many networks, and so
/// many batches ahead.
fn busy(workers: usize, networks: usize, batches: usize, lag: usize, seconds: (f64, f64)) -> f64 {
    let folder = tempfile::tempdir().unwrap();
    let set = [
        format!("run.workers={workers}"),
        format!("stage.0.networks={networks}"),
        format!("stage.0.batches={batches}"),
        format!("stage.0.lag={lag}"),
        "stage.0.repeat=retrain".to_owned(),
    ];
    let busy = Arc::new(Mutex::new(Busy::default()));
    Made::new(&folder.path().join("run"), &set).search(seconds, &busy);
    let busy = busy.lock().unwrap();
    // The start network is trained alone, and the finals are few.
    let trials = &busy.trials[1..=networks * batches];
    let (started, last) = (Some(trials[0].begin), trials.last().map(|trial| trial.begin));
    Busy { started, last, trials: trials.to_vec() }.share(workers)
}

#[test]
fn workers_are_busy_where_batches_are_proposed_ahead() {
    let ahead = busy(50, 25, 14, 5, (1.0, 3.0));
    let behind = busy(50, 25, 6, 0, (1.0, 3.0));
    // A machine with other things to do takes its part.
    assert!(ahead > 0.85, "{ahead:.3} of the time with a lag of 5");
    assert!(behind < 0.5, "{behind:.3} of the time without one");
}

#[test]
fn trials_are_spread_over_gpus_and_one_that_fails_there_is_tried_again_alone() {
    let folder = tempfile::tempdir().unwrap();
    let set = ["run.workers=6", "stage.0.networks=24"].map(str::to_owned);
    let gpu = Gpu {
        name: "a GPU".to_owned(),
        capability: "9.0".to_owned(),
        memory: 80 << 30,
        free: 80 << 30,
        unusable: None,
    };
    let failing = JobName { trial: TrialId(3), attempt: 1 };
    let mut made = Made {
        places: Places::Gpus(vec![(1, gpu.clone()), (4, gpu)]),
        fails: Some(failing),
        ..Made::new(&folder.path().join("run"), &set)
    };
    let busy = Arc::default();
    made.search((0.1, 0.3), &busy);
    let trials = &busy.lock().unwrap().trials;
    let together = |one: &Worked, other: &Worked| {
        one.name != other.name
            && one.device == other.device
            && one.begin < other.end
            && other.begin < one.end
    };
    let beside = |one: &Worked| trials.iter().filter(|other| together(one, other)).count();
    assert!(trials.iter().any(|trial| beside(trial) > 0), "{trials:?}");
    let on = |device: &str| trials.iter().filter(|trial| trial.device == device).count();
    assert_eq!(on("cuda:1") + on("cuda:4"), trials.len(), "{trials:?}");
    assert!(on("cuda:1").abs_diff(on("cuda:4")) < trials.len() / 2, "{trials:?}");
    let again = JobName { attempt: 2, ..failing };
    let again = trials.iter().find(|trial| trial.name == again).expect("it is tried again");
    assert_eq!(beside(again), 0, "{again:?} in {trials:?}");
}

#[test]
#[ignore = "takes minutes; its figures are in docs/reliability.md"]
fn a_thousand_workers_are_busy() {
    let share = busy(1000, 500, 10, 5, (10.0, 30.0));
    assert!(share > 0.95, "{share:.4} of the time");
    note(&format!("{share:.4} of the time of 1,000 workers"));
}

/// Makes a run of as many trials as `EAS_TRIALS` says, in the folder that `EAS_FOLDER` names.
#[test]
#[ignore = "makes a run of any size for measurements"]
fn a_run_of_many_trials() {
    let folder = std::env::var("EAS_FOLDER").expect("EAS_FOLDER names a folder");
    let trials: usize = std::env::var("EAS_TRIALS").map_or(100_000, |n| n.parse().unwrap());
    let set = [
        "run.workers=250".to_owned(),
        "stage.0.networks=250".to_owned(),
        format!("stage.0.batches={}", trials / 250),
    ];
    let mut made = Made::new(Path::new(&folder), &set);
    let seconds = made.search((0.0, 0.0), &Arc::default());
    let (peak, now) = (memory("VmHWM"), memory("VmRSS"));
    note(&format!("{trials} trials: {seconds:.0} s, {now} kB of memory, {peak} at most"));
    let mut again = Made { run: made.run.clone(), ..made };
    again.plan = read_plan("many.toml", &again.plan.text, &[], Path::new("")).unwrap();
    let seconds = again.search((0.0, 0.0), &Arc::default());
    note(&format!("resumed in {seconds:.0} s, {} kB of memory", memory("VmRSS")));
}

/// A figure of this process.
fn memory(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
