//! A trial that has no result yet, and what the ends of its attempts mean.

use std::time::{Duration, Instant};

use eas_train::Device;

use crate::executor::Exit;
use crate::exit;
use crate::print::Bar;
use crate::runs::{Attempt, AttemptEnd, Heartbeat, TrialRecord};

/// A trial without a result.
pub(super) struct Task {
    pub(super) record: TrialRecord,
    /// Attempts that were lost, and that failed.
    pub(super) lost: u32,
    pub(super) failed: u32,
    /// Seconds of all attempts.
    pub(super) seconds: f64,
    /// Whether it was killed, or failed on a GPU, perhaps for want of memory: then no other may run
    /// beside it.
    pub(super) alone: bool,
    /// Units of the bar that it has been given.
    pub(super) shown: u64,
}

/// An attempt under way.
pub(super) struct Process {
    pub(super) task: Task,
    pub(super) attempt: Attempt,
    pub(super) device: Device,
    pub(super) started: Instant,
    pub(super) heartbeat: Heartbeat,
    /// When that last changed.
    pub(super) changed: Instant,
    /// Why it was told to stop.
    pub(super) cancelled: Option<Reason>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    Stopped,
    Silent,
    TooLong,
}

impl Process {
    pub(super) fn new(task: Task, attempt: Attempt, device: Device) -> Self {
        let now = Instant::now();
        let heartbeat = Heartbeat::default();
        Process { task, attempt, device, started: now, heartbeat, changed: now, cancelled: None }
    }
}

impl Task {
    pub(super) fn new(record: TrialRecord) -> Self {
        Task { record, lost: 0, failed: 0, seconds: 0.0, alone: false, shown: 0 }
    }

    /// Bytes that it takes of where it runs: those predicted, or all that there are where it must be alone.
    pub(super) fn needs(&self) -> u64 {
        if self.alone { u64::MAX } else { self.record.memory }
    }

    pub(super) fn count(&mut self, kind: AttemptEnd, seconds: f64) {
        self.seconds += seconds;
        match kind {
            AttemptEnd::Stopped => {}
            AttemptEnd::Lost => self.lost += 1,
            AttemptEnd::Failed => self.failed += 1,
        }
    }

    pub(super) fn show(&mut self, bar: &Bar, units: u64) {
        bar.advance(units.saturating_sub(self.shown));
        self.shown = self.shown.max(units);
    }
}

/// Whose fault the end of an attempt without a result is, and why it ended.
pub(super) fn judge(
    cancelled: Option<Reason>,
    exit: Option<&Exit>,
    silence: Duration,
) -> (AttemptEnd, String) {
    let told = exit.map_or("the executor lost it".to_owned(), Exit::to_string);
    match (cancelled, exit) {
        (Some(Reason::Stopped), _) => (AttemptEnd::Stopped, "asked to stop".to_owned()),
        (Some(Reason::TooLong), _) => (AttemptEnd::Stopped, "it took too long".to_owned()),
        (None, Some(Exit::Code(exit::NO_ROOM))) => {
            (AttemptEnd::Stopped, "the disk was full".to_owned())
        }
        (Some(Reason::Silent), _) => {
            let silence = humantime::format_duration(silence);
            (AttemptEnd::Lost, format!("no progress for {silence}"))
        }
        (None, None | Some(Exit::Signal(2 | 9 | 15) | Exit::Code(exit::INTERRUPTED))) => {
            (AttemptEnd::Lost, told)
        }
        (None, Some(_)) => (AttemptEnd::Failed, told),
    }
}
