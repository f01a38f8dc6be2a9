//! What the targets share.
//!
//! A target reads bytes as one kind of file that EAS gets from others, holds what could be read against a
//! law, and panics where that is broken. What has several files is one input, split at [`SEPARATOR`].

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use eas_ir::{Metadata, Model, Network, Normalisation, Op, Probe, Rng, SavedModel, Shape};
use eas_train::DataSource;
use flate2::Compression;
use flate2::write::GzEncoder;
use ndarray::{Array2, Array4};

/// Between two files of one input.
pub const SEPARATOR: &[u8] = b"\n%%\n";

/// The files of a run that the target of that name has in an input, the index last.
pub const RUN_FILES: [&str; 7] = [
    "trials/0000/trial.json",
    "trials/0000/result.json",
    "trials/0001/trial.json",
    "trials/0001/result.json",
    "events.jsonl",
    "report.json",
    "index.sqlite",
];

/// A folder of this process, in the system's folder of temporary files: `fuzz/run` has that in memory,
/// and removes it.
pub fn folder() -> &'static Path {
    static FOLDER: LazyLock<PathBuf> =
        LazyLock::new(|| tempfile::tempdir().expect("a temporary folder").keep());
    &FOLDER
}

/// An input's files; those that it doesn't have are empty.
pub fn files<const N: usize>(bytes: &[u8]) -> [&[u8]; N] {
    let mut rest = bytes;
    std::array::from_fn(|place| {
        let end = rest.windows(SEPARATOR.len()).position(|found| found == SEPARATOR);
        match end.filter(|_| place + 1 < N) {
            Some(end) => {
                let file = &rest[..end];
                rest = &rest[end + SEPARATOR.len()..];
                file
            }
            None => std::mem::take(&mut rest),
        }
    })
}

/// Writes a file of [`folder`], and makes its folders where they are missing.
pub fn write(name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder().join(name);
    fs::create_dir_all(path.parent().expect("a file is in a folder")).expect("a folder");
    fs::write(&path, bytes).expect("a file in memory");
    path
}

/// Bytes as a `.gz`, whose sums no fuzzer finds by itself.
pub fn gz(bytes: &[u8]) -> Vec<u8> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::new(1));
    packed.write_all(bytes).and_then(|()| packed.finish()).expect("memory takes all bytes")
}

/// A registered data set with these options.
pub fn data(name: &str, options: &str) -> anyhow::Result<Box<dyn DataSource>> {
    let table = toml::de::DeTable::parse(options)?;
    let (span, table) = (table.span(), table.into_inner());
    let value = toml::Spanned::new(span, toml::de::DeValue::Table(table));
    Ok(eas_train::data_sets()?.get(name)?.build(value)?.implementation)
}

/// The data set of this name in [`folder`], read in whole: what it says of itself before is what is read,
/// and where it can't say anything, one of its parts can't be read.
pub fn read(name: &str, path: &str) {
    let source = data(name, &format!("path = \"{path}\"")).expect("options of a data set");
    let described = source.describe(folder());
    let (train, test) = (source.train(folder()), source.test(folder()));
    let Ok(images) = train else { return };
    let Ok(described) = described else {
        assert!(test.is_err(), "what can be read can be described");
        return;
    };
    if let Ok(test) = test {
        assert_eq!(described.test_images, test.len());
    }
    assert_eq!((described.shape, described.images), (images.shape(), images.len()));
    assert_eq!(described.classes, images.classes());
    assert!((0..images.len()).all(|image| images.label(image) < images.classes().len()));
}

/// A small network with every kind of parameter.
pub fn network() -> Network {
    let mut network = Network::new();
    let image = Shape::Image { channels: 2, height: 3, width: 3 };
    let mut tip = network.push(Op::Input { shape: image }, &[], None);
    let classifier = Op::Linear { units: 3, bias: true };
    for op in [Op::conv(2, 3), Op::batch_norm(), Op::Relu, Op::GlobalPool, classifier] {
        tip = network.push(op, &[tip], None);
    }
    network
}

/// A model of [`network`] with everything that one has.
pub fn model() -> SavedModel {
    let metadata = Metadata {
        classes: ["cat", "dog", "ship"].map(str::to_owned).to_vec(),
        normalisation: Some(Normalisation { mean: vec![0.5; 2], deviation: vec![0.25; 2] }),
        probe: Some(Probe {
            images: Array4::from_elem((2, 2, 3, 3), 7),
            logits: Array2::from_elem((2, 3), 0.5),
        }),
        ..Metadata::default()
    };
    let model = Model::initialise(network(), &Rng::new(1)).expect("a network");
    SavedModel { model, metadata }
}

/// A safetensors file of a header and what follows it, with the length that a fuzzer has to guess
/// otherwise; as it is where the first byte says so.
pub fn safetensors(bytes: &[u8]) -> Vec<u8> {
    match bytes.split_first() {
        Some((b'=', rest)) => rest.to_vec(),
        _ => {
            let [header, values] = files(bytes);
            let length = (header.len() as u64).to_le_bytes();
            [&length, header, values].concat()
        }
    }
}
