//! Weights in the form that the kernels read, and gradients back from it.

use rayon::prelude::*;

use super::correlation::Geometry;
use super::kernels::Isa;
use super::product::PackedShape;

/// Where a parameter stands in the flat buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Parameter {
    pub(super) start: usize,
    pub(super) length: usize,
}

impl Parameter {
    pub(super) fn of<'a>(&self, flat: &'a [f32]) -> &'a [f32] {
        &flat[self.start..self.start + self.length]
    }

    pub(super) fn of_mut<'a>(&self, flat: &'a mut [f32]) -> &'a mut [f32] {
        &mut flat[self.start..self.start + self.length]
    }
}

/// Packs a weight `[filter][channel of group][row][column]` for the convolution: a window's numbers
/// come as `[row][column][channel]`, and outputs are filters.
pub(super) fn pack_forward(
    isa: Isa,
    geometry: &Geometry,
    shape: &PackedShape,
    weight: &[f32],
    packed: &mut [f32],
) {
    let (read, taps) = (geometry.read(), geometry.kernel * geometry.kernel);
    packed.par_chunks_exact_mut(shape.block_size()).enumerate().for_each(|(index, packed)| {
        let block = shape.block(index);
        let row = block.vectors * shape.lanes;
        isa.run(|| {
            let first = block.group * shape.made + block.column;
            for lane in 0..row {
                if lane >= block.width {
                    packed.iter_mut().skip(lane).step_by(row).for_each(|place| *place = 0.0);
                    continue;
                }
                let filter = &weight[(first + lane) * read * taps..][..read * taps];
                for (channel, kernel) in filter.chunks_exact(taps).enumerate() {
                    for (tap, value) in kernel.iter().enumerate() {
                        packed[(tap * read + channel) * row + lane] = *value;
                    }
                }
            }
        });
    });
}

/// Packs a weight for the input gradient: kernels are flipped, a window's numbers come as
/// `[row][column][filter]`, and outputs are channels.
pub(super) fn pack_backward(
    isa: Isa,
    geometry: &Geometry,
    shape: &PackedShape,
    weight: &[f32],
    packed: &mut [f32],
) {
    let (read, made) = (geometry.read(), geometry.made());
    let taps = geometry.kernel * geometry.kernel;
    packed.par_chunks_exact_mut(shape.block_size()).enumerate().for_each(|(index, packed)| {
        let block = shape.block(index);
        let row = block.vectors * shape.lanes;
        isa.run(|| {
            for filter in 0..made {
                let kernels = &weight[(block.group * made + filter) * read * taps..][..read * taps];
                let kernels = &kernels[block.column * taps..][..block.width * taps];
                for tap in 0..taps {
                    let to = &mut packed[((taps - 1 - tap) * made + filter) * row..][..row];
                    let (used, room) = to.split_at_mut(block.width);
                    for (to, kernel) in used.iter_mut().zip(kernels.chunks_exact(taps)) {
                        *to = kernel[tap];
                    }
                    room.fill(0.0);
                }
            }
        });
    });
}

/// Unpacks a weight's gradient, packed as by [`pack_forward`].
pub(super) fn unpack_forward(
    isa: Isa,
    geometry: &Geometry,
    shape: &PackedShape,
    sums: &[f32],
    gradient: &mut [f32],
) {
    let (read, taps) = (geometry.read(), geometry.kernel * geometry.kernel);
    let filter_size = read * taps;
    let blocks = shape.count() / shape.groups;
    gradient.par_chunks_mut(shape.made * filter_size).enumerate().for_each(|(group, gradient)| {
        let mut rest = gradient;
        for index in group * blocks..(group + 1) * blocks {
            let block = shape.block(index);
            let row = block.vectors * shape.lanes;
            let (filters, others) =
                std::mem::take(&mut rest).split_at_mut(block.width * filter_size);
            rest = others;
            filters.par_chunks_mut(filter_size).enumerate().for_each(|(lane, filter)| {
                let sums = &sums[index * shape.block_size()..];
                isa.run(|| {
                    for (channel, kernel) in filter.chunks_exact_mut(taps).enumerate() {
                        for (tap, value) in kernel.iter_mut().enumerate() {
                            *value = sums[(tap * read + channel) * row + lane];
                        }
                    }
                });
            });
        }
    });
}

/// Unpacks a weight's gradient, packed as by [`pack_backward`].
pub(super) fn unpack_backward(
    isa: Isa,
    geometry: &Geometry,
    shape: &PackedShape,
    sums: &[f32],
    gradient: &mut [f32],
) {
    let (read, made) = (geometry.read(), geometry.made());
    let taps = geometry.kernel * geometry.kernel;
    let blocks = shape.count() / shape.groups;
    gradient.par_chunks_exact_mut(read * taps).enumerate().for_each(|(filter, gradient)| {
        let (group, filter) = (filter / made, filter % made);
        isa.run(|| {
            for index in group * blocks..(group + 1) * blocks {
                let block = shape.block(index);
                let row = block.vectors * shape.lanes;
                let sums = &sums[index * shape.block_size()..];
                let kernels = &mut gradient[block.column * taps..][..block.width * taps];
                for (lane, kernel) in kernels.chunks_exact_mut(taps).enumerate() {
                    for (tap, value) in kernel.iter_mut().enumerate() {
                        *value = sums[((taps - 1 - tap) * made + filter) * row + lane];
                    }
                }
            }
        });
    });
}
