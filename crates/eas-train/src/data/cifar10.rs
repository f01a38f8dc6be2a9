//! CIFAR-10 in its binary form (Krizhevsky 2009): a record is a label byte and 3072 pixel bytes, red,
//! green and blue planes of 32×32.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use eas_ir::{Built, Plugin, Shape, parse_options, resolved_options};
use serde::{Deserialize, Serialize};

use super::{Augment, DataOptions, DataPlugin, DataSource, Description, Labelled, names, resolve};

const FOLDER: &str = "cifar-10-batches-bin";
const TRAINING: [&str; 5] = [
    "data_batch_1.bin",
    "data_batch_2.bin",
    "data_batch_3.bin",
    "data_batch_4.bin",
    "data_batch_5.bin",
];
const TESTING: [&str; 1] = ["test_batch.bin"];
const SHAPE: Shape = Shape::Image { channels: 3, height: 32, width: 32 };
const PIXELS: usize = 3 * 32 * 32;
const RECORD: usize = 1 + PIXELS;
/// Records of an official file. One of fewer is read too, one of more is no CIFAR-10 batch.
const MOST_RECORDS: usize = 10_000;
const CLASSES: [&str; 10] =
    ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];

/// CIFAR-10 from a folder of its binary files.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Cifar10 {
    /// The folder, or the one that holds it.
    path: PathBuf,
    #[serde(default = "default_validation")]
    validation: usize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    train: Option<usize>,
    #[serde(default)]
    augment: Augment,
}

fn default_validation() -> usize {
    5000
}

inventory::submit! {
    DataPlugin(Plugin::new(
        "cifar10",
        "CIFAR-10, binary version, from a folder",
        r#"path = "data"  # the folder cifar-10-batches-bin, or the one that holds it; default: $EAS_DATA
validation = 5000  # training images held out to compare networks on
# train = 45000  # training images used; all that are left if not given
augment = { pad_crop = 4, mirror = true }  # shift by up to 4 pixels, mirror
"#,
        |options| {
            let data = parse_options::<Cifar10>(options)?;
            Ok(Built { options: resolved_options(&data)?, implementation: Box::new(data) })
        },
    ))
}

impl DataSource for Cifar10 {
    fn options(&self) -> DataOptions {
        DataOptions { validation: self.validation, train: self.train, augment: self.augment }
    }

    fn path(&self) -> Option<&Path> {
        Some(&self.path)
    }

    fn describe(&self, directory: &Path) -> anyhow::Result<Description> {
        let folder = self.folder(directory)?;
        let mut images = 0;
        for name in TRAINING {
            images += records(&folder.join(name))?;
        }
        Ok(Description { shape: SHAPE, classes: names(&CLASSES), images })
    }

    fn train(&self, directory: &Path) -> anyhow::Result<Labelled> {
        read(&self.folder(directory)?, &TRAINING)
    }

    fn test(&self, directory: &Path) -> anyhow::Result<Labelled> {
        read(&self.folder(directory)?, &TESTING)
    }
}

impl Cifar10 {
    /// The folder that holds the files.
    fn folder(&self, directory: &Path) -> anyhow::Result<PathBuf> {
        let path = resolve(directory, &self.path);
        let shown = path.display();
        for folder in [path.join(FOLDER), path.clone()] {
            let has = |names: &[&str]| names.iter().any(|name| folder.join(name).exists());
            if has(&TRAINING) || has(&TESTING) {
                return Ok(folder);
            }
        }
        let found = if !path.exists() {
            "found nothing there"
        } else if path.join("cifar-10-batches-py").exists() || path.join("data_batch_1").exists() {
            "found its Python version"
        } else if path.join("cifar-10-binary.tar.gz").exists() {
            "found its archive, not unpacked"
        } else {
            "found none of its files"
        };
        bail!(
            "{shown}: expected the folder `{FOLDER}` or one that holds it, {found}; it is the \"binary \
             version\" on https://www.cs.toronto.edu/~kriz/cifar.html"
        )
    }
}

/// How many records a file has by its length.
fn records(path: &Path) -> anyhow::Result<usize> {
    let shown = path.display();
    let found = fs::metadata(path)
        .with_context(|| format!("{shown}: expected a file of CIFAR-10 (binary version)"))?;
    ensure!(found.is_file(), "{shown}: expected a file");
    whole_records(path, found.len())
}

/// The records of so many bytes.
fn whole_records(path: &Path, length: u64) -> anyhow::Result<usize> {
    let (shown, record) = (path.display(), RECORD as u64);
    ensure!(length > 0, "{shown}: expected records of {RECORD} bytes, found an empty file");
    let most = MOST_RECORDS as u64 * record;
    ensure!(
        length <= most,
        "{shown}: expected at most {MOST_RECORDS} records, {most} bytes, found {length} bytes"
    );
    let over = length % record;
    ensure!(
        over == 0,
        "{shown}: byte {}: expected a record of {RECORD} bytes, found {over} up to the end; the file \
         is cut short or no CIFAR-10 batch",
        length - over
    );
    Ok((length / record) as usize)
}

fn read(folder: &Path, names_of_files: &[&str]) -> anyhow::Result<Labelled> {
    let mut count = 0;
    for name in names_of_files {
        count += records(&folder.join(name))?;
    }
    let (mut pixels, mut labels) = (Vec::with_capacity(count * PIXELS), Vec::with_capacity(count));
    let mut bytes = Vec::new();
    for name in names_of_files {
        let path = folder.join(name);
        let shown = path.display();
        bytes.clear();
        // One byte more than there may be, so that a file that grew meanwhile is noticed.
        let most = (MOST_RECORDS * RECORD) as u64 + 1;
        File::open(&path)
            .and_then(|file| file.take(most).read_to_end(&mut bytes))
            .with_context(|| format!("{shown}: expected a file of CIFAR-10 (binary version)"))?;
        whole_records(&path, bytes.len() as u64)?;
        for (index, record) in bytes.chunks_exact(RECORD).enumerate() {
            let label = record[0];
            ensure!(
                usize::from(label) < CLASSES.len(),
                "{shown}: byte {}: expected a label from 0 to 9, found {label}",
                index * RECORD
            );
            labels.push(label);
            pixels.extend_from_slice(&record[1..]);
        }
    }
    Labelled::new(SHAPE, names(&CLASSES), pixels, labels)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// A folder `cifar-10-batches-bin` of six files of `records` images each; image `i` of file `f`
    /// shows class `(i + f) % 10`, and pixel `p` of it is `p + 7 i + f`, modulo 256.
    fn fake(records: usize) -> tempfile::TempDir {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join(FOLDER);
        fs::create_dir(&folder).unwrap();
        for (file, name) in TRAINING.iter().chain(&TESTING).enumerate() {
            let mut bytes = Vec::new();
            for image in 0..records {
                bytes.push(((image + file) % 10) as u8);
                bytes.extend((0..PIXELS).map(|place| (place + 7 * image + file) as u8));
            }
            fs::write(folder.join(name), bytes).unwrap();
        }
        parent
    }

    fn cifar10(path: impl Into<PathBuf>) -> Cifar10 {
        let (validation, train, augment) = (5000, None, Augment::default());
        Cifar10 { path: path.into(), validation, train, augment }
    }

    #[test]
    fn the_folder_and_the_one_that_holds_it_give_the_images_of_all_files_in_order() {
        let parent = fake(4);
        let nowhere = Path::new("/nowhere");
        let inner = cifar10(parent.path().join(FOLDER)).train(nowhere).unwrap();
        let outer = cifar10(parent.path()).train(nowhere).unwrap();
        let relative = cifar10(FOLDER).train(parent.path()).unwrap();
        let empty = cifar10("").train(parent.path()).unwrap();
        assert!(inner == outer && inner == relative && inner == empty);
        assert_eq!((inner.len(), inner.shape()), (20, SHAPE));
        for index in 0..20 {
            let (file, image) = (index / 4, index % 4);
            assert_eq!(inner.label(index), (image + file) % 10, "image {index}");
            // The last row of the blue plane is the end of a record.
            assert_eq!(inner.image(index)[PIXELS - 1], (PIXELS - 1 + 7 * image + file) as u8);
        }
        let test = cifar10(parent.path()).test(nowhere).unwrap();
        assert_eq!((test.len(), test.label(0), test.image(0)[0]), (4, 5, 5));
        let description = cifar10(parent.path()).describe(nowhere).unwrap();
        assert_eq!((description.images, description.shape), (20, SHAPE));
        assert_eq!(description.classes, inner.classes());
    }

    #[test]
    fn training_images_are_read_where_the_test_file_is_missing() {
        let parent = fake(1);
        fs::remove_file(parent.path().join(FOLDER).join("test_batch.bin")).unwrap();
        let data = cifar10(parent.path());
        assert_eq!(data.train(Path::new("")).unwrap().len(), 5);
        assert!(data.test(Path::new("")).is_err());
    }

    /// The message of reading a folder that `damage` was done to, with `DIR` for the folder.
    fn message(damage: impl FnOnce(&Path)) -> String {
        let parent = fake(3);
        let folder = parent.path().join(FOLDER);
        damage(&folder);
        let error = cifar10(parent.path()).train(Path::new("")).unwrap_err();
        let shown = parent.path().display().to_string();
        format!("{error:#}").replace(&format!("{shown}/{FOLDER}"), "DIR").replace(&shown, "PARENT")
    }

    #[test]
    fn malformed_files_are_named_with_the_place_and_what_was_expected() {
        let overwrite = |path: PathBuf, at: usize, byte: u8| {
            let mut bytes = fs::read(&path).unwrap();
            bytes[at] = byte;
            fs::write(path, bytes).unwrap();
        };
        let second = |folder: &Path| folder.join("data_batch_2.bin");
        assert_eq!(
            message(|folder| overwrite(second(folder), 2 * RECORD, 10)),
            "DIR/data_batch_2.bin: byte 6146: expected a label from 0 to 9, found 10"
        );
        let truncate = |path: PathBuf, length: u64| {
            File::options().write(true).open(path).unwrap().set_len(length).unwrap();
        };
        assert_eq!(
            message(|folder| truncate(second(folder), 2 * RECORD as u64 + 100)),
            "DIR/data_batch_2.bin: byte 6146: expected a record of 3073 bytes, found 100 up to the \
             end; the file is cut short or no CIFAR-10 batch"
        );
        assert_eq!(
            message(|folder| truncate(second(folder), 0)),
            "DIR/data_batch_2.bin: expected records of 3073 bytes, found an empty file"
        );
        // Sparse: it claims a terabyte and holds nothing.
        assert_eq!(
            message(|folder| truncate(second(folder), 1 << 40)),
            "DIR/data_batch_2.bin: expected at most 10000 records, 30730000 bytes, found \
             1099511627776 bytes"
        );
        assert_eq!(
            message(|folder| fs::remove_file(second(folder)).unwrap()),
            "DIR/data_batch_2.bin: expected a file of CIFAR-10 (binary version): No such file or \
             directory (os error 2)"
        );
        assert_eq!(
            message(|folder| {
                fs::remove_file(second(folder)).unwrap();
                fs::create_dir(second(folder)).unwrap();
            }),
            "DIR/data_batch_2.bin: expected a file"
        );
    }

    #[test]
    fn a_folder_without_the_files_is_named_with_what_was_found_instead() {
        let why = |found: &str| {
            format!(
                "PARENT: expected the folder `cifar-10-batches-bin` or one that holds it, found {found}; \
                 it is the \"binary version\" on https://www.cs.toronto.edu/~kriz/cifar.html"
            )
        };
        let rename = |folder: &Path, name: &str| {
            fs::rename(folder, folder.with_file_name(name)).unwrap();
        };
        assert_eq!(message(|folder| rename(folder, "other")), why("none of its files"));
        assert_eq!(
            message(|folder| rename(folder, "cifar-10-batches-py")),
            why("its Python version")
        );
        assert_eq!(
            message(|folder| rename(folder, "cifar-10-binary.tar.gz")),
            why("its archive, not unpacked")
        );
        let gone = |folder: &Path| fs::remove_dir_all(folder.parent().unwrap()).unwrap();
        assert_eq!(message(gone), why("nothing there"));
    }

    #[test]
    fn the_real_files_hold_the_published_data_set() {
        let Some(path) = std::env::var_os("EAS_DATA") else {
            // Past the harness's capture, so that a run shows what it left out.
            writeln!(std::io::stderr(), "skipped: EAS_DATA doesn't name a folder with CIFAR-10")
                .unwrap();
            return;
        };
        let (data, nowhere) = (cifar10(path), Path::new(""));
        assert_eq!(data.describe(nowhere).unwrap().images, 50_000);
        let (train, test) = (data.train(nowhere).unwrap(), data.test(nowhere).unwrap());
        assert_eq!(train.class_counts(), [5000; 10]);
        assert_eq!(test.class_counts(), [1000; 10]);
        // The first training image is the well-known frog, the first test image a cat.
        assert_eq!((train.label(0), &train.image(0)[..4]), (6, &[59, 43, 50, 68][..]));
        assert_eq!((test.label(0), &test.image(0)[..4]), (3, &[158, 159, 165, 166][..]));
        let all = super::super::normalisation_of(&super::super::Split::all(train));
        let published = [(0.4914, 0.2470), (0.4822, 0.2435), (0.4465, 0.2616)];
        for (channel, (mean, deviation)) in published.into_iter().enumerate() {
            assert!((all.mean[channel] - mean).abs() < 1e-4, "{all:?}");
            assert!((all.deviation[channel] - deviation).abs() < 1e-4, "{all:?}");
        }
    }
}
