//! One image in a file from a stranger: decoded within limits, and brought to the shape that a network
//! reads.

use std::fs;
use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use eas_ir::{Fit, Shape};
use image::imageops::FilterType;
use image::{DynamicImage, ImageDecoder, ImageReader, Limits};

use super::files::open;

/// The longest side of an image that is decoded.
const LONGEST_SIDE: u32 = 16_384;
/// The most memory that decoding one image may take: 512 MiB.
const MOST_MEMORY: u64 = 512 << 20;
/// The most bytes of a file.
const MOST_BYTES: u64 = 256 << 20;
const EXTENSIONS: [&str; 4] = ["png", "jpg", "jpeg", "webp"];
/// The most folders within one another that images are looked for in.
const DEEPEST: usize = 64;

/// Whether a file's name says that it is an image.
pub(super) fn is_image(path: &Path) -> bool {
    let extension = path.extension().map(|extension| extension.to_ascii_lowercase());
    extension.is_some_and(|found| EXTENSIONS.iter().any(|known| found == *known))
}

/// The images in a folder and in the folders in it, in order of their paths. What is hidden doesn't
/// count, and links to other folders aren't followed.
///
/// # Errors
/// A folder that can't be read, or more than 64 within one another.
pub fn images_in(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut images = Vec::new();
    let mut folders = vec![(folder.to_owned(), 0)];
    while let Some((folder, depth)) = folders.pop() {
        ensure!(depth < DEEPEST, "{}: folders are too deep in one another", folder.display());
        for path in visible(&folder)? {
            if is_image(&path) && path.is_file() {
                images.push(path);
            } else if fs::symlink_metadata(&path).is_ok_and(|found| found.is_dir()) {
                folders.push((path, depth + 1));
            }
        }
    }
    images.sort();
    Ok(images)
}

/// What is in a folder and not hidden, in order.
pub(super) fn visible(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let shown = folder.display();
    let entries = fs::read_dir(folder).with_context(|| format!("{shown}: expected a folder"))?;
    let mut paths: Vec<PathBuf> =
        entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
    paths.retain(|path| !name_of(path).starts_with('.'));
    paths.sort();
    Ok(paths)
}

/// The last part of a path.
pub(super) fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The bytes of an image's file, at most 256 MiB.
///
/// # Errors
/// What is no file, can't be read, or is longer.
pub fn image_bytes(path: &Path) -> anyhow::Result<Vec<u8>> {
    read_image(open(path, "an image")?).with_context(|| path.display().to_string())
}

/// The bytes of an image from any reader, at most 256 MiB.
///
/// # Errors
/// What can't be read, or is longer.
pub fn read_image(from: impl Read) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(MOST_BYTES + 1).read_to_end(&mut bytes).context("expected an image")?;
    ensure!(bytes.len() as u64 <= MOST_BYTES, "expected at most {MOST_BYTES} bytes, found more");
    Ok(bytes)
}

/// The image in a file's bytes, a PNG, JPEG or WebP, brought to a shape of one channel (grey) or three
/// (red, green, blue): u8 values, `[channels, height, width]`. Transparency is left out.
///
/// # Errors
/// Bytes that are no such image, or one too large to be decoded; a shape of other channels.
pub fn image_of(bytes: &[u8], shape: Shape, fit: Fit) -> anyhow::Result<Vec<u8>> {
    let Shape::Image { channels: channels @ (1 | 3), height, width } = shape else {
        bail!("expected a network for pictures of one channel or three, found one for {shape}")
    };
    let decoded = decode(bytes)?;
    let cut = match fit {
        // Before it is scaled: the whole of a long picture would take gigabytes.
        Fit::Crop => cut_to_sides(decoded, width as u64, height as u64),
        Fit::Stretch => decoded,
    };
    let (width, height) = (width as u32, height as u32);
    let image = match (cut.width(), cut.height()) == (width, height) {
        true => cut,
        false => cut.resize_exact(width, height, FilterType::Triangle),
    };
    Ok(match channels {
        1 => image.into_luma8().into_raw(),
        _ => {
            let values = image.into_rgb8().into_raw();
            (0..3).flat_map(|channel| values[channel..].iter().step_by(3).copied()).collect()
        }
    })
}

/// The largest part in the middle of an image whose sides are as `across` to `down`.
fn cut_to_sides(image: DynamicImage, across: u64, down: u64) -> DynamicImage {
    let (width, height) = (u64::from(image.width()), u64::from(image.height()));
    let (cut_width, cut_height) = match (width * down).cmp(&(height * across)) {
        std::cmp::Ordering::Equal => return image,
        std::cmp::Ordering::Greater => ((height * across / down).max(1), height),
        std::cmp::Ordering::Less => (width, (width * down / across).max(1)),
    };
    let (left, top) = ((width - cut_width) / 2, (height - cut_height) / 2);
    image.crop_imm(left as u32, top as u32, cut_width as u32, cut_height as u32)
}

/// Decodes an image, whatever its file's name says it is, and turns it as its camera was held.
fn decode(bytes: &[u8]) -> anyhow::Result<DynamicImage> {
    let mut reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format()?;
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(MOST_MEMORY);
    // Sides are asked for below, where they can be told.
    reader.limits(limits.clone());
    let mut decoder = reader.into_decoder().context("expected a PNG, JPEG or WebP image")?;
    let (width, height) = decoder.dimensions();
    ensure!(
        width.max(height) <= LONGEST_SIDE && decoder.total_bytes() <= MOST_MEMORY,
        "byte 0: expected sides of at most {LONGEST_SIDE} pixels and {MOST_MEMORY} bytes in all, found \
         {width}x{height}"
    );
    limits.max_image_width = Some(LONGEST_SIDE);
    limits.max_image_height = Some(LONGEST_SIDE);
    decoder.set_limits(limits).context("expected an image within the limits of memory")?;
    let turned = decoder.orientation().context("expected an image")?;
    let mut image = DynamicImage::from_decoder(decoder).context("expected a whole image")?;
    image.apply_orientation(turned);
    Ok(image)
}

#[cfg(test)]
mod tests {
    use image::{ImageFormat, RgbImage};

    use super::*;

    fn png(image: &RgbImage) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        image.write_to(&mut bytes, ImageFormat::Png).unwrap();
        bytes.into_inner()
    }

    #[test]
    fn a_picture_is_cut_to_the_sides_of_what_a_network_reads() {
        // Each pixel tells its place.
        let image = RgbImage::from_fn(12, 6, |x, y| image::Rgb([x as u8, y as u8, 7]));
        for (height, width, left, top) in [(6, 6, 3, 0), (6, 3, 4, 0), (6, 12, 0, 0)] {
            let shape = Shape::Image { channels: 3, height, width };
            let found = image_of(&png(&image), shape, Fit::Crop).unwrap();
            let area = height * width;
            assert_eq!(found.len(), 3 * area);
            assert_eq!((found[0], found[area], found[2 * area]), (left, top, 7), "{shape}");
            assert_eq!(usize::from(found[area - 1]), usize::from(left) + width - 1, "{shape}");
        }
        let shape = Shape::Image { channels: 1, height: 3, width: 6 };
        assert_eq!(image_of(&png(&image), shape, Fit::Stretch).unwrap().len(), 18);
        let shape = Shape::Image { channels: 2, height: 3, width: 6 };
        let refused = image_of(&png(&image), shape, Fit::Crop).unwrap_err().to_string();
        assert!(refused.contains("one channel or three, found one for 2x3x6"), "{refused}");
    }

    #[test]
    fn folders_are_searched_and_links_to_folders_are_not() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b.png", "a/c.JPG", "a/d/e.webp", "a/notes.txt", ".hidden/f.png", "a/.g.png"] {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, b"").unwrap();
        }
        #[cfg(unix)]
        std::os::unix::fs::symlink(folder.path(), folder.path().join("a/round")).unwrap();
        let found = images_in(folder.path()).unwrap();
        let expected = ["a/c.JPG", "a/d/e.webp", "b.png"].map(|name| folder.path().join(name));
        assert_eq!(found, expected);
    }
}
