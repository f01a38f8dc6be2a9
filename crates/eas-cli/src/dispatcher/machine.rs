//! What this machine has to offer.

use std::fs;

/// Bytes that a process takes besides what training does, about.
const MARGIN: u64 = 256 << 20;

/// Processes, threads and memory for trials.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Machine {
    cores: usize,
    /// Trials that run at once.
    pub(crate) workers: usize,
    /// Bytes for all of them; nothing where it can't be told.
    pub(crate) memory: Option<u64>,
}

impl Machine {
    /// This machine, or what a person wants to be used of it.
    pub(crate) fn new(workers: Option<usize>, memory: Option<u64>) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let workers = workers.unwrap_or(cores);
        let free = || free_memory().map(|free| free.saturating_sub(MARGIN * workers as u64));
        Machine { cores, workers, memory: memory.or_else(free) }
    }

    /// Threads of each of so many trials, all cores together where there are enough.
    pub(crate) fn threads(self, trials: usize) -> usize {
        (self.cores / trials.clamp(1, self.workers)).max(1)
    }
}

/// Bytes that are free, of the machine or of the group of processes that this one belongs to.
fn free_memory() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let machine = line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()? * 1024;
    let read = |name: &str| fs::read_to_string(format!("/sys/fs/cgroup/{name}")).ok();
    let limit = || read("memory.max")?.trim().parse::<u64>().ok();
    // Pages of files count as used but are given back.
    let used = || {
        let text = read("memory.stat")?;
        text.lines().find_map(|line| line.strip_prefix("anon "))?.parse::<u64>().ok()
    };
    let group = limit().zip(used()).map_or(u64::MAX, |(limit, used)| limit.saturating_sub(used));
    Some(machine.min(group))
}
