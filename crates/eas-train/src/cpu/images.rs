//! Images on their way into a program.

use ndarray::ArrayView4;
use rayon::prelude::*;

use super::kernels::Isa;
use super::kernels::pixels::{Pixels, Scales, prefetch};
use super::memory::{Memory, Setting};
use super::values::View;
use crate::data::{Drawn, place};

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
        Given::Drawn(drawn) => {
            out.enumerate().for_each(|(image, out)| {
                // Images of a batch lie anywhere among those of the source.
                if image + 1 < drawn.count() {
                    prefetch(drawn.bytes(image + 1));
                }
                isa.run(
                    #[inline(always)]
                    || take_drawn(isa, drawn, image, out),
                );
            });
            drawn.mix(&mut memory.values[output.buffer][..batch * output.image()]);
        }
    }
}

/// Writes an image of a batch, placed and normalised, as `[row][column][channel]`.
#[inline(always)]
fn take_drawn(isa: Isa, drawn: &Drawn<'_>, image: usize, out: &mut [f32]) {
    let (channels, height, width) = drawn.source().size();
    let placement = drawn.placement(image);
    let (bytes, size, area) = (drawn.bytes(image), (height, width), height * width);
    match drawn.scales() {
        // One channel's pixels stand as they do in its plane.
        scales @ [_] => place(bytes, size, placement, scales, out),
        &[red, green, blue] => {
            let scales = Scales::new([red, green, blue]);
            let plane = |channel| &bytes[channel * area..][..area];
            let (rows, columns) = (placement.rows(height), placement.columns(width));
            let (above, rest) = out.split_at_mut(3 * width * rows.start);
            let (shown, below) = rest.split_at_mut(3 * width * rows.len());
            above.fill(0.0);
            below.fill(0.0);
            isa.pixels(Pixels {
                planes: [plane(0), plane(1), plane(2)],
                width,
                start: placement.start(rows.start, &columns, width),
                columns,
                reversed: placement.mirror,
                scales: &scales,
                to: shown,
            });
            placement.clear_cutout(size, out);
        }
        // Other numbers of channels are rare, and written plainly.
        scales => placement.for_rows(
            size,
            out,
            #[inline(always)]
            |start, to| {
                let count = to.len() / channels;
                for (channel, (factor, shift)) in scales.iter().enumerate() {
                    let plane = &bytes[channel * area + start..][..count];
                    for (column, pixel) in to.chunks_exact_mut(channels).enumerate() {
                        let from = if placement.mirror { count - 1 - column } else { column };
                        pixel[channel] = f32::from(plane[from]) * factor - shift;
                    }
                }
            },
        ),
    }
}

#[cfg(test)]
mod tests {
    use eas_ir::{Normalisation, Rng, Shape};

    use super::*;
    use crate::data::{Augment, Batches, Labelled, Mirror, Split, TrainingData};

    #[test]
    fn images_of_a_drawn_batch_are_those_of_the_batch_that_is_made() {
        for seed in 0..300 {
            let mut rng = Rng::new(seed);
            let (channels, height) = (1 + rng.below(4), 1 + rng.below(9));
            let width = [1 + rng.below(40), 16 * (1 + rng.below(3))][rng.below(2)];
            let (count, area) = (1 + rng.below(5), height * width);
            let shape = Shape::Image { channels, height, width };
            let bytes = (0..count * channels * area).map(|_| rng.next_u32() as u8).collect();
            let names = vec!["only".to_owned()];
            let source = Labelled::new(shape, names.clone(), bytes, vec![0; count]).unwrap();
            let mean = (0..channels).map(|_| rng.unit() as f32).collect();
            let deviation = (0..channels).map(|_| 0.1 + rng.unit() as f32).collect();
            let mixup = [0.0, 0.4][rng.below(2)];
            let data = TrainingData {
                train: Split::all(source.clone()),
                validation: Split::all(source).first(0),
                classes: names,
                normalisation: Normalisation { mean, deviation },
                augment: Augment {
                    pad_crop: [3, 17][rng.below(2)],
                    mirror: Mirror::Random,
                    cutout: 2 * rng.below(3),
                    mixup,
                },
            };
            let drawn = Batches::new(&data, count, &rng).next().unwrap();
            let made = drawn.batch().images;
            let size = area * channels;
            for isa in Isa::available() {
                let mut found = vec![f32::NAN; count * size];
                for (image, found) in found.chunks_exact_mut(size).enumerate() {
                    take_drawn(isa, &drawn, image, found);
                }
                drawn.mix(&mut found);
                for ((image, channel, row, column), expected) in made.indexed_iter() {
                    let place = ((image * height + row) * width + column) * channels + channel;
                    assert_eq!(
                        found[place].to_bits(),
                        expected.to_bits(),
                        "seed {seed}, {isa:?}: image {image}, channel {channel}, row {row}, column {column}"
                    );
                }
            }
        }
    }
}
