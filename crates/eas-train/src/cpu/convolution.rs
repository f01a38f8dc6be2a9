//! Convolutions and linear layers, forward and backward.

use std::fmt::Debug;

use rayon::prelude::*;

use super::batch_norm::{block_moments, partial_size};
use super::correlation::{Correlation, Geometry};
use super::kernels::Isa;
use super::matrix::Matrix;
use super::memory::{Memory, Needs, Scratch, Setting, aligned};
use super::paired::Paired;
use super::plan::Input;
use super::values::{Reader, Source, View};
use super::weights::Parameter;
use super::winograd::by_tiles;
use crate::recipe::Precision;

/// Parts that the gradient of a weight is summed in, at most: as many threads can work on it.
const PARTS: usize = 8;

/// Numbers of a gradient whose parts are added up together: so many stay in the nearest cache.
const ADDED_TOGETHER: usize = 4096;

/// Numbers of a vector of AVX-512.
const AVX512_LANES: usize = 16;

/// How a convolution, or the gradient of its input, is computed for a block of images.
pub(super) trait Method: Debug + Send + Sync {
    /// Images of a full block.
    fn block(&self) -> usize;

    /// Numbers of the scratch buffer of a thread.
    fn scratch(&self) -> usize;

    /// The packed weights.
    fn pieces(&self) -> Pieces;

    /// Output pixels that a part of the weight's gradient has at least.
    fn part_pixels(&self) -> usize;

    /// Packs a weight `[filter][channel of group][row][column]`.
    fn pack(&self, isa: Isa, weight: &[f32], packed: &mut [f32]);

    /// Convolves images: writes all channels `[pixel][stride]` of the output, or adds to them.
    fn run(
        &self,
        isa: Isa,
        scratch: &Scratch,
        images: &Reader<'_>,
        packed: &[f32],
        out: (&mut [f32], usize),
        accumulate: bool,
    );

    /// Sums the gradient of some pieces of the packed weight, from windows of images and the pixels of
    /// the other side: the slopes of their outputs or, where the images are these slopes, the values
    /// that were convolved.
    fn run_transposed(
        &self,
        isa: Isa,
        scratch: &Scratch,
        images: &Reader<'_>,
        pixels: &Reader<'_>,
        sums: Sums<'_>,
    );

    /// Brings the gradient of the packed weight into the form of the weight.
    fn unpack(&self, isa: Isa, sums: &[f32], gradient: &mut [f32]);
}

/// Pieces of a packed weight whose gradients can be computed each alone.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pieces {
    pub(super) count: usize,
    /// Numbers of one.
    pub(super) size: usize,
}

impl Pieces {
    /// Numbers of all.
    pub(super) fn total(self) -> usize {
        self.count * self.size
    }
}

/// Where the gradient of some pieces is summed.
#[derive(Debug)]
pub(super) struct Sums<'a> {
    /// The first piece.
    pub(super) first: usize,
    pub(super) values: &'a mut [f32],
    /// Whether it is added to what stands there; else that isn't read. Places that hold no number of the weight
    /// are left as they are, either way.
    pub(super) accumulate: bool,
}

/// How a convolution is computed.
#[derive(Debug)]
struct Methods {
    forward: Box<dyn Method>,
    /// The gradient of the input.
    backward: Box<dyn Method>,
    /// Whether the weight's gradient is taken of the slopes' windows, by `backward`.
    of_slopes: bool,
}

impl Methods {
    fn new([forward, backward]: [Box<dyn Method>; 2], of_slopes: bool) -> Self {
        Methods { forward, backward, of_slopes }
    }

    /// That by which the weight's gradient is computed.
    fn weight(&self) -> &dyn Method {
        if self.of_slopes { self.backward.as_ref() } else { self.forward.as_ref() }
    }
}

/// A convolution; a linear layer is one of kernel 1 on one pixel.
#[derive(Debug)]
pub(super) struct Convolution {
    geometry: Geometry,
    single: Methods,
    /// The same in bf16, where processors that have it are faster so.
    in_bf16: Option<Methods>,
    weight: Parameter,
    bias: Option<Parameter>,
}

/// The blocks of images of a batch.
fn image_blocks(batch: usize, block: usize) -> usize {
    batch.div_ceil(block)
}

impl Convolution {
    pub(super) fn new(
        geometry: Geometry,
        weight: Parameter,
        bias: Option<Parameter>,
        isa: Isa,
    ) -> Self {
        let tiles = by_tiles(&geometry, isa);
        let in_bf16 = if isa.has_matrix_units() {
            // Beside these, a processor's other instructions for bf16 are no faster than those for f32.
            Matrix::both(&geometry).map(|both| Methods::new(both, false))
        } else if tiles.is_some() {
            // They are faster in f32, and would lose too much by bf16.
            None
        } else {
            // Whatever its vectors, a processor computes what those with AVX-512 do.
            Paired::both(&geometry, isa)
                .map(|both| Methods::new(both, geometry.is_narrow(AVX512_LANES)))
        };
        let single = match tiles {
            Some(both) => Methods::new(both, false),
            None => {
                let is_narrow = geometry.is_narrow(isa.lanes(geometry.made()));
                Methods::new(Correlation::both(&geometry, isa), is_narrow)
            }
        };
        Convolution { geometry, single, in_bf16, weight, bias }
    }

    /// The convolution and the gradient of its input in a precision.
    fn methods(&self, precision: Precision) -> &Methods {
        match precision {
            Precision::F32 => &self.single,
            Precision::Bf16 => self.in_bf16.as_ref().unwrap_or(&self.single),
        }
    }

    /// Images of a block.
    pub(super) fn block(&self, precision: Precision) -> usize {
        self.methods(precision).forward.block()
    }

    pub(super) fn needs(&self, Setting { precision, batch, .. }: Setting) -> Needs {
        let methods = self.methods(precision);
        let Methods { forward, backward, .. } = methods;
        let blocks = image_blocks(batch, forward.block());
        let moments = blocks * partial_size(self.geometry.filters);
        let weight = methods.weight();
        Needs {
            packed: forward.pieces().total().max(backward.pieces().total()),
            partials: moments.max(self.parts(weight, batch) * weight.pieces().total()),
            scratch: forward.scratch().max(backward.scratch()),
        }
    }

    /// Computes the output; with `moments`, also those of each block of it, into the partial sums.
    pub(super) fn run(
        &self,
        Setting { isa, precision, batch }: Setting,
        parameters: &[f32],
        memory: &mut Memory,
        source: &Source,
        output: &View,
        moments: bool,
    ) {
        let forward = &self.methods(precision).forward;
        let mut buffer = std::mem::take(&mut memory.packed);
        let packed = &mut aligned(&mut buffer)[..forward.pieces().total()];
        forward.pack(isa, self.weight.of(parameters), packed);
        let packed = &*packed;
        let bias = self.bias.map(|bias| bias.of(parameters));
        let mut out = std::mem::take(&mut memory.values[output.buffer]);
        let mut partials = std::mem::take(&mut memory.partials);
        let Memory { values, norms, scratch, .. } = &*memory;
        let size = partial_size(self.geometry.filters);
        out[..batch * output.image()]
            .par_chunks_mut(forward.block() * output.image())
            .zip(partials.par_chunks_mut(size))
            .enumerate()
            .for_each(|(index, (out, partial))| {
                let first = index * forward.block();
                let images = out.len() / output.image();
                let reader = source.reader(values, norms, first..first + images);
                if let Some(bias) = bias {
                    output.pixels_mut(out).for_each(|pixel| pixel.copy_from_slice(bias));
                }
                let to = (&mut out[output.offset..], output.stride);
                forward.run(isa, scratch, &reader, packed, to, bias.is_some());
                if moments {
                    block_moments(isa, output, out, partial);
                }
            });
        memory.values[output.buffer] = out;
        memory.partials = partials;
        memory.packed = buffer;
    }

    /// Computes the gradient of the input, if somebody wants it, and of the parameters.
    pub(super) fn run_backward(
        &self,
        setting: Setting,
        parameters: &[f32],
        memory: &mut Memory,
        input: &Input,
        slope: &View,
        gradient: &mut [f32],
    ) {
        let Setting { isa, precision, batch } = setting;
        self.weight_gradient(setting, memory, &input.source, slope, gradient);
        if let Some(bias) = self.bias {
            isa.run(
                #[inline(always)]
                || bias_gradient(batch, memory, slope, bias.of_mut(gradient)),
            );
        }
        if let Some(sink) = input.sink {
            let backward = &self.methods(precision).backward;
            let mut buffer = std::mem::take(&mut memory.packed);
            let packed = &mut aligned(&mut buffer)[..backward.pieces().total()];
            backward.pack(isa, self.weight.of(parameters), packed);
            let packed = &*packed;
            let mut out = std::mem::take(&mut memory.slots[sink.view.buffer]);
            let Memory { slots, norms, scratch, .. } = &*memory;
            let source = Source::plain(*slope);
            out[..batch * sink.view.image()]
                .par_chunks_mut(backward.block() * sink.view.image())
                .enumerate()
                .for_each(|(index, out)| {
                    let first = index * backward.block();
                    let images = out.len() / sink.view.image();
                    let reader = source.reader(slots, norms, first..first + images);
                    let to = (&mut out[sink.view.offset..], sink.view.stride);
                    backward.run(isa, scratch, &reader, packed, to, sink.accumulate);
                });
            memory.slots[sink.view.buffer] = out;
            memory.packed = buffer;
        }
    }

    /// Parts that the weight's gradient is summed in: a function of shapes alone.
    fn parts(&self, method: &dyn Method, batch: usize) -> usize {
        let blocks = image_blocks(batch, method.block());
        let pixels = batch * self.geometry.out_height() * self.geometry.out_width();
        (pixels / method.part_pixels()).clamp(1, PARTS).min(blocks)
    }

    fn weight_gradient(
        &self,
        Setting { isa, precision, batch }: Setting,
        memory: &mut Memory,
        source: &Source,
        slope: &View,
        gradient: &mut [f32],
    ) {
        let methods = self.methods(precision);
        let method = methods.weight();
        let pieces = method.pieces();
        let parts = self.parts(method, batch);
        let blocks = image_blocks(batch, method.block());
        // Where there are few parts, the pieces of the weight are shared out too.
        let together = pieces.count.div_ceil(PARTS / parts);
        let mut partials = std::mem::take(&mut memory.partials);
        let Memory { values, slots, norms, scratch, .. } = &*memory;
        let sums = &mut partials[..parts * pieces.total()];
        sums.par_chunks_mut(pieces.total()).enumerate().for_each(|(part, sums)| {
            let (from, to) = (part * blocks / parts, (part + 1) * blocks / parts);
            sums.par_chunks_mut(together * pieces.size).enumerate().for_each(|(index, sums)| {
                for block in from..to {
                    let first = block * method.block();
                    let images = first..batch.min(first + method.block());
                    let slopes = Source::plain(*slope).reader(slots, norms, images.clone());
                    let images = source.reader(values, norms, images);
                    let [images, pixels] =
                        if methods.of_slopes { [slopes, images] } else { [images, slopes] };
                    let accumulate = block > from;
                    let sums = Sums { first: index * together, values: sums, accumulate };
                    method.run_transposed(isa, scratch, &images, &pixels, sums);
                }
            });
        });
        let sums = add_parts(isa, sums, pieces.total());
        method.unpack(isa, sums, self.weight.of_mut(gradient));
        memory.partials = partials;
    }
}

/// Adds parts of `size` numbers up, in their order, into the first.
fn add_parts(isa: Isa, parts: &mut [f32], size: usize) -> &[f32] {
    let (sums, others) = parts.split_at_mut(size);
    sums.par_chunks_mut(ADDED_TOGETHER).enumerate().for_each(|(index, sums)| {
        isa.run(
            #[inline(always)]
            || {
                for part in others.chunks_exact(size) {
                    let part = &part[index * ADDED_TOGETHER..];
                    sums.iter_mut().zip(part).for_each(|(sum, value)| *sum += value);
                }
            },
        );
    });
    sums
}

/// The sum of the slopes of each filter.
#[inline(always)]
fn bias_gradient(batch: usize, memory: &mut Memory, slope: &View, gradient: &mut [f32]) {
    let slopes = &memory.slots[slope.buffer][..batch * slope.image()];
    // One image at a time, so that sums stay short.
    gradient.fill(0.0);
    let sums = &mut memory.partials[..slope.channels];
    for image in slopes.chunks_exact(slope.image()) {
        sums.fill(0.0);
        for pixel in slope.pixels(image) {
            sums.iter_mut().zip(pixel).for_each(|(sum, slope)| *sum += slope);
        }
        gradient.iter_mut().zip(&*sums).for_each(|(total, sum)| *total += sum);
    }
}

#[cfg(test)]
mod tests {
    use eas_ir::Rng;

    use super::*;

    /// The gradient of a weight by a method, from windows of one side and the pixels of the other.
    fn weight_gradient(
        isa: Isa,
        method: &dyn Method,
        images: usize,
        [(windowed, windowed_values), (other, other_values)]: [(Source, &[f32]); 2],
        size: usize,
    ) -> Vec<f32> {
        let pieces = method.pieces();
        let mut scratch = Scratch::default();
        scratch.reserve(method.scratch());
        // What an earlier step left there.
        scratch.with(|scratch| scratch.fill(f32::NAN));
        let (windowed_values, other_values) = ([windowed_values.to_vec()], [other_values.to_vec()]);
        // In two parts, if there are as many blocks: each has every other one.
        let parts = 2.min(image_blocks(images, method.block()));
        let mut sums = vec![f32::NAN; parts * pieces.total()];
        for (index, first) in (0..images).step_by(method.block()).enumerate() {
            let block = first..images.min(first + method.block());
            let windowed = windowed.reader(&windowed_values, &[], block.clone());
            let other = other.reader(&other_values, &[], block);
            let part = &mut sums[index % parts * pieces.total()..][..pieces.total()];
            for (first, values) in part.chunks_mut(pieces.size).enumerate() {
                let sums = Sums { first, values, accumulate: index >= parts };
                method.run_transposed(isa, &scratch, &windowed, &other, sums);
            }
        }
        let mut gradient = vec![f32::NAN; size];
        method.unpack(isa, add_parts(isa, &mut sums, pieces.total()), &mut gradient);
        gradient
    }

    /// Views of a convolution's images and of its slopes, in buffers that may have more channels.
    fn views(geometry: &Geometry, rng: &mut Rng) -> [View; 2] {
        let offset = rng.below(3);
        let beside = offset + rng.below(2);
        let view = |channels, height, width| {
            let stride = channels + beside;
            View { buffer: 0, offset, channels, height, width, stride }
        };
        [
            view(geometry.channels, geometry.height, geometry.width),
            view(geometry.filters, geometry.out_height(), geometry.out_width()),
        ]
    }

    /// A convolution by a method, or the gradient of its input, written to a view of what stood `before` or added to it.
    fn convolved(
        isa: Isa,
        method: &dyn Method,
        (source, values): (Source, &[f32]),
        weight: &[f32],
        (view, before): (View, &[f32]),
        accumulate: bool,
    ) -> Vec<f32> {
        let mut packed = vec![f32::NAN; method.pieces().total()];
        method.pack(isa, weight, &mut packed);
        let mut scratch = Scratch::default();
        scratch.reserve(method.scratch());
        scratch.with(|scratch| scratch.fill(f32::NAN));
        let values = [values.to_vec()];
        let mut out = before.to_vec();
        for (index, out) in out.chunks_mut(method.block() * view.image()).enumerate() {
            let first = index * method.block();
            let images = source.reader(&values, &[], first..first + out.len() / view.image());
            let out = (&mut out[view.offset..], view.stride);
            method.run(isa, &scratch, &images, &packed, out, accumulate);
        }
        out
    }

    /// Tiles that an image hardly fills, and more of them and of its windows than are multiplied at once; channels that
    /// are no whole vectors, of buffers that have more.
    #[test]
    fn tiles_compute_what_direct_products_do() {
        for (isa, seed) in
            Isa::available().into_iter().flat_map(|isa| (0..30).map(move |seed| (isa, seed)))
        {
            let mut rng = Rng::new(seed);
            let kernel = [3, 5][rng.below(2)];
            let mut side = || [[3, 2][kernel / 5], 5, 8, 35][rng.below(4)];
            let (height, width) = (side(), side());
            let geometry = Geometry {
                channels: 8 + rng.below(40),
                height,
                width,
                filters: 8 + rng.below(40),
                kernel,
                stride: 1,
                padding: kernel / 2 + rng.below(kernel - kernel / 2),
                groups: 1,
            };
            let images = 1 + rng.below(3);
            let [of_image, of_slope] = views(&geometry, &mut rng);
            let size = geometry.filters * geometry.channels * kernel * kernel;
            let mut numbers =
                |count: usize| -> Vec<f32> { (0..count).map(|_| rng.normal() as f32).collect() };
            let values = numbers(images * of_image.image());
            let slopes = numbers(images * of_slope.image());
            let weight = numbers(size);
            let (image, slope) = (Source::plain(of_image), Source::plain(of_slope));
            let all = |[forward, backward]: [Box<dyn Method>; 2]| {
                let (image, slope) = ((image, &*values), (slope, &*slopes));
                let (to_slope, to_image) = ((of_slope, &*slopes), (of_image, &*values));
                let accumulate = seed % 2 == 0;
                [
                    convolved(isa, forward.as_ref(), image, &weight, to_slope, accumulate),
                    convolved(isa, backward.as_ref(), slope, &weight, to_image, accumulate),
                    weight_gradient(isa, forward.as_ref(), images, [image, slope], size),
                ]
            };
            let by_tiles = by_tiles(&geometry, isa).expect("tiles take fewer products");
            let expected = all(Correlation::both(&geometry, isa));
            for (pass, (found, expected)) in all(by_tiles).iter().zip(&expected).enumerate() {
                let largest = expected.iter().fold(1.0f32, |most, value| most.max(value.abs()));
                for (place, (found, expected)) in found.iter().zip(expected).enumerate() {
                    assert!(
                        (found - expected).abs() <= 3e-5 * largest,
                        "seed {seed}, {isa:?}, {geometry:?}: pass {pass}, place {place}: \
                         expected {expected}, found {found}"
                    );
                }
            }
        }
    }

    #[test]
    fn windows_of_slopes_give_the_weights_gradient_that_windows_of_images_give() {
        for (isa, seed) in
            Isa::available().into_iter().flat_map(|isa| (0..40).map(move |seed| (isa, seed)))
        {
            let mut rng = Rng::new(seed);
            let (groups, kernel) = (1 + rng.below(2), 2 + rng.below(4));
            // Groups of an odd number of channels don't come in pairs.
            let some = |count: usize| if groups == 1 { count } else { 2 * groups * (count / 2) };
            let geometry = Geometry {
                channels: some(32 + rng.below(40)),
                height: 5 + rng.below(9),
                width: 5 + rng.below(9),
                filters: some(2 + rng.below(14)),
                kernel,
                stride: 1,
                padding: kernel / 2 + rng.below(kernel - kernel / 2),
                groups,
            };
            assert!(geometry.is_narrow(AVX512_LANES), "seed {seed}: {geometry:?}");
            let images = 1 + rng.below(20);
            let [of_image, of_slope] = views(&geometry, &mut rng);
            let mut numbers =
                |count: usize| -> Vec<f32> { (0..count).map(|_| rng.normal() as f32).collect() };
            let values = numbers(images * of_image.image());
            let slopes = numbers(images * of_slope.image());
            let relu = seed % 2 == 0;
            let image = (Source { view: of_image, norm: None, relu }, &*values);
            let slope = (Source::plain(of_slope), &*slopes);
            let size = geometry.filters * geometry.read() * kernel * kernel;
            let in_pairs = Paired::both(&geometry, isa).expect("even channels come in pairs");
            for [forward, backward] in [Correlation::both(&geometry, isa), in_pairs] {
                let expected = weight_gradient(isa, forward.as_ref(), images, [image, slope], size);
                let found = weight_gradient(isa, backward.as_ref(), images, [slope, image], size);
                let largest = expected.iter().fold(1.0f32, |most, value| most.max(value.abs()));
                for (place, (found, expected)) in found.iter().zip(&expected).enumerate() {
                    assert!(
                        (found - expected).abs() <= 1e-5 * largest,
                        "seed {seed}, {isa:?}, {geometry:?}, {forward:?}: place {place}: \
                         expected {expected}, found {found}"
                    );
                }
            }
        }
    }
}
