//! How far a run has come, from its files alone: whoever asks needs no coordinator, and may ask about
//! a copy.

use eas_controller::TrialId;
use serde::Serialize;

use crate::plan::Plan;
use crate::print::{self, percent};
use crate::report::Report;
use crate::runs::{Holder, Purpose, Run, TrialResult};
use crate::schedule::Schedule;

/// How far a run has come.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Status {
    pub(crate) run: String,
    pub(crate) state: State,
    /// The process that works on it.
    pub(crate) coordinator: Option<Holder>,
    pub(crate) done: usize,
    /// Trials of the whole run, if the plan could be read.
    pub(crate) planned: Option<usize>,
    /// Those that came to no result of their own making.
    pub(crate) failed: usize,
    /// The best by validation accuracy.
    pub(crate) best: Option<TrialResult>,
    pub(crate) under_way: Vec<UnderWay>,
    /// Seconds of work on it.
    pub(crate) seconds: f64,
    /// When the stages end, in seconds of work.
    pub(crate) deadline: Option<f64>,
}

/// Whether anything happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum State {
    /// A process works on it.
    Running,
    /// Nobody does; `eas resume` goes on.
    Stopped,
    /// All is done.
    Finished,
}

/// A trial without a result.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct UnderWay {
    pub(crate) trial: TrialId,
    pub(crate) purpose: Purpose,
    pub(crate) attempt: u32,
    /// Share of it that is done.
    pub(crate) share: f64,
    /// How earlier attempts ended.
    pub(crate) endings: Vec<String>,
}

impl Status {
    /// The state of a run; without its plan, less is known.
    pub(crate) fn of(run: &Run, plan: Option<&Plan>) -> anyhow::Result<Self> {
        let schedule = match plan {
            Some(plan) => Some((plan, Schedule::new(plan, &run.events()?))),
            None => None,
        };
        // Asked first, so that a run that ends meanwhile isn't taken for one that stopped.
        let coordinator = run.holder();
        let listing = run.listing()?;
        let report: Option<Report> = run.report()?;
        let finals = schedule.as_ref().map(|(_, schedule)| schedule.finals);
        let finished =
            report.is_some_and(|report| finals.is_none_or(|finals| report.finals == finals));
        let state = match (&coordinator, finished) {
            (_, true) => State::Finished,
            (Some(_), false) => State::Running,
            (None, false) => State::Stopped,
        };
        let mut under_way = Vec::new();
        for trial in listing.unfinished().iter().copied() {
            let attempts = run.attempts(trial);
            let last = attempts.last();
            let endings = attempts.iter().filter_map(|attempt| attempt.ending().ok()?);
            under_way.push(UnderWay {
                trial,
                purpose: run.record(trial)?.purpose,
                attempt: last.map_or(0, |attempt| attempt.number),
                share: last.and_then(|last| last.heartbeat()).map_or(0.0, |beat| beat.share),
                endings: endings.map(|ending| ending.why).collect(),
            });
        }
        Ok(Status {
            run: run.root().display().to_string(),
            state,
            coordinator,
            done: listing.count(),
            planned: schedule.as_ref().map(|(plan, schedule)| schedule.trials(plan)),
            failed: listing.failed()?,
            best: listing.best()?,
            under_way,
            seconds: run.seconds(),
            deadline: schedule.and_then(|(_, schedule)| schedule.deadline),
        })
    }

    /// All of it, for people.
    pub(crate) fn text(&self) -> String {
        let state = match (self.state, &self.coordinator) {
            (State::Finished, _) => "finished".to_owned(),
            (State::Running, Some(Holder { pid, host })) => {
                format!("running: process {pid} on {host}")
            }
            (State::Running | State::Stopped, _) => {
                format!("stopped; eas resume {} goes on", self.run)
            }
        };
        let planned = self.planned.map_or(String::new(), |planned| format!(" of {planned}"));
        let failed = match self.failed {
            0 => String::new(),
            failed => format!(", {failed} without a trained network"),
        };
        let mut lines = vec![
            format!("{}  {state}", self.run),
            format!("trials  {}{planned} done{failed}", self.done),
        ];
        let deadline = self.deadline.map_or(String::new(), |deadline| {
            format!(", stages end at {}", print::seconds(deadline))
        });
        lines.push(format!("time    {}{deadline}", print::seconds(self.seconds)));
        lines.extend(self.best.as_ref().map(|best| format!("best    {}", best.line())));
        for trial in &self.under_way {
            let endings = match trial.endings.as_slice() {
                [] => String::new(),
                endings => format!("  before: {}", endings.join("; ")),
            };
            lines.push(format!(
                "{}    {:>8}  {}, attempt {}{endings}",
                trial.trial,
                percent(trial.share),
                trial.purpose.words(),
                trial.attempt
            ));
        }
        lines.join("\n")
    }
}
