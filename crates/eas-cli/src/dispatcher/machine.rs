//! What this machine has to offer, and where the next trial runs.

use std::cmp::Reverse;
use std::fs;

use eas_train::Device;

use crate::devices::Places;
use crate::plan::Workers;

/// Bytes that a process takes besides what training does, about.
const MARGIN: u64 = 256 << 20;
/// Bytes of a GPU that a process takes besides what training does, about: its context, the workspace of
/// convolutions and the images.
const MARGIN_ON_GPU: u64 = 3 << 29;
/// Trials of a GPU at once. The kernels of a small network leave most of a GPU idle: under MPS so many trainings
/// come to 1.5 to 2.8 times one (docs/performance.md).
const TRIALS_ON_GPU: usize = 4;

/// Processes, threads and memory for trials.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    cores: usize,
    /// Trials that run at once.
    pub(crate) workers: usize,
    /// At least one.
    places: Vec<Place>,
}

/// What a trial that runs has taken: which device, and bytes of its memory.
type Taken = (Device, u64);

/// A device that trials run on, side by side.
#[derive(Clone, Copy, Debug)]
struct Place {
    device: Device,
    /// Bytes for all of them.
    memory: u64,
    /// Bytes that each takes besides what training does.
    margin: u64,
}

impl Machine {
    /// This machine, or what a person wants to be used of it: so many workers, and so much memory of the
    /// processor or of each GPU.
    pub(crate) fn new(workers: Workers, memory: Option<u64>, places: &Places) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let auto = match places {
            Places::Cpu => cores,
            Places::Gpus(gpus) => (TRIALS_ON_GPU * gpus.len()).min(cores.max(gpus.len())),
        };
        let workers = match workers {
            Workers::Auto => auto,
            Workers::Count(count) => count,
        };
        let places = match places {
            Places::Cpu => {
                let free =
                    || free_memory().map(|free| free.saturating_sub(MARGIN * workers as u64));
                // Where it can't be told, there is enough for all but those that need all of it.
                let memory = memory.or_else(free).unwrap_or(u64::MAX - 1);
                vec![Place { device: Device::Cpu, memory, margin: 0 }]
            }
            Places::Gpus(gpus) => gpus
                .iter()
                .map(|(number, gpu)| Place {
                    device: Device::Cuda(*number),
                    memory: memory.map_or(gpu.free, |limit| limit.min(gpu.free)),
                    margin: MARGIN_ON_GPU,
                })
                .collect(),
        };
        Machine { cores, workers, places }
    }

    /// Threads of each of so many trials, all cores together where there are enough.
    pub(crate) fn threads(&self, trials: usize) -> usize {
        (self.cores / trials.clamp(1, self.workers)).max(1)
    }

    /// Bytes of the processor's memory beyond which a trial isn't tried. A GPU has the last word itself:
    /// what is too large for it ends there, and ends nothing else.
    pub(crate) fn limit(&self) -> Option<u64> {
        self.places.iter().find(|place| place.device == Device::Cpu).map(|place| place.memory)
    }

    /// Whether trials run on GPUs.
    pub(crate) fn has_gpus(&self) -> bool {
        self.places.iter().any(|place| place.device != Device::Cpu)
    }

    /// The first place.
    pub(crate) fn first(&self) -> Device {
        self.places[0].device
    }

    /// Where a trial of this predicted memory runs beside those that do; nothing where it has to wait. One
    /// that must run alone gets a place to itself, and so does one that needs more than any has: the largest.
    pub(crate) fn place(&self, running: &[Taken], memory: u64, alone: bool) -> Option<Device> {
        let taken = |place: &Place, bytes: u64| bytes.saturating_add(place.margin);
        let load = |place: &Place| {
            let there = running.iter().filter(|(device, _)| *device == place.device);
            let bytes = there
                .clone()
                .fold(0u64, |sum, (_, bytes)| sum.saturating_add(taken(place, *bytes)));
            (there.count(), bytes)
        };
        let fits =
            |place: &&Place, bytes: u64| bytes.saturating_add(taken(place, memory)) <= place.memory;
        let fitting = self.places.iter().any(|place| fits(&place, 0));
        if fitting && !alone {
            let free = self.places.iter().filter(|place| fits(place, load(place).1));
            return free.min_by_key(|place| load(place)).map(|place| place.device);
        }
        let largest = self.places.iter().map(|place| place.memory).max();
        let wanted = self.places.iter().filter(|place| match fitting {
            true => fits(place, 0),
            false => Some(place.memory) == largest,
        });
        let empty = wanted.filter(|place| load(place).0 == 0);
        empty.min_by_key(|place| Reverse(place.memory)).map(|place| place.device)
    }
}

/// Bytes that are free, of the machine or of the group of processes that this one belongs to.
pub(crate) fn free_memory() -> Option<u64> {
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

#[cfg(test)]
mod tests {
    use eas_ir::Rng;
    use eas_train::Gpu;

    use super::*;

    fn gpus(free: &[u64]) -> Places {
        let gpu = |free: &u64| Gpu {
            name: "a GPU".to_owned(),
            capability: "9.0".to_owned(),
            memory: 80 << 30,
            free: *free,
            unusable: None,
        };
        Places::Gpus(free.iter().map(gpu).enumerate().collect())
    }

    /// Starts and ends trials at random; hands every start to a check: the trials that ran, the new
    /// one's memory, and where it was put.
    fn trial(
        machine: &Machine,
        memory: &mut dyn FnMut(&mut Rng) -> (u64, bool),
        seed: u64,
        check: impl Fn(&[Taken], (u64, bool), Option<Device>),
    ) {
        let mut rng = Rng::new(seed);
        let mut running: Vec<Taken> = Vec::new();
        for _ in 0..60 {
            if !running.is_empty() && rng.below(3) == 0 {
                running.swap_remove(rng.below(running.len()));
            }
            let (memory, alone) = memory(&mut rng);
            let place = machine.place(&running, memory, alone);
            check(&running, (memory, alone), place);
            running.extend(place.map(|device| (device, if alone { u64::MAX } else { memory })));
        }
    }

    #[test]
    fn a_gpu_never_gets_more_than_it_has_but_for_one_that_is_alone() {
        for seed in 0..200 {
            let mut rng = Rng::new(seed).split("machine");
            let free: Vec<u64> =
                (0..1 + rng.below(4)).map(|_| (rng.below(40) as u64) << 30).collect();
            let machine = Machine::new(Workers::Count(64), None, &gpus(&free));
            let mut memory =
                |rng: &mut Rng| ((rng.below(24 << 10) as u64) << 20, rng.below(10) == 0);
            trial(&machine, &mut memory, seed, |running, (memory, alone), place| {
                let on = |number: usize| {
                    running.iter().filter(move |(device, _)| *device == Device::Cuda(number))
                };
                let needed = |number: usize| {
                    let bytes = on(number).map(|(_, bytes)| u128::from(*bytes));
                    bytes.sum::<u128>()
                        + u128::from(memory)
                        + (on(number).count() as u128 + 1) * u128::from(MARGIN_ON_GPU)
                };
                let why =
                    format!("seed {seed}: {free:?}, {running:?}, {memory}, {alone}, {place:?}");
                let holds =
                    |free: u64| u128::from(memory) + u128::from(MARGIN_ON_GPU) <= u128::from(free);
                let fits = free.iter().any(|free| holds(*free));
                let largest = *free.iter().max().unwrap();
                let alone = alone || !fits;
                // Where it may run alone: where it fits, or on the largest if it fits nowhere.
                let wanted = |gpu: usize| match fits {
                    true => holds(free[gpu]),
                    false => free[gpu] == largest,
                };
                match place {
                    Some(Device::Cuda(gpu)) if alone => {
                        assert!(on(gpu).count() == 0 && wanted(gpu), "{why}");
                    }
                    Some(Device::Cuda(gpu)) => {
                        assert!(needed(gpu) <= u128::from(free[gpu]), "{why}");
                    }
                    Some(Device::Cpu) => panic!("{why}"),
                    // It waits only where it has to.
                    None if alone => {
                        let mut all = (0..free.len()).filter(|gpu| wanted(*gpu));
                        assert!(all.all(|gpu| on(gpu).count() > 0), "{why}");
                    }
                    None => assert!(
                        (0..free.len()).all(|gpu| needed(gpu) > u128::from(free[gpu])),
                        "{why}"
                    ),
                }
            });
        }
    }

    #[test]
    fn trials_are_spread_evenly() {
        for seed in 0..100 {
            let count = 1 + Rng::new(seed).split("machine").below(8);
            let machine = Machine::new(Workers::Auto, None, &gpus(&vec![1 << 40; count]));
            assert!((count..=TRIALS_ON_GPU * count).contains(&machine.workers), "{machine:?}");
            let mut memory = |rng: &mut Rng| ((rng.below(1 << 10) as u64) << 20, false);
            trial(&machine, &mut memory, seed, |running, _, place| {
                let on = |number| {
                    running.iter().filter(|(device, _)| *device == Device::Cuda(number)).count()
                };
                let why = format!("seed {seed}: {running:?}, {place:?}");
                let Some(Device::Cuda(gpu)) = place else { panic!("{why}") };
                assert!((0..count).all(|other| on(gpu) <= on(other)), "{why}");
            });
        }
    }

    #[test]
    fn the_processor_takes_trials_up_to_its_memory_and_a_larger_one_alone() {
        let machine = Machine::new(Workers::Count(8), Some(100), &Places::Cpu);
        let cpu = |bytes: u64| (Device::Cpu, bytes);
        assert_eq!(machine.limit(), Some(100));
        assert_eq!(machine.place(&[cpu(60)], 40, false), Some(Device::Cpu));
        assert_eq!(machine.place(&[cpu(60)], 41, false), None);
        assert_eq!(machine.place(&[cpu(1)], 10, true), None);
        assert_eq!(machine.place(&[], 10, true), Some(Device::Cpu));
        assert_eq!(machine.place(&[], u64::MAX, false), Some(Device::Cpu));
        assert_eq!(machine.place(&[cpu(u64::MAX)], 1, false), None);
        let on_gpu = Machine::new(Workers::Auto, Some(4 << 30), &gpus(&[8 << 30]));
        assert_eq!(on_gpu.limit(), None);
        assert_eq!(on_gpu.place(&[(Device::Cuda(0), 0), (Device::Cuda(0), 0)], 0, false), None);
        // One that must be alone waits for a GPU that it fits, and doesn't take a smaller one.
        let unequal = Machine::new(Workers::Auto, None, &gpus(&[8 << 30, 80 << 30]));
        let beside = [(Device::Cuda(1), 1 << 30)];
        assert_eq!(unequal.place(&beside, 30 << 30, true), None);
        assert_eq!(unequal.place(&[], 30 << 30, true), Some(Device::Cuda(1)));
        assert_eq!(unequal.place(&beside, 1 << 30, true), Some(Device::Cuda(0)));
    }
}
