//! A GPU: what there is, its context and kernels, queues of work, memory.

#![expect(unsafe_code, reason = "the driver and cuDNN are C libraries")]

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, bail, ensure};
use cudarc::cudnn::result as cudnn;
use cudarc::driver::{
    CudaContext, CudaFunction, CudaGraph, CudaSlice, CudaStream, DevicePtr, result, sys,
};
use cudarc::nvrtc::Ptx;

use crate::data::Labelled;
use crate::device::{CudaSurvey, Gpu as Found};

/// The kernels of `kernels.cu`, as `scripts/cuda_kernels.sh` compiles them: the driver makes code for
/// its GPU of them, whichever that is from compute capability 8.0 on.
const KERNELS: &str = include_str!("kernels.ptx");

/// Kernels that are there once.
const PLAIN: [&str; 5] = ["from_host", "norm_running", "round_all", "to_host", "update"];

/// Kernels that are there for values in f32 and for those in bf16, by a suffix.
const TYPED: [&str; 18] = [
    "add_bias",
    "average_pool",
    "average_pool_backward",
    "bias_slopes",
    "copy",
    "cross_entropy",
    "dropout",
    "images_drawn",
    "images_given",
    "max_pool",
    "max_pool_backward",
    "norm_apply",
    "norm_backward",
    "norm_slopes",
    "norm_statistics",
    "relu",
    "relu_backward",
    "transposed",
];

/// The CUDA version that a driver must know for our kernels, as the driver tells it: that of the
/// compiler which wrote them.
const DRIVER: i32 = 13000;

/// The least version of cuDNN, as it tells it.
const CUDNN: usize = 90_000;

/// The least compute capability that our kernels are written for.
const CAPABILITY: (i32, i32) = (8, 0);

/// Looks for the driver, cuDNN and the GPUs.
pub(crate) fn survey() -> CudaSurvey {
    let mut found = libraries();
    if found.driver.is_some() {
        found.gpus = gpus();
        let unusable = found.gpus.iter().filter_map(|gpu| gpu.unusable.as_deref());
        let unusable: Vec<&str> = unusable.collect();
        if found.gpus.is_empty() {
            found.missing.push(
                "no GPU that the driver can use: `nvidia-smi` says why, and CUDA_VISIBLE_DEVICES may hide \
                 them"
                    .to_owned(),
            );
        } else if unusable.len() == found.gpus.len() {
            found.missing.push(format!("no GPU that can be used: {}", unusable.join("; ")));
        }
    }
    found
}

/// Looks for the driver and cuDNN.
fn libraries() -> CudaSurvey {
    let mut found = CudaSurvey::default();
    match driver_version() {
        None => found.missing.push(
            "no NVIDIA driver: install one of at least version 580 (Debian: `apt install \
             nvidia-driver`), and look whether `nvidia-smi` shows the GPU"
                .to_owned(),
        ),
        Some(version) => {
            let text = format!("{}.{}", version / 1000, version % 1000 / 10);
            if version < DRIVER {
                found.missing.push(format!(
                    "the driver knows CUDA {text}, and 13.0 is needed: install a driver of at least \
                     version 580"
                ));
            }
            found.driver = Some(text);
        }
    }
    // SAFETY: loading cuDNN runs its initialisers, which is what it is there for.
    let has_cudnn = unsafe { cudarc::cudnn::sys::is_culib_present() };
    let mend = "install version 9 by `python3 -m pip install nvidia-cudnn-cu13`, and put its folder \
                `nvidia/cudnn/lib` and cuBLAS's, `nvidia/cu13/lib`, into LD_LIBRARY_PATH";
    if has_cudnn {
        let version = cudnn::get_version();
        let (major, minor, patch) = (version / 10_000, version / 100 % 100, version % 100);
        if version < CUDNN {
            found.missing.push(format!("cuDNN {version} is too old: {mend}"));
        }
        found.cudnn = Some(format!("{major}.{minor}.{patch}"));
    } else {
        found.missing.push(format!("no cuDNN: {mend}"));
    }
    found
}

/// The CUDA version that the driver knows, a thousand times the major one and ten times the minor.
fn driver_version() -> Option<i32> {
    // SAFETY: loading the driver's library runs its initialisers, which is what it is there for; the
    // call writes one number.
    unsafe {
        if !sys::is_culib_present() {
            return None;
        }
        let mut version = 0;
        sys::cuDriverGetVersion(&raw mut version).result().ok()?;
        Some(version)
    }
}

fn gpus() -> Vec<Found> {
    if result::init().is_err() {
        return Vec::new();
    }
    let count = CudaContext::device_count().unwrap_or(0);
    let gpus = (0..usize::try_from(count).unwrap_or(0)).map(|ordinal| {
        // One that can't be used stays in the list, or the numbers of the others would change.
        let broken = |error| Found {
            name: "a GPU".to_owned(),
            capability: "-".to_owned(),
            memory: 0,
            free: 0,
            unusable: Some(format!("cuda:{ordinal}: {error}")),
        };
        describe(ordinal).unwrap_or_else(broken)
    });
    gpus.collect()
}

fn describe(ordinal: usize) -> Result<Found, result::DriverError> {
    let context = CudaContext::new(ordinal)?;
    let (major, minor) = context.compute_capability()?;
    let (free, memory) = context.mem_get_info()?;
    let (least, found) = (CAPABILITY.0, format!("{major}.{minor}"));
    let old =
        format!("cuda:{ordinal}: expected compute capability {least}.0 or more, found {found}");
    Ok(Found {
        name: context.name()?,
        capability: found,
        memory: memory as u64,
        free: free as u64,
        unusable: ((major, minor) < CAPABILITY).then_some(old),
    })
}

/// A GPU in use by this process: its context and our kernels on it.
#[derive(Debug)]
pub(super) struct Gpu {
    context: Arc<CudaContext>,
    kernels: BTreeMap<String, CudaFunction>,
    /// The images that a training reads, kept for the next one.
    images: Mutex<Option<(Labelled, Arc<Memory>)>>,
}

/// The GPUs in use: a context takes hundreds of megabytes and as many milliseconds, so there is one.
static OPEN: Mutex<BTreeMap<usize, Arc<Gpu>>> = Mutex::new(BTreeMap::new());

impl Gpu {
    /// The GPU of this number.
    ///
    /// # Errors
    /// What is missing, or a GPU that isn't there or can't run our kernels.
    pub(super) fn open(ordinal: usize) -> anyhow::Result<Arc<Self>> {
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(gpu) = open.get(&ordinal) {
            return Ok(gpu.clone());
        }
        let missing = libraries().missing;
        if !missing.is_empty() {
            bail!("can't train on a GPU: {}", missing.join("; "));
        }
        result::init()?;
        let count = usize::try_from(CudaContext::device_count()?).unwrap_or(0);
        ensure!(ordinal < count, "expected a GPU below cuda:{count}, found cuda:{ordinal}");
        let gpu = Gpu::start(ordinal).with_context(|| format!("can't use cuda:{ordinal}"))?;
        let gpu = Arc::new(gpu);
        open.insert(ordinal, gpu.clone());
        Ok(gpu)
    }

    fn start(ordinal: usize) -> anyhow::Result<Self> {
        let context = CudaContext::new(ordinal)?;
        // SAFETY: what is allocated here is used on one stream alone, or behind a wait for it.
        unsafe { context.disable_event_tracking() };
        let found = context.compute_capability()?;
        ensure!(
            found >= CAPABILITY,
            "expected a GPU of compute capability 8.0 or more, found {}.{}",
            found.0,
            found.1
        );
        let module = context.load_module(Ptx::from_src(KERNELS))?;
        let typed = TYPED.iter().flat_map(|name| [format!("{name}_f32"), format!("{name}_bf16")]);
        let names = typed.chain(PLAIN.map(str::to_owned));
        let kernels = names.map(|name| Ok((name.clone(), module.load_function(&name)?)));
        let kernels = kernels.collect::<anyhow::Result<_>>()?;
        Ok(Gpu { context, kernels, images: Mutex::new(None) })
    }

    /// The images of a data set, on the GPU, `[image][channel][row][column]`.
    pub(super) fn images(&self, queue: &Queue, source: &Labelled) -> anyhow::Result<Arc<Memory>> {
        let mut kept = self.images.lock().unwrap_or_else(PoisonError::into_inner);
        match &*kept {
            Some((known, memory)) if known.shares_images(source) => Ok(memory.clone()),
            _ => {
                // Its memory is free before more is taken, where no program holds it.
                *kept = None;
                let memory = Memory::new(queue, source.pixels().len())
                    .context("the images don't fit into the GPU's memory")?;
                queue.upload(memory.whole(), source.pixels())?;
                queue.wait()?;
                let memory = Arc::new(memory);
                *kept = Some((source.clone(), memory.clone()));
                Ok(memory)
            }
        }
    }
}

/// Work of one program on a GPU, done in the order it is given.
#[derive(Debug)]
pub(super) struct Queue {
    pub(super) gpu: Arc<Gpu>,
    pub(super) stream: Arc<CudaStream>,
}

impl Queue {
    pub(super) fn new(gpu: Arc<Gpu>) -> anyhow::Result<Self> {
        let stream = gpu.context.new_stream()?;
        Ok(Queue { gpu, stream })
    }

    /// A kernel of ours.
    pub(super) fn kernel(&self, name: &str) -> &CudaFunction {
        &self.gpu.kernels[name]
    }

    /// Waits until all work is done.
    pub(super) fn wait(&self) -> anyhow::Result<()> {
        Ok(self.stream.synchronize()?)
    }

    /// Copies numbers to the GPU.
    ///
    /// # Errors
    /// More numbers than the place has room for.
    pub(super) fn upload<T: Plain>(&self, to: Place, from: &[T]) -> anyhow::Result<()> {
        self.upload_later(to, from)?;
        self.wait()
    }

    /// The same of some pinned numbers, which are read when it is their turn; the caller leaves them until
    /// then.
    ///
    /// # Errors
    /// As [`Queue::upload`].
    pub(super) fn upload_pinned<T: Plain>(
        &self,
        to: Place,
        from: &Pinned<T>,
        range: Range<usize>,
    ) -> anyhow::Result<()> {
        self.upload_later(to, &from.numbers()[range])
    }

    fn upload_later<T: Plain>(&self, to: Place, from: &[T]) -> anyhow::Result<()> {
        ensure!(size_of_val(from) <= to.bytes, "expected at most {} bytes", to.bytes);
        if from.is_empty() {
            return Ok(());
        }
        self.gpu.context.bind_to_thread()?;
        // SAFETY: the place is part of memory that its program holds, and large enough; the numbers stay
        // until the queue was waited for: here by `upload`, else by the program that has the pinned memory.
        unsafe { result::memcpy_htod_async(to.pointer, from, self.stream.cu_stream()) }?;
        Ok(())
    }

    /// Copies numbers from the GPU, behind all work that was given before.
    pub(super) fn download<T: Plain>(&self, from: Place, to: &mut [T]) -> anyhow::Result<()> {
        ensure!(size_of_val(to) <= from.bytes, "expected at most {} bytes", from.bytes);
        if to.is_empty() {
            return Ok(());
        }
        self.gpu.context.bind_to_thread()?;
        // SAFETY: the place is large enough, any bits are a number of `T`, and the copy is waited for
        // before `to` can be used.
        unsafe { result::memcpy_dtoh_async(to, from.pointer, self.stream.cu_stream()) }?;
        self.wait()
    }

    /// Fills a place with zeros.
    pub(super) fn clear(&self, place: Place) -> anyhow::Result<()> {
        if place.bytes == 0 {
            return Ok(());
        }
        self.gpu.context.bind_to_thread()?;
        // SAFETY: the place is part of memory that its program holds.
        unsafe { result::memset_d8_async(place.pointer, 0, place.bytes, self.stream.cu_stream()) }?;
        Ok(())
    }

    /// Records work instead of doing it, to be done many times by one call.
    pub(super) fn record(
        &self,
        work: impl FnOnce() -> anyhow::Result<()>,
    ) -> anyhow::Result<Recording> {
        self.stream.begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)?;
        let given = work();
        // The recording ends even where the work failed.
        let graph = self.stream.end_capture(
            sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH,
        );
        given?;
        graph?.map(Recording).context("expected a recording of some work")
    }
}

/// Work of a queue that was recorded.
pub(super) struct Recording(CudaGraph);

impl Recording {
    /// Gives all of it to its queue.
    pub(super) fn replay(&self) -> anyhow::Result<()> {
        Ok(self.0.launch()?)
    }
}

impl fmt::Debug for Recording {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Recording")
    }
}

/// Numbers that any bits are one of, and that have no bytes between them.
///
/// # Safety
/// Both must hold.
pub(super) unsafe trait Plain: Copy {}

// SAFETY: numbers.
unsafe impl Plain for u8 {}
// SAFETY: numbers.
unsafe impl Plain for u32 {}
// SAFETY: numbers.
unsafe impl Plain for u64 {}
// SAFETY: numbers.
unsafe impl Plain for f32 {}

/// Memory of a GPU.
#[derive(Debug)]
pub(super) struct Memory {
    slice: CudaSlice<u8>,
    place: Place,
}

impl Memory {
    /// Takes so many bytes.
    ///
    /// # Errors
    /// A GPU that hasn't so many left.
    pub(super) fn new(queue: &Queue, bytes: usize) -> anyhow::Result<Self> {
        let taken = || format!("can't take {} MiB of the GPU's memory", bytes.div_ceil(1 << 20));
        // SAFETY: whoever reads it has written it before: programs write each place in every pass.
        let slice = unsafe { queue.stream.alloc::<u8>(bytes.max(1)) }.with_context(taken)?;
        let (pointer, _) = slice.device_ptr(&queue.stream);
        // Errors of a stream show with what comes next; this one is told here.
        queue.wait().with_context(taken)?;
        let place = Place { pointer, bytes };
        Ok(Memory { slice, place })
    }

    pub(super) fn whole(&self) -> Place {
        self.place
    }

    pub(super) fn bytes(&self) -> usize {
        self.slice.len()
    }
}

/// Some bytes of a GPU's memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) pointer: u64,
    pub(super) bytes: usize,
}

impl Place {
    /// A part of it.
    ///
    /// # Panics
    /// A part that isn't within it.
    pub(super) fn part(self, start: usize, bytes: usize) -> Place {
        assert!(start + bytes <= self.bytes, "a part of {} bytes", self.bytes);
        Place { pointer: self.pointer + start as u64, bytes }
    }
}

/// Memory of the host that a GPU reads by itself, while the host works on.
#[derive(Debug)]
pub(super) struct Pinned<T> {
    start: *mut T,
    length: usize,
    numbers: PhantomData<T>,
}

impl<T: Plain> Pinned<T> {
    /// Room for so many numbers, all 0.
    pub(super) fn new(queue: &Queue, length: usize) -> anyhow::Result<Self> {
        queue.gpu.context.bind_to_thread()?;
        // SAFETY: the driver gives as many bytes, aligned for any number, or an error.
        let start =
            unsafe { result::malloc_host((length * size_of::<T>()).max(1), 0) }?.cast::<T>();
        // SAFETY: there is room for `length` numbers, of which zeros are some.
        unsafe { start.write_bytes(0, length) };
        Ok(Pinned { start, length, numbers: PhantomData })
    }

    pub(super) fn numbers(&self) -> &[T] {
        // SAFETY: `new` took and wrote so many.
        unsafe { std::slice::from_raw_parts(self.start, self.length) }
    }

    pub(super) fn numbers_mut(&mut self) -> &mut [T] {
        // SAFETY: `new` took and wrote so many, and nobody else has them.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.length) }
    }
}

impl<T> Drop for Pinned<T> {
    fn drop(&mut self) {
        // SAFETY: it was taken by `malloc_host`, and programs wait for their queue before they end.
        let freed = unsafe { result::free_host(self.start.cast()) };
        debug_assert!(freed.is_ok(), "{freed:?}");
    }
}

/// Where places of memory are planned before there is any.
#[derive(Debug, Default)]
pub(super) struct Layout {
    bytes: usize,
}

impl Layout {
    /// What cuDNN and vectors ask for.
    const ALIGNMENT: usize = 256;

    /// A place of so many bytes, counted from the beginning of the memory to come.
    pub(super) fn take(&mut self, bytes: usize) -> Place {
        let start = self.bytes;
        self.bytes += bytes.next_multiple_of(Self::ALIGNMENT);
        Place { pointer: start as u64, bytes }
    }

    /// How many bytes were taken.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}
