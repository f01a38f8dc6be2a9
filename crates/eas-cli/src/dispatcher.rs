//! Trials carried out by an executor, each until it has a result, whatever happens to its processes.
//!
//! What the run directory holds is the truth. A trial whose result is there is answered at once, so
//! going on with a run is doing it again. Whatever clock or machine force upon a trial becomes a
//! published result (a timeout, retries used up, too little memory) or an event (the deadline)
//! before anything is decided by it.

mod machine;
mod task;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use eas_controller::{Ending, TrialId};
use eas_ir::Bytes;
use eas_train::Device;

use crate::devices::Places;
use crate::executor::{Claim, Executor, Exit, Job, JobName};
use crate::exit;
use crate::plan::{Retries, Running};
use crate::print::Bar;
use crate::room::NoRoom;
use crate::runs::{
    AttemptEnd, Damaged, Event, Index, Purpose, Run, TrialRecord, TrialResult, Unfinished,
};
use crate::stop;

use machine::Machine;
pub(crate) use machine::free_memory;
use task::{Process, Reason, Task, judge};

/// Between two looks at the processes.
const POLL: Duration = Duration::from_millis(10);
/// Before an executor that doesn't know is asked again.
const BACK_OFF: Duration = Duration::from_secs(1);
/// Between two readings of heartbeats and writings of the clock.
const LOOK: Duration = Duration::from_millis(200);
/// Units of the progress bar that an epoch counts.
const EPOCH_UNITS: f64 = 1000.0;

/// A person stopped the work.
#[derive(Debug)]
pub(crate) struct Interrupted;

impl std::fmt::Display for Interrupted {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}

/// Has trials carried out.
pub(crate) struct Dispatcher<'a> {
    run: &'a Run,
    index: Option<&'a Index<'a>>,
    /// Nobody where the run's decisions are only replayed.
    executor: Option<Box<dyn Executor>>,
    limits: Running,
    machine: Machine,
    bar: Bar,
    clock: Clock,
    /// In seconds of work on the run; it holds while trials may be given up.
    deadline: Option<f64>,
    given_up: BTreeSet<TrialId>,
    /// Attempts of an earlier coordinator that are still there.
    adoptable: BTreeSet<JobName>,
    waiting: VecDeque<Task>,
    running: BTreeMap<JobName, Process>,
    done: Vec<TrialResult>,
    /// What was trained, so that nothing is trained twice.
    trained: BTreeMap<TrialId, TrialRecord>,
}

/// Seconds of work on the run.
struct Clock {
    before: f64,
    started: Instant,
    looked: Instant,
}

impl Clock {
    fn seconds(&self) -> f64 {
        self.before + self.started.elapsed().as_secs_f64()
    }
}

impl<'a> Dispatcher<'a> {
    /// For a run, with trials on an executor and these devices, or replaying alone.
    pub(crate) fn new(
        run: &'a Run,
        index: Option<&'a Index<'a>>,
        mut executor: Option<Box<dyn Executor>>,
        limits: Running,
        places: &Places,
        bar: Bar,
    ) -> anyhow::Result<Self> {
        let now = Instant::now();
        let adoptable = match &mut executor {
            Some(executor) => executor.discover()?.into_iter().collect(),
            None => BTreeSet::new(),
        };
        Ok(Dispatcher {
            run,
            index,
            executor,
            machine: Machine::new(limits.workers, limits.memory, places),
            limits,
            bar,
            clock: Clock { before: run.seconds(), started: now, looked: now },
            deadline: None,
            given_up: BTreeSet::new(),
            adoptable,
            waiting: VecDeque::new(),
            running: BTreeMap::new(),
            done: Vec::new(),
            trained: BTreeMap::new(),
        })
    }

    /// From now on trials are given up when so many seconds were worked on the run; those given up
    /// before stay so. Without a deadline they are waited for.
    pub(crate) fn set_deadline(&mut self, deadline: Option<f64>, given_up: BTreeSet<TrialId>) {
        self.deadline = deadline;
        self.given_up = given_up;
    }

    pub(crate) fn index(&self) -> Option<&'a Index<'a>> {
        self.index
    }

    pub(crate) fn bar(&self) -> &Bar {
        &self.bar
    }

    /// Ends the work; returns the seconds worked on the run.
    pub(crate) fn close(&mut self) -> anyhow::Result<f64> {
        self.bar.finish();
        let seconds = self.clock.seconds();
        self.run.keep_seconds(seconds)?;
        Ok(seconds)
    }

    /// Takes on a trial; one whose result is there is done.
    pub(crate) fn submit(&mut self, record: TrialRecord) -> anyhow::Result<()> {
        self.run.begin(&record)?;
        if self.given_up.contains(&record.trial) {
            return Ok(());
        }
        if let Some(result) = self.run.published(record.trial)? {
            self.bar.advance(units(record.epochs()));
            return self.finish(record, result);
        }
        if self.executor.is_none() {
            bail!(Unfinished(record.trial));
        }
        if let Some(known) = self.known(&record)? {
            return self.publish(record, known, 0);
        }
        let mut task = Task::new(record);
        for attempt in self.run.attempts(task.record.trial) {
            let name = JobName { trial: task.record.trial, attempt: attempt.number };
            let ending = match attempt.ending()? {
                Some(ending) => ending,
                None if self.adoptable.remove(&name) => {
                    // What it runs on isn't known; counted somewhere, it makes others wait.
                    let device = self.place(&task).unwrap_or(self.machine.first());
                    self.running.insert(name, Process::new(task, attempt, device));
                    return Ok(());
                }
                None => {
                    attempt.end(AttemptEnd::Stopped, "the coordinator was gone".to_owned(), 0.0)?
                }
            };
            // What failed on a GPU may have been short of memory for its neighbours' sake.
            task.alone |= ending.kind == AttemptEnd::Failed && self.machine.has_gpus();
            task.count(ending.kind, ending.seconds);
        }
        if let Some(limit) = self.machine.limit().filter(|limit| task.record.memory > *limit) {
            let (needed, limit) = (Bytes(task.record.memory), Bytes(limit));
            let why =
                format!("expected to need at most {limit} of memory to train, found {needed}");
            return self.fail(task, why, 0);
        }
        self.waiting.push_back(task);
        Ok(())
    }

    /// Waits until trials have results, and returns those; none where none is left to be waited for.
    ///
    /// # Errors
    /// [`Interrupted`]; a run directory that can't be written or is damaged.
    pub(crate) fn collect(&mut self) -> anyhow::Result<Vec<TrialResult>> {
        while self.done.is_empty() && !(self.waiting.is_empty() && self.running.is_empty()) {
            if stop::interrupted() {
                self.stop_all()?;
                bail!(Interrupted);
            }
            if self.deadline.is_some_and(|deadline| self.clock.seconds() >= deadline) {
                self.give_up()?;
                continue;
            }
            self.start_waiting()?;
            self.look_after_running()?;
            if self.done.is_empty() {
                std::thread::sleep(POLL);
            }
        }
        Ok(std::mem::take(&mut self.done))
    }

    /// Has trials carried out; returns their results in order, without those that were given up.
    pub(crate) fn carry_out(
        &mut self,
        records: Vec<TrialRecord>,
    ) -> anyhow::Result<Vec<TrialResult>> {
        for record in records {
            self.submit(record)?;
        }
        let mut results = Vec::new();
        loop {
            let done = self.collect()?;
            if done.is_empty() {
                break;
            }
            results.extend(done);
        }
        results.sort_by_key(|result| result.trial);
        Ok(results)
    }

    /// The result of the same training, if there was one: as this trial's. What is evaluated again is
    /// trained again.
    fn known(&self, record: &TrialRecord) -> anyhow::Result<Option<TrialResult>> {
        if record.anew || record.purpose == Purpose::Reevaluation {
            return Ok(None);
        }
        let mut trained = self.trained.values();
        let Some(same) = trained.find(|known| record.is_same_training(known)) else {
            return Ok(None);
        };
        let known = self.run.result(same.trial)?;
        let same_as = Some(known.trial);
        let TrialResult { ending, certificate, drift, model, momentum, .. } = known;
        let own = record.ended(ending, 0, 0.0);
        Ok(Some(TrialResult { same_as, certificate, drift, model, momentum, ..own }))
    }

    fn start_waiting(&mut self) -> anyhow::Result<()> {
        while self.running.len() < self.machine.workers {
            let Some(device) = self.waiting.front().and_then(|task| self.place(task)) else {
                break;
            };
            let demand = self.waiting.len() + self.running.len();
            let Some(task) = self.waiting.pop_front() else { break };
            self.start(task, device, self.machine.threads(demand))?;
        }
        Ok(())
    }

    /// Where a trial runs beside those that do; nothing where it has to wait.
    fn place(&self, task: &Task) -> Option<Device> {
        let running = self.running.values().map(|process| (process.device, process.task.needs()));
        self.machine.place(&running.collect::<Vec<_>>(), task.record.memory, task.alone)
    }

    fn start(&mut self, task: Task, device: Device, threads: usize) -> anyhow::Result<()> {
        let Some(executor) = &mut self.executor else { return Ok(()) };
        let trial = task.record.trial;
        let attempt = self.run.new_attempt(trial)?;
        let name = JobName { trial, attempt: attempt.number };
        executor.submit(&Job {
            name,
            program: self.run.executable(),
            arguments: vec![
                "trial".into(),
                self.run.root().into(),
                trial.to_string().into(),
                attempt.number.to_string().into(),
                "--device".into(),
                device.to_string().into(),
            ],
            environment: vec![("RAYON_NUM_THREADS".to_owned(), threads.to_string())],
            log: attempt.log(),
        })?;
        tracing::info!(%trial, attempt = attempt.number, %device, threads, "started");
        self.running.insert(name, Process::new(task, attempt, device));
        let trials: Vec<String> = self.running.keys().map(|name| name.trial.to_string()).collect();
        self.bar.message(&format!("trial {}", trials.join(", ")));
        Ok(())
    }

    /// Takes in what ended, and stops what hangs or takes too long.
    fn look_after_running(&mut self) -> anyhow::Result<()> {
        let Some(executor) = &mut self.executor else { return Ok(()) };
        let claims = match executor.poll() {
            Ok(claims) => claims,
            Err(error) => {
                // Not knowing is no reason to think that anything ended.
                tracing::warn!(error = format!("{error:#}"), "the executor can't tell");
                std::thread::sleep(BACK_OFF);
                return Ok(());
            }
        };
        let names: Vec<JobName> = self.running.keys().copied().collect();
        for name in names {
            match claims.get(&name) {
                Some(Claim::Running) => {}
                ended => {
                    let exit = match ended {
                        Some(Claim::Ended(exit)) => Some(exit.clone()),
                        _ => None,
                    };
                    if let Some(process) = self.running.remove(&name) {
                        self.take_in(process, exit)?;
                    }
                }
            }
        }
        if self.clock.looked.elapsed() >= LOOK {
            self.clock.looked = Instant::now();
            self.run.keep_seconds(self.clock.seconds())?;
            self.look_at_heartbeats()?;
        }
        Ok(())
    }

    fn look_at_heartbeats(&mut self) -> anyhow::Result<()> {
        let Some(executor) = &mut self.executor else { return Ok(()) };
        for (name, process) in &mut self.running {
            if let Some(heartbeat) = process.attempt.heartbeat()
                && heartbeat != process.heartbeat
            {
                process.changed = Instant::now();
                let all = units(process.task.record.epochs()) as f64;
                process.task.show(&self.bar, (heartbeat.share * all) as u64);
                process.heartbeat = heartbeat;
            }
            let seconds = process.task.seconds + process.started.elapsed().as_secs_f64();
            let too_long = self.limits.timeout.is_some_and(|limit| seconds > limit.as_secs_f64());
            let reason = match (too_long, process.changed.elapsed() > self.limits.silence) {
                (true, _) => Reason::TooLong,
                (false, true) => Reason::Silent,
                (false, false) => continue,
            };
            if process.cancelled.is_none() {
                tracing::warn!(trial = %name.trial, attempt = name.attempt, ?reason, "cancelled");
                process.cancelled = Some(reason);
                executor.cancel(*name)?;
            }
        }
        Ok(())
    }

    /// What becomes of a trial whose attempt ended.
    fn take_in(&mut self, process: Process, exit: Option<Exit>) -> anyhow::Result<()> {
        let Process { mut task, attempt, device, started, cancelled, .. } = process;
        let trial = task.record.trial;
        if let Some(result) = self.run.published(trial)? {
            task.show(&self.bar, units(task.record.epochs()));
            self.announce(&result);
            return self.finish(task.record, result);
        }
        let (kind, why) = judge(cancelled, exit.as_ref(), self.limits.silence);
        let ending = attempt.end(kind, why.clone(), started.elapsed().as_secs_f64())?;
        tracing::warn!(%trial, attempt = attempt.number, ?kind, why, log = ending.log, "no result");
        if exit == Some(Exit::Code(exit::NO_ROOM)) {
            bail!(NoRoom(format!("trial {trial}: {}", ending.log)));
        }
        if exit == Some(Exit::Code(exit::DAMAGED)) {
            let (log, root) = (&ending.log, self.run.root().display());
            let advice = format!("eas verify {root} --repair has what is damaged trained again");
            bail!(Damaged(format!("trial {trial}: {log}\n{advice}")));
        }
        task.count(kind, ending.seconds);
        let on_gpu = device != Device::Cpu && kind == AttemptEnd::Failed;
        task.alone |= (exit == Some(Exit::Signal(9)) || on_gpu) && cancelled.is_none();
        let Retries { lost, failed } = self.limits.retries;
        let why = if cancelled == Some(Reason::TooLong) {
            let limit = self.limits.timeout.unwrap_or_default();
            Some(format!("it took longer than {}", humantime::format_duration(limit)))
        } else if task.lost > lost {
            Some(format!("it was lost {} times; at last: {why}", task.lost))
        } else if task.failed > failed {
            // A program that ends by itself without a result complains of its surroundings, which no
            // architecture is to blame for; one that breaks down may do so because of this one.
            ensure!(!matches!(exit, Some(Exit::Code(1..=3))), "trial {trial}: {}", ending.log);
            let times = task.failed;
            Some(format!("the program failed {times} times; at last: {why}: {}", ending.log))
        } else {
            None
        };
        match why {
            Some(why) => self.fail(task, why, attempt.number),
            None => {
                self.waiting.push_front(task);
                Ok(())
            }
        }
    }

    /// Gives a trial that can't be carried out a result that says so.
    fn fail(&mut self, mut task: Task, why: String, attempt: u32) -> anyhow::Result<()> {
        task.show(&self.bar, units(task.record.epochs()));
        let result = task.record.ended(Ending::Failed { why }, attempt, task.seconds);
        self.publish(task.record, result, attempt)
    }

    fn publish(
        &mut self,
        record: TrialRecord,
        result: TrialResult,
        attempt: u32,
    ) -> anyhow::Result<()> {
        let result = self.run.publish(&result)?;
        tracing::info!(trial = %record.trial, attempt, "decided here");
        self.announce(&result);
        self.finish(record, result)
    }

    fn announce(&self, result: &TrialResult) {
        let ending = &result.ending;
        tracing::info!(trial = %result.trial, ?ending, seconds = result.seconds, "ended");
        self.bar.line(&result.line());
    }

    fn finish(&mut self, record: TrialRecord, result: TrialResult) -> anyhow::Result<()> {
        if let Some(index) = self.index {
            index.add(&result)?;
            self.run.settle(&result)?;
        }
        if record.purpose == Purpose::Child && result.same_as.is_none() && result.model.is_some() {
            self.trained.insert(record.trial, record);
        }
        self.done.push(result);
        Ok(())
    }

    /// Stops every process; what has no result by then waits.
    fn stop_all(&mut self) -> anyhow::Result<()> {
        if let Some(executor) = &mut self.executor {
            for (name, process) in &mut self.running {
                process.cancelled = Some(Reason::Stopped);
                executor.cancel(*name)?;
            }
        }
        while !self.running.is_empty() {
            self.look_after_running()?;
            std::thread::sleep(POLL);
        }
        self.run.keep_seconds(self.clock.seconds())
    }

    /// The deadline is there: records which trials are given up, once none of them runs.
    fn give_up(&mut self) -> anyhow::Result<()> {
        self.stop_all()?;
        let given_up: Vec<TrialId> = self.waiting.drain(..).map(|task| task.record.trial).collect();
        if !given_up.is_empty() {
            tracing::info!(?given_up, "the deadline is there");
            self.run.add_event(&Event::Deadline { given_up: given_up.clone() })?;
            self.given_up.extend(given_up);
        }
        Ok(())
    }
}

/// Units of the progress bar for so many epochs.
pub(crate) fn units(epochs: usize) -> u64 {
    (epochs as f64 * EPOCH_UNITS) as u64
}
