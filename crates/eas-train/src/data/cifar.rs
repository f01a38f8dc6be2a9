//! CIFAR-10 and CIFAR-100 in their binary form (Krizhevsky 2009): a record is a label byte, for
//! CIFAR-100 after that of a coarser label, and 3072 pixel bytes, red, green and blue planes of 32×32.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use eas_ir::{Plugin, Shape};

use super::files::{self, open};
use super::{Augment, DataOptions, DataPlugin, DataSource, Description, Labelled, names, resolve};

const SHAPE: Shape = Shape::Image { channels: 3, height: 32, width: 32 };
const PIXELS: usize = 3 * 32 * 32;

/// What tells the two data sets apart.
#[derive(Debug)]
struct Format {
    name: &'static str,
    /// What specs and `eas data fetch` call it.
    plugin: &'static str,
    folder: &'static str,
    training: &'static [&'static str],
    testing: &'static str,
    /// Labels of a record; the last is the one that is learnt.
    labels: usize,
    /// Records of the largest official file. One of fewer is read too, one of more is none of it.
    most_records: usize,
    classes: &'static [&'static str],
    /// The folder and a file of the Python version, for which this may have been mistaken.
    python: [&'static str; 2],
    archive: &'static str,
}

static CIFAR10: Format = Format {
    name: "CIFAR-10",
    plugin: "cifar10",
    folder: "cifar-10-batches-bin",
    training: &[
        "data_batch_1.bin",
        "data_batch_2.bin",
        "data_batch_3.bin",
        "data_batch_4.bin",
        "data_batch_5.bin",
    ],
    testing: "test_batch.bin",
    labels: 1,
    most_records: 10_000,
    classes: &[
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    ],
    python: ["cifar-10-batches-py", "data_batch_1"],
    archive: "cifar-10-binary.tar.gz",
};

static CIFAR100: Format = Format {
    name: "CIFAR-100",
    plugin: "cifar100",
    folder: "cifar-100-binary",
    training: &["train.bin"],
    testing: "test.bin",
    labels: 2,
    most_records: 50_000,
    classes: &CLASSES100,
    python: ["cifar-100-python", "meta"],
    archive: "cifar-100-binary.tar.gz",
};

#[rustfmt::skip]
const CLASSES100: [&str; 100] = [
    "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle",
    "bowl", "boy", "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle",
    "chair", "chimpanzee", "clock", "cloud", "cockroach", "couch", "crab", "crocodile", "cup", "dinosaur",
    "dolphin", "elephant", "flatfish", "forest", "fox", "girl", "hamster", "house", "kangaroo", "keyboard",
    "lamp", "lawn_mower", "leopard", "lion", "lizard", "lobster", "man", "maple_tree", "motorcycle", "mountain",
    "mouse", "mushroom", "oak_tree", "orange", "orchid", "otter", "palm_tree", "pear", "pickup_truck", "pine_tree",
    "plain", "plate", "poppy", "porcupine", "possum", "rabbit", "raccoon", "ray", "road", "rocket",
    "rose", "sea", "seal", "shark", "shrew", "skunk", "skyscraper", "snail", "snake", "spider",
    "squirrel", "streetcar", "sunflower", "sweet_pepper", "table", "tank", "telephone", "television", "tiger", "tractor",
    "train", "trout", "tulip", "turtle", "wardrobe", "whale", "willow_tree", "wolf", "woman", "worm",
];

/// One of the two from a folder of its binary files.
#[derive(Debug)]
struct Cifar {
    format: &'static Format,
    path: PathBuf,
    options: DataOptions,
}

inventory::submit! {
    DataPlugin(Plugin::new(
        "cifar10",
        "CIFAR-10, binary version, from a folder",
        r#"path = "data"  # the folder cifar-10-batches-bin, or the one that holds it; default: $EAS_DATA, or where eas data fetch puts it
validation = 5000  # training images held out to compare networks on
# train = 45000  # training images used; all that are left if not given
augment = { pad_crop = 4, mirror = true }  # shift by up to 4 pixels, mirror
"#,
        |options| {
            files::build(options, 5000, Augment::default(), |path, options| {
                Cifar { format: &CIFAR10, path, options }
            })
        },
    ))
}

inventory::submit! {
    DataPlugin(Plugin::new(
        "cifar100",
        "CIFAR-100, binary version, fine labels, from a folder",
        r#"path = "data"  # the folder cifar-100-binary, or the one that holds it; default: $EAS_DATA, or where eas data fetch puts it
validation = 5000  # training images held out to compare networks on
# train = 45000  # training images used; all that are left if not given
augment = { pad_crop = 4, mirror = true }  # shift by up to 4 pixels, mirror
"#,
        |options| {
            files::build(options, 5000, Augment::default(), |path, options| {
                Cifar { format: &CIFAR100, path, options }
            })
        },
    ))
}

impl DataSource for Cifar {
    fn licence(&self) -> &str {
        "none is stated by its author (Krizhevsky 2009)"
    }

    fn options(&self) -> DataOptions {
        self.options
    }

    fn path(&self) -> Option<&Path> {
        Some(&self.path)
    }

    fn describe(&self, directory: &Path) -> anyhow::Result<Description> {
        let folder = self.folder(directory)?;
        let mut images = 0;
        for name in self.format.training {
            images += self.format.records(&folder.join(name))?;
        }
        let test = folder.join(self.format.testing);
        let test_images = if test.exists() { self.format.records(&test)? } else { 0 };
        Ok(Description { shape: SHAPE, classes: names(self.format.classes), images, test_images })
    }

    fn train(&self, directory: &Path) -> anyhow::Result<Labelled> {
        self.format.read(&self.folder(directory)?, self.format.training)
    }

    fn test(&self, directory: &Path) -> anyhow::Result<Labelled> {
        self.format.read(&self.folder(directory)?, &[self.format.testing])
    }
}

impl Cifar {
    /// The folder that holds the files.
    fn folder(&self, directory: &Path) -> anyhow::Result<PathBuf> {
        let path = resolve(directory, &self.path);
        let (shown, format) = (path.display(), self.format);
        for folder in [path.join(format.folder), path.clone()] {
            let has = |name: &&str| folder.join(name).exists();
            if format.training.iter().chain([&format.testing]).any(has) {
                return Ok(folder);
            }
        }
        let found = if !path.exists() {
            "found nothing there"
        } else if format.python.iter().any(|name| path.join(name).exists()) {
            "found its Python version"
        } else if path.join(format.archive).exists() {
            "found its archive, not unpacked"
        } else {
            "found none of its files"
        };
        bail!(
            "{shown}: expected the folder `{}` or one that holds it, {found}; it is the \"binary \
             version\" on https://www.cs.toronto.edu/~kriz/cifar.html, and `eas data fetch {}` fetches it",
            format.folder,
            format.plugin
        )
    }
}

impl Format {
    /// Bytes of a record.
    fn record(&self) -> usize {
        self.labels + PIXELS
    }

    /// How many records a file has by its length.
    fn records(&self, path: &Path) -> anyhow::Result<usize> {
        let shown = path.display();
        let found = fs::metadata(path).with_context(|| {
            format!("{shown}: expected a file of {} (binary version)", self.name)
        })?;
        ensure!(found.is_file(), "{shown}: expected a file");
        self.whole_records(path, found.len())
    }

    /// The records of so many bytes.
    fn whole_records(&self, path: &Path, length: u64) -> anyhow::Result<usize> {
        let (shown, record, name) = (path.display(), self.record() as u64, self.name);
        ensure!(length > 0, "{shown}: expected records of {record} bytes, found an empty file");
        let most = self.most_records as u64 * record;
        ensure!(
            length <= most,
            "{shown}: expected at most {} records, {most} bytes, found {length} bytes",
            self.most_records
        );
        let over = length % record;
        ensure!(
            over == 0,
            "{shown}: byte {}: expected a record of {record} bytes, found {over} up to the end; the \
             file is cut short or no {name} batch",
            length - over
        );
        Ok((length / record) as usize)
    }

    fn read(&self, folder: &Path, files: &[&str]) -> anyhow::Result<Labelled> {
        let mut count = 0;
        for name in files {
            count += self.records(&folder.join(name))?;
        }
        let mut pixels = Vec::with_capacity(count * PIXELS);
        let mut labels = Vec::with_capacity(count);
        let mut bytes = Vec::new();
        for name in files {
            let path = folder.join(name);
            let what = format!("a file of {} (binary version)", self.name);
            bytes.clear();
            // One byte more than there may be, so that a file that grew meanwhile is noticed.
            let most = (self.most_records * self.record()) as u64 + 1;
            open(&path, &what)?
                .take(most)
                .read_to_end(&mut bytes)
                .with_context(|| format!("{}: expected {what}", path.display()))?;
            self.whole_records(&path, bytes.len() as u64)?;
            self.parse(&path.display().to_string(), &bytes, &mut pixels, &mut labels)?;
        }
        Labelled::new(SHAPE, names(self.classes), pixels, labels)
    }

    /// Adds the images and labels of whole records.
    fn parse(
        &self,
        shown: &str,
        bytes: &[u8],
        pixels: &mut Vec<u8>,
        labels: &mut Vec<u8>,
    ) -> anyhow::Result<()> {
        for (index, record) in bytes.chunks_exact(self.record()).enumerate() {
            let (label, last) = (record[self.labels - 1], self.classes.len() - 1);
            ensure!(
                usize::from(label) <= last,
                "{shown}: byte {}: expected a label from 0 to {last}, found {label}",
                index * self.record() + self.labels - 1
            );
            labels.push(label);
            pixels.extend_from_slice(&record[self.labels..]);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;

    use super::*;

    const FOLDER: &str = "cifar-10-batches-bin";
    const RECORD: usize = 1 + PIXELS;

    /// A folder `cifar-10-batches-bin` of six files of `records` images each; image `i` of file `f`
    /// shows class `(i + f) % 10`, and pixel `p` of it is `p + 7 i + f`, modulo 256.
    fn fake(records: usize) -> tempfile::TempDir {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join(FOLDER);
        fs::create_dir(&folder).unwrap();
        for (file, name) in CIFAR10.training.iter().chain([&CIFAR10.testing]).enumerate() {
            let mut bytes = Vec::new();
            for image in 0..records {
                bytes.push(((image + file) % 10) as u8);
                bytes.extend((0..PIXELS).map(|place| (place + 7 * image + file) as u8));
            }
            fs::write(folder.join(name), bytes).unwrap();
        }
        parent
    }

    fn cifar10(path: impl Into<PathBuf>) -> Cifar {
        let options = DataOptions { validation: 5000, train: None, augment: Augment::default() };
        Cifar { format: &CIFAR10, path: path.into(), options }
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
                 it is the \"binary version\" on https://www.cs.toronto.edu/~kriz/cifar.html, and \
                 `eas data fetch cifar10` fetches it"
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
