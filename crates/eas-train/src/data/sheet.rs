//! A contact sheet: what the images of each class look like.

use std::io::Cursor;

use image::{ImageFormat, Rgb, RgbImage};

use super::Labelled;

/// Pixels between images.
const GAP: usize = 2;
/// The most pixels of a side, so that a sheet of many classes stays readable.
const LONGEST_SIDE: usize = 8192;

/// A PNG file with a row for each class and its first images in it, up to `columns`. Classes and images
/// that would make it larger than 8192 pixels are left out; images of other than three channels show
/// their first in grey.
///
/// # Errors
/// Images that are larger than that.
pub fn contact_sheet(images: &Labelled, columns: usize) -> anyhow::Result<Vec<u8>> {
    let (channels, height, width) = images.size();
    let most = |side: usize| LONGEST_SIDE / (side + GAP);
    let (rows, columns) = (images.classes().len().min(most(height)), columns.min(most(width)));
    anyhow::ensure!(rows * columns > 0, "expected images of at most 8190 pixels a side");
    let size = [columns * (width + GAP) - GAP, rows * (height + GAP) - GAP];
    let mut sheet = RgbImage::from_pixel(size[0] as u32, size[1] as u32, Rgb([255; 3]));
    let mut shown = vec![0; images.classes().len()];
    for index in 0..images.len() {
        let row = images.label(index);
        let column = shown[row];
        if row >= rows || column >= columns {
            continue;
        }
        shown[row] += 1;
        let (left, top) = (column * (width + GAP), row * (height + GAP));
        for (y, x) in (0..height).flat_map(|y| (0..width).map(move |x| (y, x))) {
            let value = |channel| images.image(index)[(channel * height + y) * width + x];
            let colours = [0, 1, 2].map(|channel| value(if channels == 3 { channel } else { 0 }));
            sheet.put_pixel((left + x) as u32, (top + y) as u32, Rgb(colours));
        }
    }
    let mut bytes = Cursor::new(Vec::new());
    sheet.write_to(&mut bytes, ImageFormat::Png)?;
    Ok(bytes.into_inner())
}

#[cfg(test)]
mod tests {
    use eas_ir::Shape;

    use super::*;

    #[test]
    fn a_sheet_has_a_row_for_each_class_and_its_first_images_in_it() {
        let shape = Shape::Image { channels: 3, height: 1, width: 2 };
        let pixels = (0..4 * 6).collect();
        let classes = ["a", "b"].map(str::to_owned).to_vec();
        let images = Labelled::new(shape, classes, pixels, vec![1, 0, 1, 1]).unwrap();
        let sheet = image::load_from_memory(&contact_sheet(&images, 2).unwrap()).unwrap();
        let sheet = sheet.into_rgb8();
        assert_eq!(sheet.dimensions(), (6, 4));
        // The class a has one image, the second of all; the class b the first and the third.
        for (place, expected) in [
            ((0, 0), [6, 8, 10]),
            ((1, 0), [7, 9, 11]),
            ((4, 0), [255; 3]),
            ((0, 3), [0, 2, 4]),
            ((5, 3), [13, 15, 17]),
            ((2, 3), [255; 3]),
        ] {
            assert_eq!(sheet.get_pixel(place.0, place.1).0, expected, "{place:?}");
        }
    }
}
