//! What every executor must do, and the proof that the local one does.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use eas_controller::TrialId;

use super::{Claim, Executor, Exit, Job, JobName, Local};

/// Time that any of these jobs may take.
const PATIENCE: Duration = Duration::from_secs(30);

fn name(trial: u32) -> JobName {
    JobName { trial: TrialId(trial), attempt: 1 }
}

fn shell(folder: &Path, trial: u32, script: &str) -> Job {
    Job {
        name: name(trial),
        program: "/bin/sh".into(),
        arguments: vec!["-c".into(), script.into()],
        environment: vec![("FOLDER".to_owned(), folder.display().to_string())],
        log: folder.join(format!("{trial}.log")),
    }
}

/// Polls until these have ended.
fn ends(executor: &mut dyn Executor, trials: &[u32]) -> BTreeMap<u32, Exit> {
    let started = Instant::now();
    let mut ended = BTreeMap::new();
    while ended.len() < trials.len() {
        assert!(started.elapsed() < PATIENCE, "only {ended:?} of {trials:?} have ended");
        for (name, claim) in executor.poll().unwrap() {
            if let Claim::Ended(exit) = claim {
                ended.insert(name.trial.0, exit);
            }
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    ended
}

fn wait_for(path: &Path) {
    let started = Instant::now();
    while !path.exists() {
        assert!(started.elapsed() < PATIENCE, "no {}", path.display());
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn each_job_runs_once_and_its_end_is_told(executor: &mut dyn Executor, folder: &Path) {
    let endings =
        [("exit 0", Exit::Code(0)), ("exit 3", Exit::Code(3)), ("kill -9 $$", Exit::Signal(9))];
    for (trial, (script, _)) in (0..).zip(&endings) {
        let script = format!("echo $FOLDER {trial}; echo run >> $FOLDER/{trial}.runs; {script}");
        let job = shell(folder, trial, &script);
        executor.submit(&job).unwrap();
        executor.submit(&job).unwrap();
    }
    let ended = ends(executor, &[0, 1, 2]);
    for (trial, (script, expected)) in (0..).zip(&endings) {
        assert_eq!(&ended[&trial], expected, "{script}");
        let runs = fs::read_to_string(folder.join(format!("{trial}.runs"))).unwrap();
        assert_eq!(runs, "run\n", "{script}");
        let log = fs::read_to_string(folder.join(format!("{trial}.log"))).unwrap();
        assert_eq!(log, format!("{} {trial}\n", folder.display()), "{script}");
    }
    assert_eq!(executor.discover().unwrap(), []);
}

fn a_job_is_found_until_it_is_asked_to_stop(executor: &mut dyn Executor, folder: &Path) {
    // One stops when its input ends; one doesn't listen.
    let scripts =
        ["read line; exit 7", "exec 0<&-; touch $FOLDER/deaf; while :; do sleep 0.1; done"];
    for (trial, script) in (10..).zip(scripts) {
        executor.submit(&shell(folder, trial, script)).unwrap();
    }
    wait_for(&folder.join("deaf"));
    let found: BTreeSet<JobName> = executor.discover().unwrap().into_iter().collect();
    assert_eq!(found, [name(10), name(11)].into());
    assert!(executor.poll().unwrap().values().all(|claim| *claim == Claim::Running));
    executor.cancel(name(10)).unwrap();
    executor.cancel(name(11)).unwrap();
    executor.cancel(name(12)).unwrap();
    let ended = ends(executor, &[10, 11]);
    assert_eq!(ended, [(10, Exit::Code(7)), (11, Exit::Signal(9))].into());
}

fn a_program_that_is_not_there_is_an_error(executor: &mut dyn Executor, folder: &Path) {
    let job = Job { program: folder.join("nothing"), ..shell(folder, 20, "") };
    let error = executor.submit(&job).unwrap_err().to_string();
    assert!(error.contains("can't start"), "{error}");
    assert_eq!(executor.discover().unwrap(), []);
}

#[test]
fn the_local_executor_conforms() {
    for law in [
        each_job_runs_once_and_its_end_is_told,
        a_job_is_found_until_it_is_asked_to_stop,
        a_program_that_is_not_there_is_an_error,
    ] {
        let folder = tempfile::tempdir().unwrap();
        law(&mut Local::default(), folder.path());
    }
}

#[test]
fn jobs_end_with_the_local_executor() {
    let folder = tempfile::tempdir().unwrap();
    let mut executor = Local::default();
    let script = "echo $$ > $FOLDER/pid.part; mv $FOLDER/pid.part $FOLDER/pid; exec sleep 600";
    executor.submit(&shell(folder.path(), 0, script)).unwrap();
    wait_for(&folder.path().join("pid"));
    let pid = fs::read_to_string(folder.path().join("pid")).unwrap();
    drop(executor);
    assert!(!Path::new("/proc").join(pid.trim()).exists(), "process {pid} is still there");
}
