//! CIFAR-10 in its binary form (Krizhevsky 2009): a record is a label byte and 3072 pixel bytes, red,
//! green and blue planes of 32×32.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use eas_ir::{Built, Plugin, Shape, parse_options, resolved_options};
use serde::{Deserialize, Serialize};

use super::{Augment, DataOptions, DataPlugin, DataSource, Labelled, resolve};

const FOLDER: &str = "cifar-10-batches-bin";
const PIXELS: usize = 3 * 32 * 32;
const CLASSES: [&str; 10] = [
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
];

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
    fn shape(&self) -> Shape {
        Shape::Image { channels: 3, height: 32, width: 32 }
    }

    fn classes(&self) -> Vec<String> {
        CLASSES.map(str::to_owned).to_vec()
    }

    fn options(&self) -> DataOptions {
        DataOptions { validation: self.validation, train: self.train, augment: self.augment }
    }

    fn path(&self) -> Option<&Path> {
        Some(&self.path)
    }

    fn train(&self, directory: &Path) -> anyhow::Result<Labelled> {
        let names: Vec<String> = (1..=5).map(|part| format!("data_batch_{part}.bin")).collect();
        read(&self.folder(directory)?, &names)
    }

    fn test(&self, directory: &Path) -> anyhow::Result<Labelled> {
        read(&self.folder(directory)?, &["test_batch.bin".to_owned()])
    }
}

impl Cifar10 {
    fn folder(&self, directory: &Path) -> anyhow::Result<PathBuf> {
        let path = resolve(directory, &self.path);
        let folder = if path.join(FOLDER).is_dir() { path.join(FOLDER) } else { path };
        ensure!(
            folder.is_dir(),
            "{}: expected the folder `{FOLDER}` or one that holds it; get the \"binary version\" from \
             https://www.cs.toronto.edu/~kriz/cifar.html and unpack it there",
            folder.display()
        );
        Ok(folder)
    }
}

fn read(folder: &Path, names: &[String]) -> anyhow::Result<Labelled> {
    const RECORD: usize = PIXELS + 1;
    const LONGEST: u64 = 1 << 30;
    let (mut pixels, mut labels) = (Vec::new(), Vec::new());
    for name in names {
        let path = folder.join(name);
        let shown = path.display();
        let length = fs::metadata(&path).with_context(|| format!("{shown}"))?.len();
        ensure!(length <= LONGEST, "{shown}: expected at most {LONGEST} bytes, found {length}");
        let bytes = fs::read(&path).with_context(|| format!("{shown}"))?;
        ensure!(
            !bytes.is_empty() && bytes.len() % RECORD == 0,
            "{shown}: expected records of {RECORD} bytes, found {} bytes: {} whole records and {} \
             bytes over; the file is cut short or no CIFAR-10 batch",
            bytes.len(),
            bytes.len() / RECORD,
            bytes.len() % RECORD
        );
        for (index, record) in bytes.chunks_exact(RECORD).enumerate() {
            if usize::from(record[0]) >= CLASSES.len() {
                let offset = index * RECORD;
                bail!("{shown}: byte {offset}: expected a label from 0 to 9, found {}", record[0]);
            }
            labels.push(record[0]);
            pixels.extend_from_slice(&record[1..]);
        }
    }
    Labelled::new(pixels, labels, (3, 32, 32))
}
