//! This machine: a job is a child process.
//!
//! A job's standard input is a pipe that nobody writes to. Its end means stop: the job reads it, and
//! the system closes it when this process ends, however it ends. So jobs never outlive their
//! coordinator by more than they need to stop, and after a restart there are none to be found.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;

use super::{Claim, Executor, Exit, Job, JobName};

/// Time that a job has to stop by itself.
const GRACE: Duration = Duration::from_secs(5);

/// Runs jobs as child processes.
#[derive(Debug, Default)]
pub(crate) struct Local {
    jobs: BTreeMap<JobName, Process>,
}

#[derive(Debug)]
struct Process {
    child: Child,
    /// When it was asked to stop.
    asked: Option<Instant>,
}

impl Executor for Local {
    fn submit(&mut self, job: &Job) -> anyhow::Result<()> {
        if self.jobs.contains_key(&job.name) {
            return Ok(());
        }
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&job.log)
            .with_context(|| format!("can't write {}", job.log.display()))?;
        let child = Command::new(&job.program)
            .args(&job.arguments)
            .envs(job.environment.iter().cloned())
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("can't start {}", job.program.display()))?;
        self.jobs.insert(job.name, Process { child, asked: None });
        Ok(())
    }

    fn poll(&mut self) -> anyhow::Result<BTreeMap<JobName, Claim>> {
        let mut claims = BTreeMap::new();
        for (name, process) in &mut self.jobs {
            if process.asked.is_some_and(|asked| asked.elapsed() > GRACE) {
                process.child.kill().with_context(|| format!("can't kill {name}"))?;
            }
            let claim = match process.child.try_wait()? {
                Some(status) => Claim::Ended(exit(status)),
                None => Claim::Running,
            };
            claims.insert(*name, claim);
        }
        self.jobs.retain(|name, _| claims[name] == Claim::Running);
        Ok(claims)
    }

    fn cancel(&mut self, name: JobName) -> anyhow::Result<()> {
        if let Some(process) = self.jobs.get_mut(&name) {
            drop(process.child.stdin.take());
            process.asked.get_or_insert_with(Instant::now);
        }
        Ok(())
    }

    fn discover(&mut self) -> anyhow::Result<Vec<JobName>> {
        Ok(self.jobs.keys().copied().collect())
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        for process in self.jobs.values_mut() {
            // One that has ended meanwhile can't be killed and needn't be.
            let _ = process.child.kill();
            let _ = process.child.wait();
        }
    }
}

fn exit(status: ExitStatus) -> Exit {
    match (status.code(), status.signal()) {
        (Some(code), _) => Exit::Code(u8::try_from(code).unwrap_or(u8::MAX)),
        (None, signal) => Exit::Signal(signal.unwrap_or(0)),
    }
}
