//! What a program works in: allocated once for the largest batch, then reused.

use std::sync::Mutex;

use super::batch_norm::Norm;
use super::kernels::Isa;
use super::plan::Plan;
use crate::recipe::Precision;

/// Numbers of a line of a cache.
pub(super) const LINE: usize = 16;

/// What every step of a pass is run with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Setting {
    pub(super) isa: Isa,
    /// What products are computed in.
    pub(super) precision: Precision,
    /// Images of the batch.
    pub(super) batch: usize,
}

/// The buffers of a program. Steps take a buffer out while they write it, which frees nothing.
#[derive(Debug)]
pub(super) struct Memory {
    /// Images that the buffers have room for.
    pub(super) batch: usize,
    /// Values and gradients, `[image][row][column][channel]`.
    pub(super) values: Vec<Vec<f32>>,
    pub(super) slots: Vec<Vec<f32>>,
    pub(super) norms: Vec<Norm>,
    /// The place in the image that won each window of each max pool.
    pub(super) winners: Vec<Vec<u32>>,
    /// Factors of each dropout.
    pub(super) masks: Vec<Vec<f32>>,
    /// The weights of the step at work, packed.
    pub(super) packed: Vec<f32>,
    /// Sums of blocks of images.
    pub(super) partials: Vec<f32>,
    pub(super) scratch: Scratch,
}

impl Memory {
    pub(super) fn new(plan: &Plan) -> Self {
        Memory {
            batch: 0,
            values: vec![Vec::new(); plan.values.len()],
            slots: vec![Vec::new(); plan.slots.len()],
            norms: plan
                .norms
                .iter()
                .map(|(channels, epsilon)| Norm::new(*channels, *epsilon))
                .collect(),
            winners: vec![Vec::new(); plan.winners.len()],
            masks: vec![Vec::new(); plan.masks.len()],
            packed: Vec::new(),
            partials: Vec::new(),
            scratch: Scratch::default(),
        }
    }

    /// Makes room for a forward pass.
    pub(super) fn reserve_forward(&mut self, plan: &Plan, setting: Setting) {
        let batch = setting.batch;
        self.batch = self.batch.max(batch);
        grow_all(&mut self.values, &plan.values, batch);
        grow_all(&mut self.winners, &plan.winners, batch);
        let needs = plan.steps.iter().map(|step| step.needs(setting));
        let needs = needs.fold(Needs::default(), Needs::most);
        grow(&mut self.packed, needs.packed + LINE);
        grow(&mut self.partials, needs.partials);
        self.scratch.reserve(needs.scratch);
    }

    /// Makes room for a step.
    pub(super) fn reserve(&mut self, plan: &Plan, setting: Setting) {
        self.reserve_forward(plan, setting);
        grow_all(&mut self.slots, &plan.slots, setting.batch);
        grow_all(&mut self.masks, &plan.masks, setting.batch);
    }
}

fn grow_all<T: Clone + Default>(buffers: &mut [Vec<T>], sizes: &[usize], batch: usize) {
    buffers.iter_mut().zip(sizes).for_each(|(buffer, size)| grow(buffer, size * batch));
}

fn grow<T: Clone + Default>(buffer: &mut Vec<T>, size: usize) {
    if buffer.len() < size {
        // Dropping the old one first keeps the peak low; its values are not needed.
        *buffer = Vec::new();
        *buffer = vec![T::default(); size];
    }
}

/// The buffer from a line of the cache on, so that vectors and rows of tiles lie in one each.
pub(super) fn aligned(buffer: &mut [f32]) -> &mut [f32] {
    let skipped = buffer.as_ptr().align_offset(LINE * size_of::<f32>()).min(buffer.len());
    &mut buffer[skipped..]
}

/// What a step needs besides values and gradients.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Needs {
    pub(super) packed: usize,
    pub(super) partials: usize,
    pub(super) scratch: usize,
}

impl Needs {
    fn most(self, other: Self) -> Self {
        Needs {
            packed: self.packed.max(other.packed),
            partials: self.partials.max(other.partials),
            scratch: self.scratch.max(other.scratch),
        }
    }
}

/// A buffer for each thread.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    buffers: Vec<Mutex<Vec<f32>>>,
}

impl Scratch {
    pub(super) fn reserve(&mut self, size: usize) {
        let threads = rayon::current_num_threads();
        if self.buffers.len() < threads {
            self.buffers.resize_with(threads, Mutex::default);
        }
        for buffer in &mut self.buffers {
            grow(buffer.get_mut().expect("no thread panicked with it"), size + LINE);
        }
    }

    /// Calls `work` with this thread's buffer, which begins at a line of the cache; work doesn't wait for other threads meanwhile.
    pub(super) fn with<R>(&self, work: impl FnOnce(&mut [f32]) -> R) -> R {
        let thread = rayon::current_thread_index().unwrap_or(0);
        let buffer = &self.buffers[thread % self.buffers.len()];
        work(aligned(&mut buffer.lock().expect("no thread panicked with it")))
    }
}
