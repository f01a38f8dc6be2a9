//! Where trials run: on this machine, or on a cluster.
//!
//! An executor starts command lines and says what became of them. Its word is a claim: whether a
//! trial has a result is for the run directory to say. An executor that runs what it is given passes the
//! conformance suite; the one of the tests of many trials only lets time pass.

#[cfg(test)]
mod conformance;
mod local;
#[cfg(test)]
mod simulated;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use eas_controller::TrialId;

pub(crate) use local::Local;

/// Names one attempt at one trial; the same on every engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct JobName {
    pub(crate) trial: TrialId,
    pub(crate) attempt: u32,
}

impl fmt::Display for JobName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.trial, self.attempt)
    }
}

/// A command line to run.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub(crate) name: JobName,
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<OsString>,
    pub(crate) environment: Vec<(String, String)>,
    /// Takes all that it prints.
    pub(crate) log: PathBuf,
}

/// What an executor believes of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    /// It runs, or is going to.
    Running,
    /// It has ended.
    Ended(Exit),
}

/// How a job ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// By itself, with this code.
    Code(u8),
    /// By a signal of the system's or a person's making.
    Signal(i32),
}

impl fmt::Display for Exit {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Exit::Code(code) => write!(out, "exit code {code}"),
            Exit::Signal(9) => write!(out, "killed (signal 9): by someone, or for want of memory"),
            Exit::Signal(signal) => write!(out, "signal {signal}"),
        }
    }
}

/// Runs jobs.
pub(crate) trait Executor {
    /// Starts a job, or takes it on to start it later. A name that it knows already is not started
    /// again.
    ///
    /// # Errors
    /// A job that can't be started here at all.
    fn submit(&mut self, job: &Job) -> anyhow::Result<()>;

    /// What became of the jobs. An end is told at least once; jobs that ended before the last call
    /// may be missing.
    ///
    /// # Errors
    /// "I don't know": of no job may be thought that it ended.
    fn poll(&mut self) -> anyhow::Result<BTreeMap<JobName, Claim>>;

    /// Asks a job to stop, and makes it where it doesn't. That it stopped is for [`Executor::poll`]
    /// to say. A job that isn't there is no error.
    ///
    /// # Errors
    /// An engine that can't be asked.
    fn cancel(&mut self, name: JobName) -> anyhow::Result<()>;

    /// The jobs that are still there, those of an earlier coordinator as well.
    ///
    /// # Errors
    /// An engine that can't be asked.
    fn discover(&mut self) -> anyhow::Result<Vec<JobName>>;
}
