//! Damaged and malicious files give an error that says what is wrong: no panic, and no allocation of
//! what a file merely claims.

use std::fs::{self, File};
use std::panic::catch_unwind;
use std::path::Path;

use eas_ir::{Fit, LoadError, Metadata, Network, Normalisation, Op, Probe, Rng, SavedModel, Shape};
use ndarray::{Array2, Array4};

use crate::allocations::largest_allocation;
use crate::networks::random_model;

const NETWORK: &str = "network.toml";
const WEIGHTS: &str = "weights.safetensors";

/// Loads a folder, holding the largest allocation against what the folder's files really hold: the
/// TOML parser keeps some dozens of bytes for each byte that is a token of its own.
fn load(folder: &Path) -> Result<SavedModel, LoadError> {
    let size = |name: &str| fs::metadata(folder.join(name)).map_or(0, |found| found.len() as usize);
    let (text, weights) = (size(NETWORK), size(WEIGHTS));
    let (loaded, largest) = largest_allocation(|| SavedModel::load(folder));
    let bound = 64 * text + 4 * weights + 8192;
    assert!(
        largest <= bound,
        "allocated {largest} bytes at once for files of {text} and {weights}"
    );
    loaded
}

/// Writes a file anew: a file that is overwritten in place is flushed to the disk by some systems,
/// which takes long for thousands.
fn write(path: impl AsRef<Path>, content: impl AsRef<[u8]>) {
    let _ = fs::remove_file(&path);
    fs::write(path, content).unwrap();
}

fn check(folder: &Path, expected: &str) {
    let error = load(folder).expect_err(expected).to_string();
    assert!(error.contains(expected), "expected `{expected}`, found `{error}`");
    assert!(error.len() < 10_000, "a message of {} bytes", error.len());
}

/// A model with every kind of content a folder can have.
fn full_model() -> SavedModel {
    let rng = &mut Rng::new(1);
    let mut network = Network::new();
    let image = Shape::Image { channels: 2, height: 3, width: 3 };
    let mut tip = network.push(Op::Input { shape: image }, &[], None);
    let classifier = Op::Linear { units: 3, bias: true };
    for op in [Op::conv(2, 3), Op::batch_norm(), Op::Relu, Op::GlobalPool, classifier] {
        tip = network.push(op, &[tip], None);
    }
    let metadata = Metadata {
        classes: ["cat", "dog", "ship"].map(str::to_owned).to_vec(),
        normalisation: Some(Normalisation { mean: vec![0.5; 2], deviation: vec![0.25; 2] }),
        fit: Fit::Stretch,
        probe: Some(Probe {
            images: Array4::from_elem((2, 2, 3, 3), 7),
            logits: Array2::from_elem((2, 3), 0.5),
        }),
    };
    SavedModel { model: random_model(network, rng), metadata }
}

#[test]
fn a_wrong_network_file_is_refused_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model");
    full_model().save(&path).unwrap();
    let text = fs::read_to_string(path.join(NETWORK)).unwrap();
    let deep = 100_000;
    let cases = [
        (
            "filters = 2",
            "filters = 1000000000".into(),
            "n1: conv: filters must be between 1 and 1048576, found 1000000000",
        ),
        ("filters = 2", "filters = 1000000".into(), "n1.weight: expected shape [1000000, 2, 3, 3]"),
        ("filters = 2", "filters = 99999999999999999999".into(), "network.toml:18:27: "),
        ("filters = 2", "filters = -2".into(), "expected usize"),
        ("filters = 2", "filters = 2.0".into(), "expected usize"),
        ("filters = 2, ", String::new(), "missing field `filters`"),
        (
            "filters = 2",
            "filters = 2, colour = 3".into(),
            "network.toml:18:30: unexpected keys in table: colour",
        ),
        (
            "filters = 2",
            "filters = 3".into(),
            "n1.weight: expected shape [3, 2, 3, 3], found [2, 2, 3, 3]",
        ),
        (
            "channels = 2",
            "channels = 1048576".into(),
            "n1.weight: expected shape [2, 1048576, 3, 3]",
        ),
        ("height = 3", "height = 1048576".into(), "the probe of shape [2, 2, 3, 3]"),
        (
            "epsilon = ",
            "epsilon = nan } } # ".into(),
            "n2: batch_norm: epsilon must be positive and finite, found NaN",
        ),
        ("conv = {", "convolution = {".into(), "unknown variant `convolution`"),
        ("\"relu\"", "\"softmax\"".into(), "unknown variant `softmax`"),
        (
            "inputs = [\"n1\"]",
            "inputs = [\"n4\"]".into(),
            "n2: input n4 doesn't come before it (a cycle",
        ),
        (
            "inputs = [\"n1\"]",
            "inputs = [\"n77\"]".into(),
            "n2: input n77 isn't a node of the network",
        ),
        (
            "inputs = [\"n1\"]",
            "inputs = [\"1\"]".into(),
            "expected a node id such as `n3`, found `1`",
        ),
        ("id = \"n2\"", "id = \"n1\"".into(), "n1: this id stands twice"),
        ("id = \"n2\"", "id = \"n02\"".into(), "expected a node id such as `n3`, found `n02`"),
        ("id = \"n2\"", "id = \"n99999999999\"".into(), "expected a node id"),
        (
            "format = 1",
            "format = 2\ncolour = 3".into(),
            "expected format 1 or older, found 2: a newer version",
        ),
        ("format = 1\n", String::new(), "missing field `format`"),
        ("format = 1", "format = \"1\"".into(), "network.toml:1:10: invalid type"),
        ("format = 1", "format = 1\nformat = 1".into(), "duplicate key"),
        ("next = 6", "next = 4000000000".into(), "expected a next id of at most 2147483648"),
        ("next = 6", "next = 5000000000".into(), "expected u32"),
        (
            "[\"cat\", \"dog\", \"ship\"]",
            "[\"cat\"]".into(),
            "metadata.classes: expected 3 names, found 1",
        ),
        (
            "[\"cat\"",
            format!("[\"cat\"{}", ", \"cat\"".repeat(deep)),
            "metadata.classes: expected 3 names, found 100003",
        ),
        ("[\"cat\"", "[1".into(), "expected a string"),
        (
            "mean = [0.5, 0.5]",
            "mean = [0.5]".into(),
            "expected 2 means and deviations, found 1 and 2",
        ),
        ("mean = [0.5, 0.5]", "mean = [0.5, nan]".into(), "expected finite means"),
        ("deviation = [0.25", "deviation = [-0.25".into(), "positive deviations"),
        ("deviation = [0.25", "deviation = [inf".into(), "positive deviations"),
        ("[metadata]", "[metadata]\ncolour = 3".into(), "unknown field `colour`"),
        ("[metadata]", "[metadata".into(), "network.toml:4:"),
        ("[metadata]", format!("x = {}", "[".repeat(deep)), "network.toml:4:"),
        ("[metadata]", format!("x = {}", "{a=".repeat(deep)), "network.toml:4:"),
        ("[metadata]", format!("{}a = 1", "a.".repeat(deep)), "recursion limit"),
        ("[metadata]", format!("[{}a]", "a.".repeat(deep)), "recursion limit"),
        ("[metadata]", format!("{} = 1\n[metadata]", "a".repeat(deep)), "unknown field `aaa"),
    ];
    for (from, to, expected) in cases {
        assert_eq!(text.matches(from).count(), 1, "{from}\n{text}");
        write(path.join(NETWORK), text.replacen(from, &to, 1));
        check(&path, expected);
    }
    for (content, expected) in [
        (&b""[..], "missing field `format`"),
        (b"format = 1", "not a network: expected between 1 and 10000 nodes, found 0"),
        (b"format = 1\nx = \xff\xfe", "network.toml:2:5: expected text in UTF-8"),
        (b"\0\0\0\0", "network.toml:1:5: "),
    ] {
        write(path.join(NETWORK), content);
        check(&path, expected);
    }
    let nodes = "\n[[node]]\nid = \"n0\"\nop = \"relu\"\n".repeat(20_000);
    write(path.join(NETWORK), format!("format = 1\n{nodes}"));
    check(&path, "expected between 1 and 10000 nodes, found 20000");
    let node = "\n[[node]]\nid = \"n0\"\nop = \"relu\"\n";
    let inputs = "\"n7\", ".repeat(100_000);
    write(path.join(NETWORK), format!("format = 1\n{node}inputs = [{inputs}]"));
    check(&path, "n0: input n7 isn't a node of the network; ");
    for end in 0..text.trim_end().len() {
        write(path.join(NETWORK), &text[..end]);
        assert!(load(&path).is_err(), "the text's first {end} bytes are no model");
    }
}

/// A safetensors file of this header and these numbers.
fn safetensors(header: &str, data: &[f32]) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(data.iter().flat_map(|value| value.to_le_bytes()));
    bytes
}

/// A folder whose network has one parameter, `n1.weight` of shape [1, 2].
fn linear_folder(folder: &Path) {
    let mut network = Network::new();
    let input = network.push(Op::Input { shape: Shape::Flat { features: 2 } }, &[], None);
    network.push(Op::Linear { units: 1, bias: false }, &[input], None);
    write(folder.join(NETWORK), network.to_toml());
}

#[test]
fn a_wrong_weight_file_is_refused_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    linear_folder(folder);
    let entry = |name: &str, dtype: &str, shape: &str, from: u64, to: u64| {
        format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{from},{to}]}}"#)
    };
    let weight = entry("n1.weight", "F32", "[1,2]", 0, 8);
    let with = |more: String| format!("{{{weight},{more}}}");
    let alone = |entry: String| format!("{{{entry}}}");
    write(folder.join(WEIGHTS), safetensors(&alone(weight.clone()), &[1.0, 2.0]));
    load(folder).unwrap();

    let two = &[1.0, 2.0][..];
    let four = &[1.0, 2.0, 3.0, 4.0][..];
    let damaged = "weights.safetensors: not a safetensors file: ";
    let cases = [
        ("{}".to_owned(), &[][..], "n1.weight: expected weights of shape [1, 2], found none"),
        (
            with(entry("n9.weight", "F32", "[2]", 8, 16)),
            four,
            "n9.weight: the network has no such parameter",
        ),
        (
            with(entry("colour", "F32", "[2]", 8, 16)),
            four,
            "tensor `colour`: expected a parameter such as `n3.weight`",
        ),
        (
            with(
                [entry("zebra", "F32", "[1]", 8, 12), entry("colour", "F32", "[1]", 12, 16)]
                    .join(","),
            ),
            four,
            "tensor `colour`: ",
        ),
        (
            with(entry("n01.weight", "F32", "[1,2]", 8, 16)),
            four,
            "tensor `n01.weight`: expected a parameter",
        ),
        (with(entry("n1.weight", "F32", "[1,2]", 8, 16)), four, damaged),
        (
            alone(entry("n1.weight", "F32", "[2,1]", 0, 8)),
            two,
            "n1.weight: expected shape [1, 2], found [2, 1]",
        ),
        (
            alone(entry("n1.weight", "F32", "[2]", 0, 8)),
            two,
            "n1.weight: expected shape [1, 2], found [2]",
        ),
        (
            alone(entry("n1.weight", "F32", "[]", 0, 4)),
            &[1.0],
            "n1.weight: expected shape [1, 2], found []",
        ),
        (
            alone(entry("n1.weight", "F64", "[1,1]", 0, 8)),
            two,
            "tensor `n1.weight`: expected F32 values, found F64",
        ),
        (alone(entry("n1.weight", "F16", "[1,2]", 0, 4)), &[1.0], "expected F32 values, found F16"),
        (alone(entry("n1.weight", "F99", "[1,2]", 0, 8)), two, damaged),
        (
            alone(weight.clone()),
            &[f32::NAN, 0.0],
            "n1.weight: expected finite values, found NaN at position 0",
        ),
        (alone(weight.clone()), &[0.0, f32::NEG_INFINITY], "found -inf at position 1"),
        (alone(weight.clone()), &[0.0], damaged),
        (alone(weight.clone()), four, damaged),
        (alone(entry("n1.weight", "F32", "[1,1099511627776]", 0, 1 << 42)), two, damaged),
        (alone(entry("n1.weight", "F32", "[1,2]", 0, u64::MAX)), two, damaged),
        (alone(entry("n1.weight", "F32", "[1,2]", 8, 0)), two, damaged),
        (alone(entry("n1.weight", "F32", "[-1,-2]", 0, 8)), two, damaged),
        (
            alone(entry("n1.weight", "F32", "[4294967296,4294967296,4294967296]", 0, 8)),
            two,
            damaged,
        ),
        // No numbers, but sides whose product overflows.
        (
            alone(entry("n1.weight", "F32", "[0,4294967296,4294967296,4294967296]", 0, 0)),
            &[],
            "tensor `n1.weight`: the shape [0, 4294967296, 4294967296, 4294967296] doesn't fit",
        ),
        (
            alone(entry("probe.images", "U8", "[0,4294967296,4294967296,4294967296]", 0, 0)),
            &[],
            "tensor `probe.images`: the shape",
        ),
        (
            with(entry("probe.images", "U8", "[4,2,1,1]", 8, 16)),
            four,
            "tensor `probe.logits`: missing beside probe.images",
        ),
        (
            with(entry("probe.logits", "F32", "[2,1]", 8, 16)),
            four,
            "tensor `probe.images`: missing beside probe.logits",
        ),
        (
            with(entry("probe.images", "U8", "[4,2]", 8, 16)),
            four,
            "tensor `probe.images`: the shape [4, 2] doesn't fit",
        ),
        (
            with(entry("probe.images", "F32", "[1,2,1,1]", 8, 16)),
            four,
            "expected U8 values, found F32",
        ),
        (
            with(entry("probe.logits", "F32", "[2]", 8, 16)),
            four,
            "tensor `probe.logits`: the shape [2] doesn't fit",
        ),
        ("{".repeat(100_000), two, damaged),
        (format!(r#"{{"{}":1}}"#, "a".repeat(100_000)), two, damaged),
        (String::new(), &[], damaged),
    ];
    for (header, data, expected) in cases {
        write(folder.join(WEIGHTS), safetensors(&header, data));
        check(folder, expected);
    }
    let probes = [
        (
            "[1,2,1,1]",
            2,
            "[2,1]",
            [0.0, 0.0],
            "the probe of shape [1, 2, 1, 1] with logits [2, 1] doesn't fit",
        ),
        ("[2,1,1,1]", 2, "[2,1]", [0.0, 0.0], "the probe of shape [2, 1, 1, 1] with"),
        ("[2,2,1,1]", 4, "[1,2]", [0.0, 0.0], "the probe of shape [2, 2, 1, 1] with"),
        ("[2,2,1,1]", 4, "[2,1]", [0.0, f32::NAN], "the probe: expected finite logits"),
    ];
    for (images, length, logits, values, expected) in probes {
        let images = entry("probe.images", "U8", images, 16, 16 + length);
        let header = with([entry("probe.logits", "F32", logits, 8, 16), images].join(","));
        let mut file = safetensors(&header, &[&[1.0, 2.0], &values[..]].concat());
        file.extend(vec![0; length as usize]);
        write(folder.join(WEIGHTS), file);
        check(folder, expected);
    }
    let empty = [
        entry("probe.images", "U8", "[0,2,1,1]", 8, 8),
        entry("probe.logits", "F32", "[0,1]", 8, 8),
    ];
    write(folder.join(WEIGHTS), safetensors(&with(empty.join(",")), two));
    check(folder, "the probe of shape [0, 2, 1, 1] with");
    // Header lengths of a terabyte, of all there is, and of a little more than the file.
    for length in [1 << 40, u64::MAX, 17] {
        let mut file = length.to_le_bytes().to_vec();
        file.extend([b' '; 16]);
        write(folder.join(WEIGHTS), file);
        check(folder, damaged);
    }
}

#[test]
fn a_negative_variance_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model");
    full_model().save(&path).unwrap();
    let mut bytes = fs::read(path.join(WEIGHTS)).unwrap();
    let saved = full_model();
    let variance = saved.model.values("n2.variance".parse().unwrap()).unwrap();
    let pattern: Vec<u8> = variance.iter().flat_map(|value| value.to_le_bytes()).collect();
    let place = bytes.windows(8).position(|window| window == pattern).unwrap();
    // The sign of a float is the highest bit of its last byte.
    bytes[place + 7] ^= 0x80;
    write(path.join(WEIGHTS), bytes);
    check(&path, "n2.variance: expected finite variances of at least 0, found -");
}

#[test]
fn every_truncation_of_the_weights_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model");
    full_model().save(&path).unwrap();
    let bytes = fs::read(path.join(WEIGHTS)).unwrap();
    for end in 0..bytes.len() {
        write(path.join(WEIGHTS), &bytes[..end]);
        check(&path, "not a safetensors file");
    }
}

#[test]
fn what_is_no_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    check(&folder.path().join("missing"), "missing/network.toml: No such file or directory");
    let not_a_file = "expected a file, found a folder or device";
    for name in [NETWORK, WEIGHTS] {
        let path = folder.path().join(name);
        full_model().save(&path).unwrap();
        fs::remove_file(path.join(name)).unwrap();
        check(&path, &format!("{name}: No such file or directory"));
        fs::create_dir(path.join(name)).unwrap();
        check(&path, &format!("{name}: {not_a_file}"));
        fs::remove_dir(path.join(name)).unwrap();
        // A sparse file longer than any real one takes no room on the disk.
        File::create(path.join(name)).unwrap().set_len(11 << 30).unwrap();
        let error = SavedModel::load(&path).unwrap_err().to_string();
        assert!(error.contains("bytes, found 11811160064"), "{error}");
        fs::remove_file(path.join(name)).unwrap();
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink("/dev/zero", path.join(name)).unwrap();
            check(&path, &format!("{name}: {not_a_file}"));
        }
    }
}

/// Changes some bytes: flips, overwrites, removes, inserts, repeats, or makes a number huge.
pub(crate) fn mutate(bytes: &mut Vec<u8>, rng: &mut Rng) {
    for _ in 0..1 + rng.below(4) {
        let place = rng.below(bytes.len().max(1));
        let end = (place + 1 + rng.below(16)).min(bytes.len());
        match rng.below(7) {
            0 if place < bytes.len() => bytes[place] ^= 1 << rng.below(8),
            1 if place < bytes.len() => bytes[place] = rng.next_u32() as u8,
            2 => bytes.truncate(place),
            3 => drop(bytes.drain(place.min(end)..end)),
            4 => drop(bytes.splice(place..place, (0..4).map(|_| rng.next_u32() as u8))),
            5 => {
                let piece = bytes[place.min(end)..end].to_vec();
                let target = rng.below(bytes.len() + 1);
                drop(bytes.splice(target..target, piece));
            }
            _ => {
                if let Some(digit) = bytes[place..].iter().position(u8::is_ascii_digit) {
                    let number = ["0", "-1", "1048576", "999999999", "4294967295", "1e30", "nan"];
                    let digit = place + digit;
                    drop(bytes.splice(digit..=digit, number[rng.below(7)].bytes()));
                }
            }
        }
    }
}

#[test]
fn random_damage_never_panics_and_never_allocates_more_than_the_files_hold() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model");
    full_model().save(&path).unwrap();
    let (mut loaded, mut refused) = (0, 0);
    for name in [NETWORK, WEIGHTS] {
        let original = fs::read(path.join(name)).unwrap();
        for seed in 0..4_000 {
            let mut bytes = original.clone();
            mutate(&mut bytes, &mut Rng::new(seed));
            write(path.join(name), bytes);
            match catch_unwind(|| load(&path)).unwrap_or_else(|_| panic!("{name}, seed {seed}")) {
                Ok(_) => loaded += 1,
                Err(error) => {
                    refused += 1;
                    let length = error.to_string().len();
                    assert!(length < 10_000, "{name}, seed {seed}: a message of {length} bytes");
                }
            }
        }
        write(path.join(name), original);
    }
    assert!(loaded > 100 && refused > 5_000, "damage too weak or too strong: {loaded}, {refused}");
}
