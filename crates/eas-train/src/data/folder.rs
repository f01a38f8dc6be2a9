//! Images in a folder for each class: PNG, JPEG and WebP of any size, brought to one.
//!
//! Decoding takes long, and a search's trials each open the data: so the images are kept packed in the
//! user's cache, under the digest of the files' bytes and of what was made of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use eas_ir::{Built, Fit, Plugin, Shape, parse_options, resolved_options};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::files::{MOST_PIXELS, cache_folder};
use super::groups::{self, Groups};
use super::image_file::{image_bytes, image_of, is_image, name_of, visible};
use super::options::AugmentOptions;
use super::{Augment, DataOptions, DataPlugin, DataSource, Description, Labelled, Mirror, resolve};

/// Labels are u8.
const MOST_CLASSES: usize = 256;
/// What a folder of validation images is called.
const VALIDATION: [&str; 3] = ["val", "valid", "validation"];
/// What a folder of folders of classes is called.
const PARTS: [&str; 5] = ["train", "test", "val", "valid", "validation"];
/// Extensions of pictures that can't be read.
const OTHER_PICTURES: [&str; 8] = ["avif", "bmp", "gif", "heic", "jxl", "svg", "tif", "tiff"];

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Folder {
    path: PathBuf,
    #[serde(default = "default_size")]
    size: usize,
    #[serde(default)]
    fit: Fit,
    #[serde(default)]
    colour: Colour,
    #[serde(default = "default_test")]
    test: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    group: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    group_list: Option<PathBuf>,
    #[serde(default = "default_cache")]
    cache: bool,
    #[serde(default = "default_validation")]
    validation: usize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    train: Option<usize>,
    #[serde(default)]
    augment: AugmentOptions,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Colour {
    #[default]
    Rgb,
    Grey,
}

fn default_size() -> usize {
    32
}

fn default_test() -> f64 {
    0.2
}

fn default_cache() -> bool {
    true
}

fn default_validation() -> usize {
    100
}

const AUGMENT: Augment = Augment { pad_crop: 4, mirror: Mirror::Random, ..Augment::NONE };

inventory::submit! {
    DataPlugin(Plugin::new(
        "folder",
        "images in a folder for each class: PNG, JPEG, WebP",
        r#"path = "data"  # holds train/CLASS/… and test/CLASS/…, or CLASS/… alone; val/CLASS/… joins train, or is the test where there is no other
size = 32  # height and width that images are brought to, 4 to 512
fit = "crop"  # to cut out the square in the middle and scale it; or "stretch"
colour = "rgb"  # or "grey"
test = 0.2  # share of images held back for testing, where no folder is for that
# group = "^([^_]*)_"  # pattern of file names; images whose first group is the same stay on one side of a split
# group_list = "groups.csv"  # or a list of them: lines `train/CLASS/IMAGE,GROUP`, paths within the folder
cache = true  # keep the packed images in the user's cache, ~/.cache/eas, which may be emptied at any time
validation = 100  # training images held out to compare networks on
# train = 1000  # training images used; all that are left if not given
augment = { pad_crop = 4, mirror = true }  # shift by up to 4 pixels, mirror
"#,
        |options| {
            let mut data = parse_options::<Folder>(options)?;
            data.check().map_err(serde::de::Error::custom)?;
            data.augment = data.augment.or(AUGMENT).into();
            Ok(Built { options: resolved_options(&data)?, implementation: Box::new(data) })
        },
    ))
}

/// An image's file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct File {
    class: String,
    pub(super) path: PathBuf,
    /// Images of one group stay on one side of a split.
    group: String,
    /// Whether that was said, and is not the image's own.
    is_grouped: bool,
}

impl DataSource for Folder {
    fn options(&self) -> DataOptions {
        let augment = self.augment.or(AUGMENT);
        DataOptions { validation: self.validation, train: self.train, augment }
    }

    fn path(&self) -> Option<&Path> {
        Some(&self.path)
    }

    fn describe(&self, directory: &Path) -> anyhow::Result<Description> {
        let [train, test] = self.parts(directory)?;
        let (shape, classes) = (self.shape(), classes(&train));
        Ok(Description { shape, classes, images: train.len(), test_images: test.len() })
    }

    fn train(&self, directory: &Path) -> anyhow::Result<Labelled> {
        let [train, _] = self.parts(directory)?;
        self.read(&train, &classes(&train))
    }

    fn test(&self, directory: &Path) -> anyhow::Result<Labelled> {
        let [train, test] = self.parts(directory)?;
        ensure!(
            !test.is_empty(),
            "{}: expected images to test on, found none: test = {}",
            self.path.display(),
            self.test
        );
        self.read(&test, &classes(&train))
    }
}

impl Folder {
    fn check(&self) -> Result<(), String> {
        if !(4..=512).contains(&self.size) {
            return Err(format!("size: expected 4 to 512, found {}", self.size));
        }
        if !(0.0..=0.9).contains(&self.test) {
            return Err(format!("test: expected a share from 0 to 0.9, found {}", self.test));
        }
        if self.group.is_some() && self.group_list.is_some() {
            return Err("group_list: expected `group` or `group_list`, found both".to_owned());
        }
        self.group.as_deref().map_or(Ok(()), |text| groups::pattern(text).map(|_| ()))
    }

    fn groups(&self, directory: &Path) -> anyhow::Result<Groups> {
        Ok(match (&self.group, &self.group_list) {
            (Some(text), _) => Groups::Pattern(groups::pattern(text).map_err(anyhow::Error::msg)?),
            (None, Some(path)) => Groups::List(groups::List::read(&resolve(directory, path))?),
            (None, None) => Groups::Own,
        })
    }

    fn channels(&self) -> usize {
        match self.colour {
            Colour::Rgb => 3,
            Colour::Grey => 1,
        }
    }

    fn shape(&self) -> Shape {
        Shape::Image { channels: self.channels(), height: self.size, width: self.size }
    }

    /// The images to train on and those to test on, in order of their paths.
    fn parts(&self, directory: &Path) -> anyhow::Result<[Vec<File>; 2]> {
        let path = resolve(directory, &self.path);
        let groups = self.groups(directory)?;
        let in_folder = |name: &str| match path.join(name).is_dir() {
            true => list(&path, name, &groups),
            false => Ok(Vec::new()),
        };
        let (mut train, test) = (in_folder("train")?, in_folder("test")?);
        let validation =
            VALIDATION.into_iter().map(in_folder).collect::<Result<Vec<_>, _>>()?.concat();
        let parts = match (train.is_empty(), test.is_empty()) {
            (true, _) => {
                let all = list(&path, "", &groups)?;
                let other = test.iter().chain(&validation).next();
                if let (false, Some(other)) = (all.is_empty(), other) {
                    bail!(
                        "{}: expected images to train on in train/CLASS, found them beside it",
                        other.path.display()
                    );
                }
                held_back(all, self.test)
            }
            (false, true) if validation.is_empty() => held_back(train, self.test),
            (false, true) => [train, validation],
            (false, false) => {
                // Networks are compared on images that are drawn from those to train on.
                train.extend(validation);
                [train, test]
            }
        };
        let [train, test] = &parts;
        let images: BTreeSet<&Path> = parts.iter().flatten().map(|file| &*file.path).collect();
        groups.check(|file| images.contains(&*path.join(file)))?;
        let is_grouped = |file: &&File| file.is_grouped;
        let tested = test.iter().filter(is_grouped).map(|file| (&file.group, &file.path));
        let tested: BTreeMap<_, _> = tested.collect();
        for File { path, group, .. } in train.iter().filter(is_grouped) {
            if let Some(other) = tested.get(group) {
                bail!(
                    "{}: expected the images of group `{group}` on one side, found {} too",
                    path.display(),
                    other.display()
                );
            }
        }
        let (shown, known) = (path.display(), classes(train));
        ensure!(
            !train.is_empty(),
            "{shown}: expected a folder for each class with PNG, JPEG or WebP images, found no images"
        );
        ensure!(
            !known.iter().all(|class| PARTS.contains(&class.as_str())),
            "{shown}: expected a folder for each class in {}, found images",
            known.join(" and ")
        );
        ensure!(
            known.len() <= MOST_CLASSES,
            "{shown}: expected at most {MOST_CLASSES} classes, found {}",
            known.len()
        );
        if let Some(file) = test.iter().find(|file| !known.contains(&file.class)) {
            bail!(
                "{}: expected a class of the training images, found `{}`",
                file.path.display(),
                file.class
            );
        }
        let size = (self.channels() * self.size * self.size) as u64;
        let most = MOST_PIXELS / size;
        ensure!(
            train.len().max(test.len()) as u64 <= most,
            "{shown}: expected at most {most} images of {}, found {}",
            self.shape(),
            train.len().max(test.len())
        );
        Ok(parts)
    }

    fn read(&self, files: &[File], classes: &[String]) -> anyhow::Result<Labelled> {
        let class = |file: &File| classes.iter().position(|class| *class == file.class);
        let labels: Option<Vec<u8>> = files.iter().map(|file| Some(class(file)? as u8)).collect();
        let labels = labels.context("expected every class to be known")?;
        let pixels = match cache_folder().filter(|_| self.cache) {
            Some(cache) => self.cached(&cache, files)?,
            None => self.decoded(files)?.1,
        };
        let labelled =
            Labelled::new(self.shape(), classes.to_vec(), pixels, labels)?.with_fit(self.fit);
        if self.group.is_none() && self.group_list.is_none() {
            return Ok(labelled);
        }
        let mut numbers = BTreeMap::new();
        let groups = files.iter().map(|file| {
            let next = numbers.len() as u32;
            *numbers.entry(&file.group).or_insert(next)
        });
        labelled.with_groups(groups.collect())
    }

    /// The images of all files: from this cache if they are there, which they are afterwards.
    fn cached(&self, cache: &Path, files: &[File]) -> anyhow::Result<Vec<u8>> {
        let digests: Vec<blake3::Hash> = files
            .par_iter()
            .map(|file| Ok(blake3::hash(&image_bytes(&file.path)?)))
            .collect::<anyhow::Result<_>>()?;
        let length = files.len() * self.channels() * self.size * self.size;
        if let Some(pixels) = packed(&cache.join(self.packed_name(&digests)), length) {
            return Ok(pixels);
        }
        // Files may have changed since: the name is that of the bytes that were decoded.
        let (digests, pixels) = self.decoded(files)?;
        // A cache that can't be written costs time alone.
        let _ = pack(&cache.join(self.packed_name(&digests)), &pixels);
        Ok(pixels)
    }

    /// The file in a cache of the images whose files have these digests.
    fn packed_name(&self, digests: &[blake3::Hash]) -> String {
        let mut key = blake3::Hasher::new();
        let made = format!("eas packed images 2: {} {:?} {:?}\n", self.size, self.fit, self.colour);
        key.update(made.as_bytes());
        digests.iter().for_each(|digest| {
            key.update(digest.as_bytes());
        });
        format!("{}.images", key.finalize().to_hex())
    }

    /// The digest of each file, and the images of all, `[count, channels, size, size]`.
    fn decoded(&self, files: &[File]) -> anyhow::Result<(Vec<blake3::Hash>, Vec<u8>)> {
        let read = |file: &File| {
            let bytes = image_bytes(&file.path)?;
            let image = image_of(&bytes, self.shape(), self.fit)
                .with_context(|| file.path.display().to_string())?;
            Ok((blake3::hash(&bytes), image))
        };
        let read: Vec<_> = files.par_iter().map(read).collect::<anyhow::Result<_>>()?;
        let (digests, images): (Vec<_>, Vec<_>) = read.into_iter().unzip();
        Ok((digests, images.concat()))
    }
}

/// All images of the classes of a folder within that of the data, in order of their paths. Hidden files
/// and folders don't count, nor do other files than pictures.
///
/// # Errors
/// A picture that can't be read, a folder with images in folders of its own alone, and a file whose
/// name a pattern of groups doesn't match.
pub(super) fn list(data: &Path, within: &str, groups: &Groups) -> anyhow::Result<Vec<File>> {
    let folder = &resolve(data, Path::new(within));
    let mut files = Vec::new();
    for class in visible(folder)? {
        if !class.is_dir() {
            continue;
        }
        let (name, before, mut inner) = (name_of(&class), files.len(), None);
        for path in visible(&class)? {
            let extension = path.extension().unwrap_or_default().to_ascii_lowercase();
            ensure!(
                OTHER_PICTURES.iter().all(|known| extension != *known),
                "{}: expected a PNG, JPEG or WebP image; convert it, or move it away",
                path.display()
            );
            if path.is_dir() {
                inner = Some(path);
                continue;
            }
            if !is_image(&path) {
                continue;
            }
            let own = path.strip_prefix(folder).unwrap_or(&path);
            let group = groups.of(within, own).with_context(|| path.display().to_string())?;
            let is_grouped = group.is_some();
            // An image that nothing is said of is a group of its own.
            let group = group.unwrap_or_else(|| own.display().to_string());
            files.push(File { class: name.clone(), path, group, is_grouped });
        }
        if let Some(inner) = inner.filter(|_| files.len() == before && !PARTS.contains(&&*name)) {
            bail!(
                "{}: expected the images of class `{name}` in its folder itself, found folders in it, \
                 such as {}",
                class.display(),
                name_of(&inner)
            );
        }
    }
    files.sort();
    Ok(files)
}

/// Names of the classes, in order.
fn classes(files: &[File]) -> Vec<String> {
    let mut classes: Vec<String> = files.iter().map(|file| file.class.clone()).collect();
    classes.dedup();
    classes.sort();
    classes.dedup();
    classes
}

/// Holds back a share of each class for testing: whole groups, in the order of a digest of their names.
/// So the same names are held back each time; a file more or less changes the shares, and with them
/// which groups come near them.
fn held_back(files: Vec<File>, share: f64) -> [Vec<File>; 2] {
    let names = classes(&files);
    let mut counts = vec![0; names.len()];
    let mut groups: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for file in &files {
        let class = names.binary_search(&file.class).expect("it is a class of these files");
        counts[class] += 1;
        groups.entry(&file.group).or_default().push(class);
    }
    let shares: Vec<usize> =
        counts.iter().map(|count| (share * f64::from(*count)).round() as usize).collect();
    let mut order: Vec<(&str, Vec<usize>)> = groups.into_iter().collect();
    order.sort_by_key(|(group, _)| *blake3::hash(group.as_bytes()).as_bytes());
    let (order, of_groups): (Vec<&str>, Vec<_>) = order.into_iter().unzip();
    let held_out = groups::held_out(&of_groups, &shares);
    let tested = order.into_iter().zip(held_out).filter(|(_, is_held_out)| *is_held_out);
    let tested: BTreeSet<String> = tested.map(|(group, _)| group.to_owned()).collect();
    let (test, train) = files.into_iter().partition(|file| tested.contains(&file.group));
    [train, test]
}

/// Writes pixels and their digest, so that the file appears whole.
fn pack(path: &Path, pixels: &[u8]) -> anyhow::Result<()> {
    let folder = path.parent().context("expected a path within a folder")?;
    fs::create_dir_all(folder)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(pixels)?;
    file.write_all(blake3::hash(pixels).as_bytes())?;
    file.persist(path)?;
    Ok(())
}

/// Pixels that were packed, if they are there whole.
fn packed(path: &Path, length: usize) -> Option<Vec<u8>> {
    let file = fs::File::open(path).ok()?;
    let mut pixels = Vec::new();
    file.take(length as u64 + 33).read_to_end(&mut pixels).ok()?;
    let digest = if pixels.len() >= length { pixels.split_off(length) } else { return None };
    (digest == blake3::hash(&pixels).as_bytes()).then_some(pixels)
}

#[cfg(test)]
mod tests {
    use image::{GrayImage, Luma};

    use super::*;

    #[test]
    fn images_from_the_cache_are_those_of_the_files_as_they_are() {
        let (data, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let path = data.path().join("class/0.png");
        fs::create_dir(data.path().join("class")).unwrap();
        let folder: Folder = toml::from_str("path = ''\nsize = 4\ncolour = 'grey'").unwrap();
        let check = |value: u8, packed: usize, why: &str| {
            GrayImage::from_pixel(9, 7, Luma([value])).save(&path).unwrap();
            let files = list(data.path(), "", &Groups::Own).unwrap();
            assert_eq!(folder.cached(cache.path(), &files).unwrap(), [value; 16], "{why}");
            assert_eq!(fs::read_dir(cache.path()).unwrap().count(), packed, "{why}");
        };
        check(3, 1, "decoded");
        check(3, 1, "packed");
        check(200, 2, "another picture in the file");
        for entry in fs::read_dir(cache.path()).unwrap() {
            fs::write(entry.unwrap().path(), [7; 48]).unwrap();
        }
        check(3, 2, "damaged in the cache");
    }
}
