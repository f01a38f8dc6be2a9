//! Convolutions by cuDNN, through its graph interface: what a convolution is goes in, engines that can
//! compute it come out, the fastest of those that are likely best is kept.

#![expect(unsafe_code, reason = "cuDNN is a C library")]

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::c_void;
use std::rc::Rc;
use std::sync::Arc;

use anyhow::{Context, bail};
use cudarc::cudnn::{result, sys};
use cudarc::driver::CudaContext;
use sys::cudnnBackendAttributeName_t as Name;
use sys::cudnnBackendAttributeType_t as Type;
use sys::cudnnBackendDescriptorType_t as Kind;
use sys::cudnnBackendNumericalNote_t as Note;

use super::gpu::{Place, Queue};
use super::kernels::size;
use crate::recipe::Precision;

/// Bytes that a convolution may work in besides its values.
pub(super) const WORKSPACE: usize = 256 << 20;

/// Engines that are timed for a training, of those that cuDNN thinks fastest.
pub(super) const TIMED: usize = 10;

/// Engines that cuDNN is asked for.
const ASKED: usize = 24;

/// Times that each is run to be timed.
const RUNS: usize = 3;

/// Convolutions on a queue.
#[derive(Debug)]
pub(super) struct Cudnn {
    handle: sys::cudnnHandle_t,
    /// That of the handle, which calls expect to be the thread's.
    context: Arc<CudaContext>,
    /// What was chosen: layers that are alike share it.
    chosen: RefCell<HashMap<Convolution, Rc<Engine>>>,
}

impl Drop for Cudnn {
    fn drop(&mut self) {
        self.chosen.borrow_mut().clear();
        // SAFETY: `new` made it, and what was made with it is gone.
        let ended = unsafe { result::destroy_handle(self.handle) };
        debug_assert!(ended.is_ok(), "{ended:?}");
    }
}

/// The sizes of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Geometry {
    pub(super) channels: usize,
    pub(super) height: usize,
    pub(super) width: usize,
    pub(super) filters: usize,
    pub(super) kernel: usize,
    pub(super) stride: usize,
    pub(super) padding: usize,
    pub(super) groups: usize,
}

impl Geometry {
    fn output(&self) -> (usize, usize) {
        let side = |side| (side + 2 * self.padding - self.kernel) / self.stride + 1;
        (side(self.height), side(self.width))
    }
}

/// Which of the three convolutions of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Direction {
    /// The output, from input and weight.
    Forward,
    /// The slope of the input, from weight and the slope of the output.
    Data,
    /// The slope of the weight, from input and the slope of the output.
    Filter,
}

/// A convolution of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Convolution {
    pub(super) direction: Direction,
    pub(super) geometry: Geometry,
    pub(super) precision: Precision,
    pub(super) batch: usize,
}

/// Where the values of a convolution stand, or their slopes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Operands {
    /// `[image][row][column][channel]`
    pub(super) input: Place,
    /// `[filter][row][column][channel of the group]`
    pub(super) weight: Place,
    /// `[image][row][column][filter]`
    pub(super) output: Place,
    pub(super) workspace: Place,
}

/// A way to compute a convolution.
#[derive(Debug)]
pub(super) struct Engine {
    plan: Descriptor,
    /// Bytes of input, weight, output and workspace.
    bytes: [usize; 4],
}

impl Cudnn {
    pub(super) fn new(queue: &Queue) -> anyhow::Result<Rc<Self>> {
        queue.stream.context().bind_to_thread()?;
        let handle = result::create_handle().context("can't start cuDNN")?;
        let context = queue.stream.context().clone();
        let cudnn = Cudnn { handle, context, chosen: RefCell::default() };
        // SAFETY: both are alive, and the program that has them drops cuDNN first.
        unsafe { result::set_stream(handle, queue.stream.cu_stream().cast()) }?;
        Ok(Rc::new(cudnn))
    }

    /// A way to compute a convolution: the fastest of so many. They are timed on the places that it is going
    /// to work on: what it writes is lost.
    ///
    /// # Errors
    /// A convolution that cuDNN has no engine for.
    pub(super) fn engine(
        &self,
        queue: &Queue,
        convolution: Convolution,
        operands: Operands,
        timed: usize,
    ) -> anyhow::Result<Rc<Engine>> {
        if let Some(known) = self.chosen.borrow().get(&convolution) {
            return Ok(known.clone());
        }
        self.context.bind_to_thread()?;
        let engine = self.fastest(queue, convolution, operands, timed);
        let engine = engine.with_context(|| format!("cuDNN can't compute {convolution:?}"))?;
        let engine = Rc::new(engine);
        self.chosen.borrow_mut().insert(convolution, engine.clone());
        Ok(engine)
    }

    fn fastest(
        &self,
        queue: &Queue,
        convolution: Convolution,
        operands: Operands,
        most: usize,
    ) -> anyhow::Result<Engine> {
        let graph = self.graph(convolution)?;
        let (mut best, mut timed): (Option<(f32, Engine)>, usize) = (None, 0);
        let mut why = None;
        let modes = [
            sys::cudnnBackendHeurMode_t::CUDNN_HEUR_MODE_A,
            sys::cudnnBackendHeurMode_t::CUDNN_HEUR_MODE_FALLBACK,
        ];
        for mode in modes {
            for configuration in self.configurations(&graph, mode)? {
                if timed == most
                    || !is_allowed(&configuration, convolution.precision).unwrap_or(false)
                {
                    continue;
                }
                let tried = self
                    .plan(convolution, configuration)
                    .and_then(|engine| Ok((self.time(queue, &engine, operands)?, engine)));
                match tried {
                    Ok((time, engine)) => {
                        timed += 1;
                        if best.as_ref().is_none_or(|(least, _)| time < *least) {
                            best = Some((time, engine));
                        }
                    }
                    Err(error) => why = Some(error),
                }
            }
            // The others are those that always work, and are never fast.
            if best.is_some() {
                break;
            }
        }
        match (best, why) {
            (Some((_, engine)), _) => Ok(engine),
            (None, Some(error)) => Err(error),
            (None, None) => bail!("it offers nothing"),
        }
    }

    /// A convolution as a graph of one operation.
    fn graph(&self, convolution: Convolution) -> anyhow::Result<Descriptor> {
        let Convolution { direction, geometry, precision, batch } = convolution;
        let number = match precision {
            Precision::F32 => sys::cudnnDataType_t::CUDNN_DATA_FLOAT,
            Precision::Bf16 => sys::cudnnDataType_t::CUDNN_DATA_BFLOAT16,
        };
        let Geometry { channels, height, width, filters, kernel, groups, .. } = geometry;
        let (out_height, out_width) = geometry.output();
        let tensor = |place: i64, [count, channels, height, width]: [usize; 4]| {
            let tensor = Descriptor::new(Kind::CUDNN_BACKEND_TENSOR_DESCRIPTOR)?;
            let sizes = [count, channels, height, width].map(|size| size as i64);
            let strides = [height * width * channels, 1, width * channels, channels];
            tensor.set(Name::CUDNN_ATTR_TENSOR_DATA_TYPE, Type::CUDNN_TYPE_DATA_TYPE, &[number])?;
            tensor.set(Name::CUDNN_ATTR_TENSOR_DIMENSIONS, Type::CUDNN_TYPE_INT64, &sizes)?;
            let strides = strides.map(|stride| stride as i64);
            tensor.set(Name::CUDNN_ATTR_TENSOR_STRIDES, Type::CUDNN_TYPE_INT64, &strides)?;
            tensor.set(Name::CUDNN_ATTR_TENSOR_UNIQUE_ID, Type::CUDNN_TYPE_INT64, &[place])?;
            tensor.set(Name::CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, Type::CUDNN_TYPE_INT64, &[16i64])?;
            tensor.finish()
        };
        let input = tensor(INPUT, [batch, channels, height, width])?;
        let weight = tensor(WEIGHT, [filters, channels / groups, kernel, kernel])?;
        let output = tensor(OUTPUT, [batch, filters, out_height, out_width])?;
        let settings = settings(geometry)?;
        let (kind, names) = match direction {
            Direction::Forward => (
                Kind::CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR,
                [
                    Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA,
                    Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA,
                    Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC,
                    Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X,
                    Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W,
                    Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y,
                ],
            ),
            Direction::Data => (
                Kind::CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR,
                [
                    Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_ALPHA,
                    Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_BETA,
                    Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC,
                    Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX,
                    Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_W,
                    Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY,
                ],
            ),
            Direction::Filter => (
                Kind::CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR,
                [
                    Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_ALPHA,
                    Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_BETA,
                    Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_CONV_DESC,
                    Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_X,
                    Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DW,
                    Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DY,
                ],
            ),
        };
        let operation = Descriptor::new(kind)?;
        operation.set(names[0], Type::CUDNN_TYPE_FLOAT, &[1f32])?;
        operation.set(names[1], Type::CUDNN_TYPE_FLOAT, &[0f32])?;
        let parts = [&settings, &input, &weight, &output];
        for (name, part) in names[2..].iter().zip(parts) {
            operation.set(*name, Type::CUDNN_TYPE_BACKEND_DESCRIPTOR, &[part.0])?;
        }
        let operation = operation.finish()?;
        let graph = Descriptor::new(Kind::CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR)?;
        let (name, descriptors) =
            (Name::CUDNN_ATTR_OPERATIONGRAPH_OPS, Type::CUDNN_TYPE_BACKEND_DESCRIPTOR);
        graph.set(name, descriptors, &[operation.0])?;
        let name = Name::CUDNN_ATTR_OPERATIONGRAPH_HANDLE;
        graph.set(name, Type::CUDNN_TYPE_HANDLE, &[self.handle])?;
        graph.finish()
    }

    /// Engines for a graph, those first that cuDNN thinks fastest.
    fn configurations(
        &self,
        graph: &Descriptor,
        mode: sys::cudnnBackendHeurMode_t,
    ) -> anyhow::Result<Vec<Descriptor>> {
        let heuristics = Descriptor::new(Kind::CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR)?;
        let name = Name::CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH;
        heuristics.set(name, Type::CUDNN_TYPE_BACKEND_DESCRIPTOR, &[graph.0])?;
        let name = Name::CUDNN_ATTR_ENGINEHEUR_MODE;
        heuristics.set(name, Type::CUDNN_TYPE_HEUR_MODE, &[mode])?;
        // It may know nothing for this graph.
        let Ok(heuristics) = heuristics.finish() else { return Ok(Vec::new()) };
        let empty = || Descriptor::new(Kind::CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
        let mut found: Vec<Descriptor> =
            std::iter::repeat_with(empty).take(ASKED).collect::<anyhow::Result<_>>()?;
        let mut pointers: Vec<_> = found.iter().map(|descriptor| descriptor.0).collect();
        let (name, descriptors) =
            (Name::CUDNN_ATTR_ENGINEHEUR_RESULTS, Type::CUDNN_TYPE_BACKEND_DESCRIPTOR);
        let count = heuristics.get(name, descriptors, &mut pointers)?;
        found.truncate(count);
        Ok(found)
    }

    /// An engine made ready.
    fn plan(&self, convolution: Convolution, configuration: Descriptor) -> anyhow::Result<Engine> {
        let plan = Descriptor::new(Kind::CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR)?;
        let name = Name::CUDNN_ATTR_EXECUTION_PLAN_HANDLE;
        plan.set(name, Type::CUDNN_TYPE_HANDLE, &[self.handle])?;
        let name = Name::CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG;
        plan.set(name, Type::CUDNN_TYPE_BACKEND_DESCRIPTOR, &[configuration.0])?;
        let plan = plan.finish()?;
        let mut workspace = [0i64];
        let name = Name::CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE;
        plan.get(name, Type::CUDNN_TYPE_INT64, &mut workspace)?;
        let workspace = usize::try_from(workspace[0]).unwrap_or(usize::MAX);
        if workspace > WORKSPACE {
            bail!("it wants to work in {workspace} bytes");
        }
        let Convolution { geometry, precision, batch, .. } = convolution;
        let Geometry { channels, height, width, filters, kernel, groups, .. } = geometry;
        let (out_height, out_width) = geometry.output();
        let numbers = [
            batch * channels * height * width,
            filters * channels / groups * kernel * kernel,
            batch * filters * out_height * out_width,
        ];
        let [input, weight, output] = numbers.map(|numbers| numbers * size(precision));
        Ok(Engine { plan, bytes: [input, weight, output, workspace] })
    }

    /// Milliseconds that an engine takes.
    fn time(&self, queue: &Queue, engine: &Engine, operands: Operands) -> anyhow::Result<f32> {
        self.run(engine, operands)?;
        queue.wait()?;
        let timed = Some(cudarc::driver::sys::CUevent_flags::CU_EVENT_DEFAULT);
        let start = queue.stream.record_event(timed)?;
        for _ in 0..RUNS {
            self.run(engine, operands)?;
        }
        let end = queue.stream.record_event(timed)?;
        Ok(start.elapsed_ms(&end)?)
    }

    /// Gives a convolution to the queue.
    pub(super) fn run(&self, engine: &Engine, operands: Operands) -> anyhow::Result<()> {
        self.context.bind_to_thread()?;
        let Operands { input, weight, output, workspace } = operands;
        let places = [input, weight, output, workspace];
        for (place, bytes) in places.iter().zip(engine.bytes) {
            assert!(place.bytes >= bytes, "a place of {bytes} bytes, found {}", place.bytes);
        }
        let [input, weight, output, workspace] = places.map(|place| place.pointer as *mut c_void);
        let pack = Descriptor::new(Kind::CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR)?;
        let pointers = Type::CUDNN_TYPE_VOID_PTR;
        let name = Name::CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS;
        pack.set(name, pointers, &[input, weight, output])?;
        let name = Name::CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS;
        pack.set(name, Type::CUDNN_TYPE_INT64, &[INPUT, WEIGHT, OUTPUT])?;
        pack.set(Name::CUDNN_ATTR_VARIANT_PACK_WORKSPACE, pointers, &[workspace])?;
        let pack = pack.finish()?;
        // SAFETY: the plan was made with this handle, and the places are as large as it says.
        unsafe { sys::cudnnBackendExecute(self.handle, engine.plan.0, pack.0) }.result()?;
        Ok(())
    }
}

/// Numbers by which a graph tells its tensors apart.
const INPUT: i64 = 1;
const WEIGHT: i64 = 2;
const OUTPUT: i64 = 3;

/// Stride, padding and how sums are kept: in f32, whatever is summed.
fn settings(geometry: Geometry) -> anyhow::Result<Descriptor> {
    let settings = Descriptor::new(Kind::CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR)?;
    let (padding, stride) = (geometry.padding as i64, geometry.stride as i64);
    let float = sys::cudnnDataType_t::CUDNN_DATA_FLOAT;
    let (name, kind) = (Name::CUDNN_ATTR_CONVOLUTION_COMP_TYPE, Type::CUDNN_TYPE_DATA_TYPE);
    settings.set(name, kind, &[float])?;
    let (name, kind) = (Name::CUDNN_ATTR_CONVOLUTION_CONV_MODE, Type::CUDNN_TYPE_CONVOLUTION_MODE);
    settings.set(name, kind, &[sys::cudnnConvolutionMode_t::CUDNN_CROSS_CORRELATION])?;
    for (name, sizes) in [
        (Name::CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, &[2][..]),
        (Name::CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, &[padding; 2]),
        (Name::CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, &[padding; 2]),
        (Name::CUDNN_ATTR_CONVOLUTION_DILATIONS, &[1; 2]),
        (Name::CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, &[stride; 2]),
    ] {
        settings.set(name, Type::CUDNN_TYPE_INT64, sizes)?;
    }
    settings.finish()
}

/// Whether an engine computes in the precision that is asked for, and is there already: in f32 none that
/// rounds factors, and none that has to be compiled first, which takes seconds.
fn is_allowed(configuration: &Descriptor, precision: Precision) -> anyhow::Result<bool> {
    let descriptors = Type::CUDNN_TYPE_BACKEND_DESCRIPTOR;
    let engine = Descriptor::new(Kind::CUDNN_BACKEND_ENGINE_DESCRIPTOR)?;
    let mut found = [engine.0];
    configuration.get(Name::CUDNN_ATTR_ENGINECFG_ENGINE, descriptors, &mut found)?;
    // Notes are read as numbers: other versions of cuDNN have more of them.
    let mut notes = [u32::MAX; 32];
    let name = Name::CUDNN_ATTR_ENGINE_NUMERICAL_NOTE;
    let count = engine.get(name, Type::CUDNN_TYPE_NUMERICAL_NOTE, &mut notes)?;
    let rounds = [
        Note::CUDNN_NUMERICAL_NOTE_TENSOR_CORE,
        Note::CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS,
        Note::CUDNN_NUMERICAL_NOTE_REDUCED_PRECISION_REDUCTION,
    ]
    .map(|note| note as u32);
    if precision == Precision::F32 && notes[..count].iter().any(|note| rounds.contains(note)) {
        return Ok(false);
    }
    let name = Name::CUDNN_ATTR_ENGINE_BEHAVIOR_NOTE;
    let count = engine.get(name, Type::CUDNN_TYPE_BEHAVIOR_NOTE, &mut notes)?;
    let compiles = sys::cudnnBackendBehaviorNote_t::CUDNN_BEHAVIOR_NOTE_RUNTIME_COMPILATION as u32;
    Ok(!notes[..count].contains(&compiles))
}

/// A thing of cuDNN's graph interface.
#[derive(Debug)]
struct Descriptor(sys::cudnnBackendDescriptor_t);

impl Descriptor {
    fn new(kind: Kind) -> anyhow::Result<Self> {
        let mut descriptor = std::ptr::null_mut();
        // SAFETY: cuDNN writes a pointer, or gives an error.
        unsafe { sys::cudnnBackendCreateDescriptor(kind, &raw mut descriptor) }.result()?;
        Ok(Descriptor(descriptor))
    }

    /// Sets an attribute; `T` is what the type stands for.
    fn set<T>(&self, name: Name, kind: Type, values: &[T]) -> anyhow::Result<()> {
        let (count, values) = (values.len() as i64, values.as_ptr().cast());
        // SAFETY: cuDNN copies so many values of the type.
        let set = unsafe { sys::cudnnBackendSetAttribute(self.0, name, kind, count, values) };
        set.result().with_context(|| format!("{name:?}"))
    }

    /// Reads an attribute into values, and returns of how many there are: no more than there is room for.
    fn get<T>(&self, name: Name, kind: Type, values: &mut [T]) -> anyhow::Result<usize> {
        let (room, mut count) = (values.len() as i64, 0);
        let to = values.as_mut_ptr().cast();
        // SAFETY: cuDNN writes at most so many values of the type, all of which are numbers or pointers.
        let got =
            unsafe { sys::cudnnBackendGetAttribute(self.0, name, kind, room, &raw mut count, to) };
        got.result().with_context(|| format!("{name:?}"))?;
        Ok(usize::try_from(count.min(room)).unwrap_or(0))
    }

    /// Makes it ready to be used.
    fn finish(self) -> anyhow::Result<Self> {
        // SAFETY: it was made, and isn't finished.
        unsafe { sys::cudnnBackendFinalize(self.0) }.result()?;
        Ok(self)
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        // SAFETY: `new` made it, and nobody else has it.
        let _ = unsafe { sys::cudnnBackendDestroyDescriptor(self.0) };
    }
}
