//! Our own kernels, each with the places it works on.

#![expect(unsafe_code, reason = "a kernel's arguments are pointers")]

use cudarc::driver::{LaunchConfig, PushKernelArg};

use super::gpu::{Place, Queue};
use crate::recipe::Precision;

/// Threads of a block.
const THREADS: u32 = 256;

/// Blocks of a kernel that goes over values one by one, at most: enough to fill any GPU.
const BLOCKS: usize = 4096;

/// Threads of a block that sums.
const SUMMING: u32 = 512;

/// Blocks of a sum over pixels, at most: two for each multiprocessor of the largest GPUs. More would have
/// more parts to join.
const SUM_BLOCKS: usize = 264;

/// Groups of channels, a block wide each, at most.
pub(super) const TILES: usize = 1 << 15;

/// Values `[row][channel]`; an image is as many rows as it has pixels.
#[derive(Clone, Copy, Debug)]
pub(super) struct Matrix {
    pub(super) place: Place,
    pub(super) rows: usize,
    pub(super) channels: usize,
}

impl Matrix {
    fn numbers(&self) -> usize {
        self.rows * self.channels
    }
}

/// Where a batch norm finds, and leaves, its numbers: `[channels]` each, in f32.
#[derive(Clone, Copy, Debug)]
pub(super) struct NormPlaces {
    pub(super) gamma: Place,
    pub(super) beta: Place,
    pub(super) mean: Place,
    /// The inverse of the deviation.
    pub(super) inverse: Place,
    /// Two for each channel: the means of the slopes, and of their products with the values.
    pub(super) means: Place,
    /// Whether a ReLU follows.
    pub(super) relu: bool,
}

/// Where sums over pixels work.
#[derive(Clone, Copy, Debug)]
pub(super) struct SumPlaces {
    pub(super) partials: Place,
    pub(super) counters: Place,
}

/// Windows of a pool, as the kernels read them.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct Window {
    pub(super) count: u32,
    pub(super) channels: u32,
    pub(super) height: u32,
    pub(super) width: u32,
    pub(super) out_height: u32,
    pub(super) out_width: u32,
    pub(super) size_height: u32,
    pub(super) size_width: u32,
    pub(super) stride: u32,
    pub(super) padding: u32,
}

// SAFETY: plain numbers in C's layout, as `kernels.cu` has them.
unsafe impl cudarc::driver::DeviceRepr for Window {}

impl Window {
    fn inputs(&self) -> usize {
        [self.count, self.height, self.width, self.channels].iter().map(|n| *n as usize).product()
    }

    fn outputs(&self) -> usize {
        let sides = [self.count, self.out_height, self.out_width, self.channels];
        sides.iter().map(|side| *side as usize).product()
    }
}

/// Where a loss is taken, and what it needs.
#[derive(Clone, Copy, Debug)]
pub(super) struct LossPlaces {
    pub(super) placed: Place,
    pub(super) step: Place,
    pub(super) losses: Place,
    pub(super) hits: Place,
    pub(super) reports: Place,
    pub(super) diverged: Place,
    pub(super) counters: Place,
}

/// All parameters, in places of one layout.
#[derive(Clone, Copy, Debug)]
pub(super) struct UpdatePlaces {
    pub(super) values: Place,
    pub(super) momentum: Place,
    pub(super) halves: Place,
    pub(super) slopes: Place,
    pub(super) half_slopes: Place,
    /// In the host's order.
    pub(super) host: Place,
    pub(super) chunks: Place,
}

impl UpdatePlaces {
    /// A block for each chunk.
    fn config(&self) -> LaunchConfig {
        blocks(self.chunks.bytes / (4 * super::program::CHUNK))
    }
}

/// How the rows of a matrix are cut among threads: each has some channels, a vector, of some rows.
struct Cut {
    wide: usize,
    high: usize,
    tiles: usize,
    parts: usize,
}

impl Cut {
    fn new(precision: Precision, threads: u32, channels: usize, aligned: usize) -> Self {
        let vector = 1 << aligned.trailing_zeros().min(vector(precision).trailing_zeros());
        let groups = channels / vector;
        // A block takes at most 64 channels, so that some of its threads share each when parts are joined.
        let wide = groups.next_power_of_two().min(64 / vector);
        let tiles = groups.div_ceil(wide);
        assert!(tiles <= TILES, "a matrix of {channels} channels");
        Cut { wide, high: threads as usize / wide, tiles, parts: 1 }
    }

    /// For sums over the rows, in parts that are joined.
    fn of(precision: Precision, rows: usize, channels: usize) -> Self {
        let cut = Cut::new(precision, SUMMING, channels, channels);
        let most = (SUM_BLOCKS / cut.tiles).max(1);
        Cut { parts: rows.div_ceil(cut.high * 4).clamp(1, most), ..cut }
    }

    /// For each row alone; vectors fit into `aligned` numbers too.
    fn each(precision: Precision, rows: usize, channels: usize, aligned: usize) -> Self {
        let cut = Cut::new(precision, THREADS, channels, aligned);
        Cut { parts: rows.div_ceil(cut.high * 4).clamp(1, 65_535), ..cut }
    }

    fn config(&self) -> LaunchConfig {
        LaunchConfig {
            grid_dim: (self.tiles as u32, self.parts as u32, 1),
            block_dim: (self.wide as u32, self.high as u32, 1),
            shared_mem_bytes: 0,
        }
    }
}

/// Bytes of a number.
pub(super) fn size(precision: Precision) -> usize {
    match precision {
        Precision::F32 => 4,
        Precision::Bf16 => 2,
    }
}

/// Numbers of 16 bytes.
fn vector(precision: Precision) -> usize {
    16 / size(precision)
}

/// Bytes that the parts of a sum take.
pub(super) fn partial_bytes(precision: Precision, rows: usize, channels: usize) -> usize {
    Cut::of(precision, rows, channels).parts * channels * 8
}

/// Kernels on values of one precision, given to a queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kernels<'a> {
    pub(super) queue: &'a Queue,
    pub(super) precision: Precision,
}

macro_rules! launch {
    ($self:ident, $name:expr, $config:expr, $($argument:expr),+ $(,)?) => {{
        let mut launch = $self.queue.stream.launch_builder($self.queue.kernel($name));
        $(let argument = $argument; launch.arg(&argument);)+
        // SAFETY: the arguments are those that `kernels.cu` declares, in number, order and size. That places
        // have room for what a kernel reads and writes is checked where a pointer is taken of them; those of
        // all parameters, their chunks, reports and counters are made for each other by `Fixed`.
        unsafe { launch.launch($config) }?;
        Ok(())
    }};
}

impl Kernels<'_> {
    fn name(&self, name: &str) -> String {
        match self.precision {
            Precision::F32 => format!("{name}_f32"),
            Precision::Bf16 => format!("{name}_bf16"),
        }
    }

    /// A pointer to so many numbers of the precision.
    fn values(&self, place: Place, numbers: usize) -> u64 {
        bytes(place, numbers * size(self.precision))
    }

    fn matrix(&self, matrix: Matrix) -> u64 {
        self.values(matrix.place, matrix.numbers())
    }

    /// Threads for each row of a matrix.
    fn rows(&self, matrix: Matrix) -> LaunchConfig {
        let Matrix { rows, channels, .. } = matrix;
        Cut::each(self.precision, rows, channels, channels).config()
    }

    fn over(&self, numbers: usize) -> LaunchConfig {
        over(numbers.div_ceil(vector(self.precision)))
    }

    /// Images `[image][channel][row][column]` in f32 to values.
    pub(super) fn images_given(&self, from: Place, to: Matrix, count: usize) -> anyhow::Result<()> {
        let area = to.rows / count;
        launch!(
            self,
            &self.name("images_given"),
            over(to.numbers()),
            floats(from, to.numbers()),
            self.matrix(to),
            count as u32,
            to.channels as u32,
            area as u32,
        )
    }

    /// Images of a data set, augmented, normalised and mixed, to values.
    #[expect(clippy::too_many_arguments, reason = "the parts of a batch's description")]
    pub(super) fn images_drawn(
        &self,
        source: Place,
        placed: Place,
        scales: Place,
        shifts: Place,
        to: Matrix,
        count: usize,
        (height, width): (usize, usize),
    ) -> anyhow::Result<()> {
        let image = height * width * to.channels;
        assert!(source.bytes.is_multiple_of(image) && to.rows == count * height * width);
        launch!(
            self,
            &self.name("images_drawn"),
            over(to.numbers()),
            source.pointer,
            bytes(placed, count * super::program::PLACED * 4),
            floats(scales, to.channels),
            floats(shifts, to.channels),
            self.matrix(to),
            count as u32,
            to.channels as u32,
            height as u32,
            width as u32,
        )
    }

    /// Adds a bias to each row.
    pub(super) fn add_bias(&self, values: Matrix, bias: Place) -> anyhow::Result<()> {
        launch!(
            self,
            &self.name("add_bias"),
            self.rows(values),
            self.matrix(values),
            floats(bias, values.channels),
            values.rows as u32,
            values.channels as u32,
        )
    }

    /// The slope of a bias.
    pub(super) fn bias_slopes(
        &self,
        slopes: Matrix,
        bias: Place,
        sums: SumPlaces,
    ) -> anyhow::Result<()> {
        let cut = Cut::of(self.precision, slopes.rows, slopes.channels);
        launch!(
            self,
            &self.name("bias_slopes"),
            cut.config(),
            self.matrix(slopes),
            floats(bias, slopes.channels),
            partials(sums, &cut, slopes.channels),
            sums.counters.pointer,
            slopes.rows as u32,
            slopes.channels as u32,
        )
    }

    /// The batch's statistics, and what running ones follow.
    pub(super) fn norm_statistics(
        &self,
        values: Matrix,
        epsilon: f32,
        norm: NormPlaces,
        (found_mean, found_variance): (Place, Place),
        sums: SumPlaces,
    ) -> anyhow::Result<()> {
        let cut = Cut::of(self.precision, values.rows, values.channels);
        let channels = values.channels;
        launch!(
            self,
            &self.name("norm_statistics"),
            cut.config(),
            self.matrix(values),
            epsilon,
            floats(norm.mean, channels),
            floats(norm.inverse, channels),
            floats(found_mean, channels),
            floats(found_variance, channels),
            partials(sums, &cut, channels),
            sums.counters.pointer,
            values.rows as u32,
            channels as u32,
        )
    }

    /// The statistics to normalise by, from running ones.
    pub(super) fn norm_running(
        &self,
        (mean, variance): (Place, Place),
        epsilon: f32,
        norm: NormPlaces,
        channels: usize,
    ) -> anyhow::Result<()> {
        launch!(
            self,
            "norm_running",
            over(channels),
            floats(mean, channels),
            floats(variance, channels),
            epsilon,
            floats(norm.mean, channels),
            floats(norm.inverse, channels),
            channels as u32,
        )
    }

    /// Values normalised, and rectified where a ReLU follows.
    pub(super) fn norm_apply(
        &self,
        values: Matrix,
        norm: NormPlaces,
        to: Place,
    ) -> anyhow::Result<()> {
        let channels = values.channels;
        launch!(
            self,
            &self.name("norm_apply"),
            self.rows(values),
            self.matrix(values),
            floats(norm.mean, channels),
            floats(norm.inverse, channels),
            floats(norm.gamma, channels),
            floats(norm.beta, channels),
            u32::from(norm.relu),
            self.values(to, values.numbers()),
            values.rows as u32,
            channels as u32,
        )
    }

    /// The slopes of gamma and beta, and the means that the slope of the values needs.
    pub(super) fn norm_slopes(
        &self,
        values: Matrix,
        slopes: Place,
        norm: NormPlaces,
        (gamma_slope, beta_slope): (Place, Place),
        sums: SumPlaces,
    ) -> anyhow::Result<()> {
        let cut = Cut::of(self.precision, values.rows, values.channels);
        let channels = values.channels;
        launch!(
            self,
            &self.name("norm_slopes"),
            cut.config(),
            self.matrix(values),
            self.values(slopes, values.numbers()),
            floats(norm.mean, channels),
            floats(norm.inverse, channels),
            floats(norm.gamma, channels),
            floats(norm.beta, channels),
            u32::from(norm.relu),
            floats(gamma_slope, channels),
            floats(beta_slope, channels),
            floats(norm.means, 2 * channels),
            partials(sums, &cut, channels),
            sums.counters.pointer,
            values.rows as u32,
            channels as u32,
        )
    }

    /// The slope of the values before a batch norm.
    pub(super) fn norm_backward(
        &self,
        values: Matrix,
        slopes: Place,
        norm: NormPlaces,
        to: Place,
        accumulate: bool,
    ) -> anyhow::Result<()> {
        let channels = values.channels;
        launch!(
            self,
            &self.name("norm_backward"),
            self.rows(values),
            self.matrix(values),
            self.values(slopes, values.numbers()),
            floats(norm.mean, channels),
            floats(norm.inverse, channels),
            floats(norm.gamma, channels),
            floats(norm.beta, channels),
            u32::from(norm.relu),
            floats(norm.means, 2 * channels),
            self.values(to, values.numbers()),
            u32::from(accumulate),
            values.rows as u32,
            channels as u32,
        )
    }

    /// max(0, x)
    pub(super) fn relu(&self, values: Place, to: Place, numbers: usize) -> anyhow::Result<()> {
        launch!(
            self,
            &self.name("relu"),
            self.over(numbers),
            self.values(values, numbers),
            self.values(to, numbers),
            numbers as u32,
        )
    }

    /// The slope through it.
    pub(super) fn relu_backward(
        &self,
        values: Place,
        slopes: Place,
        to: Place,
        accumulate: bool,
        numbers: usize,
    ) -> anyhow::Result<()> {
        launch!(
            self,
            &self.name("relu_backward"),
            self.over(numbers),
            self.values(values, numbers),
            self.values(slopes, numbers),
            self.values(to, numbers),
            u32::from(accumulate),
            numbers as u32,
        )
    }

    /// Some channels of each row of one matrix, from an offset on, to those of another.
    pub(super) fn copy(
        &self,
        (from, from_offset): (Matrix, usize),
        (to, to_offset): (Matrix, usize),
        channels: usize,
        accumulate: bool,
    ) -> anyhow::Result<()> {
        assert!(from.rows == to.rows);
        assert!(from_offset + channels <= from.channels && to_offset + channels <= to.channels);
        let aligned = channels | from.channels | from_offset | to.channels | to_offset;
        let cut = Cut::each(self.precision, from.rows, channels, aligned);
        launch!(
            self,
            &self.name("copy"),
            cut.config(),
            self.matrix(from),
            from.channels as u32,
            from_offset as u32,
            self.matrix(to),
            to.channels as u32,
            to_offset as u32,
            u32::from(accumulate),
            from.rows as u32,
            channels as u32,
        )
    }

    /// Dropout of values, or of slopes.
    pub(super) fn dropout(
        &self,
        values: Matrix,
        to: Place,
        (step, key): (Place, Place),
        rate: f32,
        accumulate: bool,
    ) -> anyhow::Result<()> {
        launch!(
            self,
            &self.name("dropout"),
            over(values.numbers()),
            self.matrix(values),
            self.values(to, values.numbers()),
            bytes(step, super::program::STEP * 4),
            bytes(key, 8),
            1.0 / (1.0 - rate),
            (f64::from(rate) * 2f64.powi(32)) as u64,
            u32::from(accumulate),
            values.rows as u32,
            values.channels as u32,
        )
    }

    /// The largest value of each window, and where in it that stands.
    pub(super) fn max_pool(
        &self,
        values: Place,
        to: Place,
        winners: Place,
        pool: Window,
    ) -> anyhow::Result<()> {
        launch!(
            self,
            &self.name("max_pool"),
            self.over(pool.outputs()),
            self.values(values, pool.inputs()),
            self.values(to, pool.outputs()),
            bytes(winners, 2 * pool.outputs()),
            pool,
        )
    }

    /// The slope through it.
    pub(super) fn max_pool_backward(
        &self,
        winners: Place,
        slopes: Place,
        to: Place,
        accumulate: bool,
        pool: Window,
    ) -> anyhow::Result<()> {
        launch!(
            self,
            &self.name("max_pool_backward"),
            self.over(pool.inputs()),
            bytes(winners, 2 * pool.outputs()),
            self.values(slopes, pool.outputs()),
            self.values(to, pool.inputs()),
            u32::from(accumulate),
            pool,
        )
    }

    /// The mean of each window.
    pub(super) fn average_pool(
        &self,
        values: Place,
        to: Place,
        pool: Window,
    ) -> anyhow::Result<()> {
        launch!(
            self,
            &self.name("average_pool"),
            self.over(pool.outputs()),
            self.values(values, pool.inputs()),
            self.values(to, pool.outputs()),
            pool,
        )
    }

    /// The slope through it.
    pub(super) fn average_pool_backward(
        &self,
        slopes: Place,
        to: Place,
        accumulate: bool,
        pool: Window,
    ) -> anyhow::Result<()> {
        launch!(
            self,
            &self.name("average_pool_backward"),
            self.over(pool.inputs()),
            self.values(slopes, pool.outputs()),
            self.values(to, pool.inputs()),
            u32::from(accumulate),
            pool,
        )
    }

    /// `[image][first][second]` to `[image][second][first]`.
    pub(super) fn transposed(
        &self,
        from: Place,
        to: Place,
        accumulate: bool,
        [count, first, second]: [usize; 3],
    ) -> anyhow::Result<()> {
        let numbers = count * first * second;
        launch!(
            self,
            &self.name("transposed"),
            over(numbers),
            self.values(from, numbers),
            self.values(to, numbers),
            u32::from(accumulate),
            count as u32,
            first as u32,
            second as u32,
        )
    }

    /// The mean cross-entropy of logits, and its slope.
    pub(super) fn cross_entropy(
        &self,
        logits: Matrix,
        slopes: Place,
        loss: LossPlaces,
    ) -> anyhow::Result<()> {
        // A warp an image.
        let config = blocks(logits.rows.div_ceil(THREADS as usize / 32));
        launch!(
            self,
            &self.name("cross_entropy"),
            config,
            self.matrix(logits),
            bytes(loss.placed, logits.rows * super::program::PLACED * 4),
            bytes(loss.step, super::program::STEP * 4),
            self.values(slopes, logits.numbers()),
            bytes(loss.losses, 8 * logits.rows),
            bytes(loss.hits, 4 * logits.rows),
            loss.reports.pointer,
            bytes(loss.diverged, 4),
            bytes(loss.counters, 4),
            logits.rows as u32,
            logits.channels as u32,
        )
    }

    /// A step of all parameters.
    pub(super) fn update(
        &self,
        places: UpdatePlaces,
        step: Place,
        diverged: Place,
    ) -> anyhow::Result<()> {
        launch!(
            self,
            "update",
            places.config(),
            places.values.pointer,
            places.momentum.pointer,
            places.halves.pointer,
            places.slopes.pointer,
            places.half_slopes.pointer,
            places.chunks.pointer,
            bytes(step, super::program::STEP * 4),
            bytes(diverged, 4),
            u32::from(self.precision == Precision::Bf16),
        )
    }

    /// Numbers of all parameters from the host's order, in which they were uploaded, to ours.
    pub(super) fn place_parameters(&self, places: UpdatePlaces, to: Place) -> anyhow::Result<()> {
        assert!(to.bytes == places.values.bytes);
        let (config, chunks) = (places.config(), places.chunks.pointer);
        launch!(self, "from_host", config, places.host.pointer, to.pointer, chunks)
    }

    /// Numbers of all parameters to the host's order; with `halves`, those of weights from there.
    pub(super) fn collect_parameters(
        &self,
        places: UpdatePlaces,
        from: Place,
        halves: bool,
    ) -> anyhow::Result<()> {
        assert!(from.bytes == places.values.bytes);
        launch!(
            self,
            "to_host",
            places.config(),
            from.pointer,
            places.half_slopes.pointer,
            places.host.pointer,
            places.chunks.pointer,
            u32::from(halves),
        )
    }

    /// All parameters, rounded.
    pub(super) fn round_all(&self, places: UpdatePlaces) -> anyhow::Result<()> {
        let numbers = places.values.bytes / 4;
        launch!(
            self,
            "round_all",
            over(numbers),
            floats(places.values, numbers),
            bytes(places.halves, 2 * numbers),
            numbers as u32,
        )
    }
}

/// Threads for so many places, each of one thread or more.
fn over(places: usize) -> LaunchConfig {
    blocks(places.div_ceil(THREADS as usize).clamp(1, BLOCKS))
}

/// So many blocks.
fn blocks(count: usize) -> LaunchConfig {
    LaunchConfig { grid_dim: (count as u32, 1, 1), block_dim: (THREADS, 1, 1), shared_mem_bytes: 0 }
}

/// A pointer to so many bytes.
fn bytes(place: Place, bytes: usize) -> u64 {
    assert!(place.bytes >= bytes, "a place of {bytes} bytes, found {}", place.bytes);
    place.pointer
}

/// A pointer to so many numbers of f32.
fn floats(place: Place, numbers: usize) -> u64 {
    bytes(place, 4 * numbers)
}

/// A pointer to the parts of a sum.
fn partials(sums: SumPlaces, cut: &Cut, channels: usize) -> u64 {
    assert!(sums.counters.bytes >= 4 * cut.tiles);
    bytes(sums.partials, cut.parts * channels * 8)
}
