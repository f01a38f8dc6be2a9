//! Images on their way into a program.

use ndarray::ArrayView4;
use rayon::prelude::*;

use super::memory::{Memory, Setting};
use super::values::View;
use crate::data::{Drawn, Layout};

/// The images of a pass.
#[derive(Clone, Copy)]
pub(super) enum Given<'a> {
    /// `[image][channel][row][column]`.
    Made(ArrayView4<'a, f32>),
    /// Those of a batch that isn't made: they go from the bytes of their source to where the program wants
    /// them.
    Drawn(&'a Drawn<'a>),
}

impl Given<'_> {
    /// How many there are, and their channels, height and width.
    pub(super) fn size(&self) -> (usize, (usize, usize, usize)) {
        match self {
            Given::Made(images) => {
                let (count, channels, height, width) = images.dim();
                (count, (channels, height, width))
            }
            Given::Drawn(drawn) => (drawn.count(), drawn.source().size()),
        }
    }
}

/// Writes images as `[image][row][column][channel]`.
pub(super) fn take_images(
    Setting { isa, batch, .. }: Setting,
    memory: &mut Memory,
    images: Given<'_>,
    output: &View,
) {
    let out = &mut memory.values[output.buffer][..batch * output.image()];
    let out = out.par_chunks_mut(output.image());
    match images {
        Given::Made(images) => {
            let images = images.as_standard_layout();
            let images = images.as_slice().expect("the layout is standard");
            out.zip(images.par_chunks(output.image())).for_each(|(out, image)| {
                let mut planes = image.chunks_exact(output.area());
                // The usual channels are written pixel by pixel.
                if let (3, Some(red), Some(green), Some(blue)) =
                    (output.stride, planes.next(), planes.next(), planes.next())
                {
                    let pixels = out.as_chunks_mut::<3>().0.iter_mut();
                    for (((pixel, red), green), blue) in pixels.zip(red).zip(green).zip(blue) {
                        *pixel = [*red, *green, *blue];
                    }
                    return;
                }
                for (channel, plane) in image.chunks_exact(output.area()).enumerate() {
                    for (pixel, value) in out.chunks_exact_mut(output.stride).zip(plane) {
                        pixel[channel] = *value;
                    }
                }
            });
        }
        Given::Drawn(drawn) => out.enumerate().for_each(|(image, out)| {
            isa.run(
                #[inline(always)]
                || drawn.write(image, out, Layout::Pixels),
            );
        }),
    }
}
