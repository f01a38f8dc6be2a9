//! Every format as reference tools write it, and what must not be taken for one.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, Read, Write};
use std::path::{Path, PathBuf};

use eas_ir::Shape;
use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};

use super::files::Stream;
use super::laws::build;
use super::*;

/// Files that `make.py` wrote with NumPy, SciPy and Pillow.
fn written() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data")
}

/// A copy of files that a test may damage.
fn copy(from: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(written().join(from)).unwrap() {
        let (path, name) = (entry.as_ref().unwrap().path(), entry.unwrap().file_name());
        let mut bytes = fs::read(path).unwrap();
        let mut name = name.into_string().unwrap();
        if let (true, Some(plain)) = (from == "cifar100", name.strip_suffix(".gz")) {
            let mut records = Vec::new();
            flate2::read::GzDecoder::new(&bytes[..]).read_to_end(&mut records).unwrap();
            (bytes, name) = (records, plain.to_owned());
        }
        fs::write(folder.path().join(name), bytes).unwrap();
    }
    folder
}

fn source(name: &str, path: &Path) -> Box<dyn DataSource> {
    let cache = if name == "folder" { "size = 16\ncache = false\n" } else { "" };
    build(name, &format!("{cache}path = {}", toml::Value::from(path.to_str().unwrap()))).unwrap()
}

fn crc32(pixels: &[u8]) -> u64 {
    let mut crc = flate2::Crc::new();
    crc.update(pixels);
    crc.sum().into()
}

#[test]
fn what_reference_tools_wrote_is_read_pixel_by_pixel() {
    let text = fs::read_to_string(written().join("expected.json")).unwrap();
    let expected: serde_json::Value = serde_json::from_str(&text).unwrap();
    let expected = expected.as_object().unwrap();
    assert_eq!(expected.len(), 6);
    for (name, parts) in expected {
        let unpacked = copy(if name == "cifar100" { "cifar100" } else { "idx" });
        let path = match name.as_str() {
            "cifar100" => unpacked.path().to_owned(),
            "npz" => written().join("npz/images.npz"),
            _ => written().join(name),
        };
        let source = source(name, &path);
        let (train, test) = (source.train(Path::new("")), source.test(Path::new("")));
        let said = source.describe(Path::new("")).unwrap().test_images;
        assert_eq!(said, test.as_ref().unwrap().len(), "{name}");
        for (part, found) in [("train", train.unwrap()), ("test", test.unwrap())] {
            let (expected, why) = (&parts[part], format!("{name}, {part}"));
            let Shape::Image { channels, height, width } = found.shape() else { panic!("{why}") };
            let shape = serde_json::json!([found.len(), channels, height, width]);
            assert_eq!(shape, expected["shape"], "{why}");
            let labels: Vec<usize> = (0..found.len()).map(|image| found.label(image)).collect();
            assert_eq!(serde_json::json!(labels), expected["labels"], "{why}");
            let pixels: Vec<u8> =
                (0..found.len()).flat_map(|image| found.image(image).to_vec()).collect();
            assert_eq!(crc32(&pixels), expected["crc32"].as_u64().unwrap(), "{why}");
            if part == "train" {
                let says = source.describe(Path::new("")).unwrap();
                assert_eq!((says.shape, says.images), (found.shape(), found.len()), "{why}");
                assert_eq!(says.classes, found.classes(), "{why}");
            }
        }
    }
}

#[test]
fn debians_fashion_mnist_is_the_published_data_set() {
    let path = Path::new("/usr/share/datasets/fashion-mnist");
    let path = std::env::var_os("EAS_FASHION_MNIST").map_or(path.to_owned(), PathBuf::from);
    if !path.exists() {
        // Past the harness's capture, so that a run shows what it left out.
        let why = "skipped: neither Debian's dataset-fashion-mnist nor EAS_FASHION_MNIST is there";
        writeln!(std::io::stderr(), "{why}").unwrap();
        return;
    }
    let source = source("fashion_mnist", &path);
    let (train, test) = (source.train(Path::new("")).unwrap(), source.test(Path::new("")).unwrap());
    assert_eq!((train.class_counts(), test.class_counts()), (vec![6000; 10], vec![1000; 10]));
    // The first training image is an ankle boot, and the first test image too.
    assert_eq!((&train.classes()[train.label(0)][..], test.label(0)), ("ankle_boot", 9));
    let all = normalisation_of(&Split::all(train));
    assert!((all.mean[0] - 0.2860).abs() < 1e-4 && (all.deviation[0] - 0.3530).abs() < 1e-4);
}

/// The message of reading training images, with `DIR` for the folder.
fn message(name: &str, folder: &tempfile::TempDir, file: &str) -> String {
    let path = folder.path().join(file);
    let error = source(name, &path).train(Path::new("")).unwrap_err();
    format!("{error:#}").replace(&folder.path().display().to_string(), "DIR")
}

fn check(name: &str, file: &str, damage: impl FnOnce(&Path), expected: &str) {
    let folder = copy(name);
    damage(&folder.path().join(file));
    let within = if name == "npz" { "images.npz" } else { "" };
    let found = message(name, &folder, within);
    assert_eq!(found, expected, "{name}: {file}");
}

fn overwrite(at: usize, bytes: &[u8]) -> impl FnOnce(&Path) {
    move |path| {
        let mut found = fs::read(path).unwrap();
        found[at..at + bytes.len()].copy_from_slice(bytes);
        fs::write(path, found).unwrap();
    }
}

fn truncate(length: u64) -> impl FnOnce(&Path) {
    move |path| fs::File::options().write(true).open(path).unwrap().set_len(length).unwrap()
}

#[test]
fn hostile_idx_files_are_refused_by_name_and_byte() {
    let images = "train-images-idx3-ubyte";
    for (file, damage, expected) in [
        (
            images,
            Box::new(truncate(100)) as Box<dyn FnOnce(&Path)>,
            "DIR/train-images-idx3-ubyte: byte 16: expected 378 bytes of pixels, found 84 up to the end",
        ),
        (
            images,
            Box::new(overwrite(4, &[255; 4])),
            "DIR/train-images-idx3-ubyte: byte 16: expected 1 to 4294967296 pixels in all, found sizes \
             [4294967295, 9, 7]",
        ),
        (
            images,
            Box::new(overwrite(4, &[0; 4])),
            "DIR/train-images-idx3-ubyte: byte 16: expected 1 to 4294967296 pixels in all, found sizes \
             [0, 9, 7]",
        ),
        (
            // Two gigabytes are claimed, and some hundred bytes are there.
            images,
            Box::new(overwrite(4, &[2, 0, 0, 0])),
            "DIR/train-images-idx3-ubyte: byte 16: expected 2113929216 bytes of pixels, found 378 up to \
             the end",
        ),
        (
            images,
            Box::new(overwrite(2, &[13])),
            "DIR/train-images-idx3-ubyte: byte 0: expected 0, 0, 8, 3, the header of u8 values in 3 \
             dimensions, found [0, 0, 13, 3]",
        ),
        (
            images,
            Box::new(overwrite(7, &[5])),
            "DIR/train-images-idx3-ubyte: byte 331: expected the end, found more",
        ),
        (
            "train-labels-idx1-ubyte",
            Box::new(|path: &Path| fs::write(path, [0, 0, 8, 1, 0, 0, 0, 2, 0, 1]).unwrap()),
            "DIR/train-labels-idx1-ubyte: expected 6 labels, as many as images, found 2",
        ),
    ] {
        check("idx", file, damage, expected);
    }
    let bomb = |path: &Path| {
        let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
        packed.write_all(&[0, 0, 8, 3, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 2]).unwrap();
        (0..64).for_each(|_| packed.write_all(&[0; 1 << 20]).unwrap());
        fs::write(path, packed.finish().unwrap()).unwrap();
    };
    let expected = "DIR/train-images-idx3-ubyte.gz: byte 20: expected the end, found more";
    check("mnist", "train-images-idx3-ubyte.gz", bomb, expected);
    let wrong = |path: &Path| {
        let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
        packed.write_all(&[0, 0, 8, 1, 0, 0, 0, 3, 1, 10, 1]).unwrap();
        fs::write(path, packed.finish().unwrap()).unwrap();
    };
    let expected = "DIR/train-labels-idx1-ubyte.gz: byte 9: expected a label below 10, found 10";
    check("mnist", "train-labels-idx1-ubyte.gz", wrong, expected);
}

/// A MAT-file of one array of u8 values, whose values' tag claims this size.
fn mat(name: &[u8], dimensions: &[u32], claimed: u32, values: &[u8], compress: bool) -> Vec<u8> {
    let mut array: Vec<u8> = Vec::new();
    let mut words = |words: &[u32]| array.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    words(&[6, 8, 9, 0, 5, 4 * dimensions.len() as u32]);
    words(dimensions);
    if !dimensions.len().is_multiple_of(2) {
        words(&[0]);
    }
    words(&[1 | 1 << 16, name[0].into(), 2, claimed]);
    array.extend(values);
    let element = |kind: u32, bytes: &[u8]| {
        [&kind.to_le_bytes(), &(bytes.len() as u32).to_le_bytes(), bytes].concat()
    };
    let mut element_of_all = element(14, &array);
    if compress {
        let mut packed = ZlibEncoder::new(Vec::new(), Compression::fast());
        packed.write_all(&element_of_all).unwrap();
        element_of_all = element(15, &packed.finish().unwrap());
    }
    [&[b' '; 124][..], &[0, 1, b'I', b'M'], &element_of_all].concat()
}

#[test]
fn hostile_mat_files_are_refused_by_name_and_byte() {
    let file = "train_32x32.mat";
    let write = |bytes: Vec<u8>| move |path: &Path| fs::write(path, bytes).unwrap();
    let check = |bytes: Vec<u8>, expected: &str| check("svhn", file, write(bytes), expected);
    let two_gigabytes = 699_050 * 3072;
    check(
        mat(b"X", &[32, 32, 3, 699_050], two_gigabytes, &[7; 1000], false),
        "DIR/train_32x32.mat: byte 128: array: byte 56: expected 2147481600 bytes of values, found 1000 \
         up to the end",
    );
    check(
        mat(b"X", &[32, 32, 3, 699_050], two_gigabytes, &[7; 1000], true),
        "DIR/train_32x32.mat: byte 128: unpacked: byte 64: expected 2147481600 bytes of values, found \
         1000 up to the end",
    );
    check(
        mat(b"X", &[32, 32, 3, 1], two_gigabytes, &[7; 3072], true),
        "DIR/train_32x32.mat: byte 128: unpacked: byte 64: expected the values of `X`, [32, 32, 3, 1], \
         at most 4294967296 bytes, found 2147481600 bytes",
    );
    check(
        mat(b"X", &[1 << 31, 1 << 31, 3, 1 << 31], 8, &[7; 8], false),
        "DIR/train_32x32.mat: byte 128: array: byte 56: expected X to be u8 values, [32, 32, 3, 1 to \
         1398101], found [2147483648, 2147483648, 3, 2147483648]",
    );
    check(
        mat(b"X", &[32, 32, 3, 0], 0, &[], false),
        "DIR/train_32x32.mat: byte 128: array: byte 56: expected X to be u8 values, [32, 32, 3, 1 to \
         1398101], found [32, 32, 3, 0]",
    );
    check(
        mat(b"Z", &[1, 1], 1, &[7], false),
        "DIR/train_32x32.mat: byte 185: expected an array `X`, found the end",
    );
    let images = mat(b"X", &[32, 32, 3, 1], 3072, &[7; 3072], false);
    let label = |label| [&images[..], &mat(b"y", &[1, 1], 1, &[label], false)[128..]].concat();
    check(
        label(11),
        "DIR/train_32x32.mat: byte 3264: array: byte 48: label of image 0: expected 1 to 10, found 11",
    );
    check(images.clone(), "DIR/train_32x32.mat: byte 3264: expected an array `y`, found the end");
    check(
        images[..100].to_vec(),
        "DIR/train_32x32.mat: byte 0: expected 128 bytes of a MAT-file's header, found 100 up to the end",
    );
    let mut hdf5 = images.clone();
    hdf5[..10].copy_from_slice(b"MATLAB 7.3");
    hdf5[125] = 2;
    check(
        hdf5,
        "DIR/train_32x32.mat: byte 0: expected a MAT-file of level 5, little-endian, found version 7.3",
    );
}

/// A PNG file that says it is of this size and holds nothing.
fn empty_png(width: u32, height: u32) -> Vec<u8> {
    let header =
        [&b"IHDR"[..], &width.to_be_bytes(), &height.to_be_bytes(), &[8, 2, 0, 0, 0]].concat();
    let crc = crc32(&header) as u32;
    [
        &b"\x89PNG\r\n\x1a\n\0\0\0\x0d"[..],
        &header,
        &crc.to_be_bytes(),
        b"\0\0\0\0IDAT\x35\xaf\x06\x1e",
    ]
    .concat()
}

#[test]
fn hostile_images_are_refused_by_name() {
    for (file, bytes, expected) in [
        (
            "wide.png",
            empty_png(60_000, 60_000),
            "DIR/a/wide.png: byte 0: expected sides of at most 16384 pixels and 536870912 bytes in all, \
             found 60000x60000",
        ),
        ("empty.png", empty_png(20, 20), "DIR/a/empty.png: expected a whole image: "),
        (
            "text.jpg",
            b"not an image".to_vec(),
            "DIR/a/text.jpg: expected a PNG, JPEG or WebP image: ",
        ),
        ("nothing.webp", Vec::new(), "DIR/a/nothing.webp: expected a PNG, JPEG or WebP image: "),
    ] {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("a")).unwrap();
        fs::write(folder.path().join("a").join(file), bytes).unwrap();
        let found = message("folder", &folder, "");
        assert!(found.starts_with(expected), "{found}");
    }
}

#[test]
fn pictures_of_any_size_become_the_size_asked_for() {
    for (options, shape) in [
        ("size = 24", "3x24x24"),
        ("size = 8\nfit = \"stretch\"", "3x8x8"),
        ("size = 64\ncolour = \"grey\"", "1x64x64"),
    ] {
        let path = toml::Value::from(written().join("jpeg").to_str().unwrap());
        let options = format!("{options}\ncache = false\ntest = 0.0\npath = {path}");
        let found = build("folder", &options).unwrap().train(Path::new("")).unwrap();
        assert_eq!(found.shape().to_string(), shape);
        // Orange everywhere, as it was written, to what JPEG loses.
        let expected: &[u8] = if shape.starts_with('1') { &[118] } else { &[200, 100, 50] };
        let area = found.image(0).len() / expected.len();
        for (place, pixel) in found.image(0).iter().enumerate() {
            assert!(pixel.abs_diff(expected[place / area]) <= 4, "{options}: {place}: {pixel}");
        }
    }
}

#[test]
fn a_picture_is_cut_to_its_middle_square_however_long_it_is() {
    for (width, height) in [(16_384, 1), (1, 16_384), (90, 30), (8, 31)] {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("a")).unwrap();
        let side = width.min(height);
        let is_within = |at: u32, length: u32| at.wrapping_sub((length - side) / 2) < side;
        let picture = image::GrayImage::from_fn(width, height, |x, y| {
            image::Luma([if is_within(x, width) && is_within(y, height) { 70 } else { 255 }])
        });
        picture.save(folder.path().join("a/long.png")).unwrap();
        let path = toml::Value::from(folder.path().to_str().unwrap());
        let options = format!("path = {path}\nsize = 512\ncache = false\ntest = 0.0");
        let found = build("folder", &options).unwrap().train(Path::new("")).unwrap();
        assert!(found.image(0).iter().all(|pixel| *pixel == 70), "{width}x{height}");
    }
}

#[test]
fn a_folder_without_a_test_part_holds_back_a_share_of_each_class_by_whole_groups() {
    let folder = tempfile::tempdir().unwrap();
    let picture = fs::read(written().join("folder/train/cat/0.png")).unwrap();
    for class in ["cat", "dog"] {
        fs::create_dir(folder.path().join(class)).unwrap();
        for (track, frame) in (0..10).flat_map(|track| (0..3).map(move |frame| (track, frame))) {
            let file = folder.path().join(class).join(format!("{class}{track}_{frame}.png"));
            fs::write(file, &picture).unwrap();
        }
    }
    let path = toml::Value::from(folder.path().to_str().unwrap());
    let options = format!("path = {path}\nsize = 16\ncache = false\ngroup = \"^([^_]*)_\"");
    let source = build("folder", &options).unwrap();
    let (train, test) = (source.train(Path::new("")).unwrap(), source.test(Path::new("")).unwrap());
    assert_eq!((train.class_counts(), test.class_counts()), (vec![24; 2], vec![6; 2]));
    let counts = |images: &Labelled| {
        let mut groups = BTreeMap::new();
        images.groups().unwrap().iter().for_each(|group| *groups.entry(*group).or_insert(0) += 1);
        groups.into_values().collect::<Vec<_>>()
    };
    assert_eq!((counts(&train), counts(&test)), (vec![3; 16], vec![3; 4]));
    let error = build("folder", &format!("path = {path}\ngroup = \"cat\"")).unwrap_err();
    assert!(error.to_string().contains("expected a group in parentheses"), "{error}");
}

#[test]
fn an_archive_of_other_arrays_is_refused_by_name() {
    let found = build("npz", "path = \"images.npz\"\ntraining = [\"x\", \"y\"]").unwrap();
    let error = format!("{:#}", found.train(&written().join("npz")).unwrap_err());
    assert!(error.contains("images.npz: expected an array `x`"), "{error}");
    let found = build("npz", "path = \"images.npz\"\ntraining = [\"y_test\", \"y_test\"]").unwrap();
    let error = format!("{:#}", found.train(&written().join("npz")).unwrap_err());
    let expected = "y_test.npy: byte 0: expected images of 3 or 4 dimensions, found [3]";
    assert!(error.ends_with(expected), "{error}");
    check(
        "npz",
        "images.npz",
        truncate(700),
        "DIR/images.npz: expected a NumPy .npz file: \
        invalid Zip archive: Could not find EOCD",
    );
}

#[test]
fn every_flipped_bit_of_an_array_is_found_by_its_sum() {
    let whole = fs::read(written().join("npz/images.npz")).unwrap();
    let expected = source("npz", &written().join("npz/images.npz")).train(Path::new("")).unwrap();
    let folder = copy("npz");
    let path = folder.path().join("images.npz");
    let mut refused = 0;
    for case in 0..200 {
        let mut rng = eas_ir::Rng::new(case);
        let mut bytes = whole.clone();
        bytes[rng.below(whole.len())] ^= 1 << rng.below(8);
        fs::write(&path, bytes).unwrap();
        match source("npz", &path).train(Path::new("")) {
            Ok(found) => assert_eq!(found, expected, "case {case}"),
            Err(_) => refused += 1,
        }
    }
    // The others hit test images, times and attributes.
    assert!(refused > 50, "{refused}");
}

#[test]
fn channels_that_come_first_are_told_from_those_that_come_last() {
    let text = "{'descr': '|u1', 'fortran_order': False, 'shape': (2, 3, 28, 28), }";
    let length = (text.len() as u16).to_le_bytes();
    let array = [&b"\x93NUMPY\x01\0"[..], &length, text.as_bytes(), &[0; 2 * 3 * 28 * 28]].concat();
    let read = |channels| {
        let mut array = &array[..];
        npz::images(&mut Stream::new(&mut array as &mut dyn BufRead, "x.npy"), channels)
    };
    let refused = read(npz::Channels::Last).unwrap_err().to_string();
    let expected = "x.npy: byte 0: expected images of [height, width, channels], found [3, 28, 28]; where \
                    the channels come first, say channels = \"first\"";
    assert_eq!(refused, expected);
    let (shape, _) = read(npz::Channels::First).unwrap();
    assert_eq!(shape.to_string(), "3x28x28");
}

#[test]
fn what_is_not_there_is_told_from_what_is_damaged() {
    for (name, test) in
        [("idx", "t10k-images-idx3-ubyte"), ("svhn", "test_32x32.mat"), ("cifar100", "test.bin")]
    {
        let folder = copy(name);
        let test = folder.path().join(test);
        let said = || source(name, folder.path()).describe(Path::new(""));
        assert!(said().unwrap().test_images > 0, "{name}");
        truncate(10)(&test);
        assert!(said().is_err(), "{name}");
        fs::remove_file(&test).unwrap();
        assert_eq!(said().unwrap().test_images, 0, "{name}");
    }
    let other = "path = 'images.npz'\ntesting = ['x', 'y']";
    let said = build("npz", other).unwrap().describe(&written().join("npz")).unwrap();
    assert_eq!(said.test_images, 0);
    let halved = "path = 'images.npz'\ntesting = ['x_test', 'y']";
    let said = build("npz", halved).unwrap().describe(&written().join("npz")).unwrap();
    assert_eq!(said.test_images, 0);
}

/// Reads training images of a folder with copies of a picture under these names; or what is wrong.
fn laid_out(names: &[&str], options: &str) -> Result<[Labelled; 2], String> {
    let folder = tempfile::tempdir().unwrap();
    let picture = fs::read(written().join("folder/train/cat/0.png")).unwrap();
    for name in names {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, &picture).unwrap();
    }
    let source =
        build("folder", &format!("path = '.'\nsize = 4\ncache = false\n{options}")).unwrap();
    let read = || Ok([source.train(folder.path())?, source.test(folder.path())?]);
    read().map_err(|error: anyhow::Error| {
        format!("{error:#}").replace(&folder.path().display().to_string(), "DIR")
    })
}

#[test]
fn folders_that_would_lose_images_are_refused() {
    for (names, expected) in [
        (
            &["train/cat/0.png", "train/dog/young/1.png", "train/dog/old/1.png"][..],
            "DIR/./train/dog: expected the images of class `dog` in its folder itself, found folders in it, \
             such as ",
        ),
        (
            &["train/cat/0.png", "train/cat/1.BMP"],
            "DIR/./train/cat/1.BMP: expected a PNG, JPEG or WebP image; convert it, or move it away",
        ),
        (
            &["train/0.png", "test/1.png"],
            "DIR/.: expected a folder for each class in test and train, found images",
        ),
        (
            &["cat/0.png", "cat/1.png", "test/cat/2.png"],
            "DIR/./test/cat/2.png: expected images to train on in train/CLASS, found them beside it",
        ),
        (&["notes/0.txt"], "DIR/.: expected a folder for each class with PNG, JPEG or WebP images"),
    ] {
        let told = laid_out(names, "").unwrap_err();
        assert!(told.starts_with(expected), "{names:?}: {told}");
    }
    // A class may be called so.
    let vehicles =
        ["train/0.png", "train/1.png", "train/2.png", "bus/0.png", "bus/1.png", "bus/2.png"];
    let [train, _] = laid_out(&vehicles, "test = 0.3").unwrap();
    assert_eq!((train.classes().len(), train.len()), (2, 4));
}

#[test]
fn validation_images_of_a_folder_join_the_training_images_where_there_are_others_to_test_on() {
    for part in ["val", "valid", "validation"] {
        let validation = format!("{part}/a/2.png");
        let names = ["train/a/0.png", "train/a/1.png", &validation, "test/a/3.png"];
        let [train, test] = laid_out(&names, "").unwrap();
        assert_eq!((train.len(), test.len()), (3, 1), "{part}");
        let [train, test] = laid_out(&names[..3], "").unwrap();
        assert_eq!((train.len(), test.len()), (2, 1), "{part}");
    }
}

#[test]
fn a_class_is_never_held_back_whole() {
    let names = ["a/0.png", "b/0.png", "b/1.png", "b/2.png", "b/3.png"];
    let [train, test] = laid_out(&names, "test = 0.5").unwrap();
    assert_eq!((train.class_counts(), test.class_counts()), (vec![1, 2], vec![0, 2]));
}

#[test]
fn an_array_of_no_images_or_of_too_many_pixels_is_refused() {
    for shape in [
        "[0, 4294967296, 4294967296, 3]",
        "[0, 4, 4]",
        "[2, 4, 0]",
        "[1, 65536, 65536, 3]",
        "[4294967296, 4294967296, 4294967296]",
    ] {
        let sizes = shape.replace('[', "(").replace(']', ")");
        let text = format!("{{'descr': '|u1', 'fortran_order': False, 'shape': {sizes}, }}");
        let length = (text.len() as u16).to_le_bytes();
        let array = [&b"\x93NUMPY\x01\0"[..], &length, text.as_bytes()].concat();
        let mut array = &array[..];
        let mut from = Stream::new(&mut array as &mut dyn BufRead, "x.npy");
        let error = npz::images(&mut from, npz::Channels::Last).unwrap_err().to_string();
        let expected = "x.npy: byte 0: expected 1 to 4294967296 pixels in all, found ";
        assert_eq!(error, format!("{expected}{shape}"));
    }
}

#[cfg(unix)]
#[test]
fn a_pipe_is_refused_without_waiting_for_its_writer() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("images.npz");
    assert!(std::process::Command::new("mkfifo").arg(pipe).status().unwrap().success());
    assert_eq!(message("npz", &folder, "images.npz"), "DIR/images.npz: expected a file");
}

#[test]
fn damaged_files_give_images_or_an_error_and_never_a_panic() {
    for (name, from, file) in [
        ("svhn", "svhn", "train_32x32.mat"),
        ("svhn", "svhn", "test_32x32.mat"),
        ("idx", "idx", "train-images-idx3-ubyte"),
        ("mnist", "mnist", "train-images-idx3-ubyte.gz"),
        ("npz", "npz", "images.npz"),
        ("folder", "folder/train/cat", "0.png"),
        ("folder", "folder/train/cat", "1.webp"),
        ("folder", "jpeg/train/orange", "wide.jpg"),
    ] {
        let whole = fs::read(written().join(from).join(file)).unwrap();
        let folder = if name == "folder" { tempfile::tempdir().unwrap() } else { copy(from) };
        // The training file is damaged, or another file stands in for it.
        let damaged = match name {
            "folder" => folder.path().join("class").join(file),
            "svhn" => folder.path().join("train_32x32.mat"),
            _ => folder.path().join(file),
        };
        fs::create_dir_all(damaged.parent().unwrap()).unwrap();
        let path = if name == "npz" { damaged.clone() } else { folder.path().to_owned() };
        let source = source(name, &path);
        for case in 0..150 {
            let mut rng = eas_ir::Rng::new(case);
            let mut bytes = whole.clone();
            for _ in 0..1 + rng.below(4) {
                // Headers come first: half of the damage is done to them.
                let within = if rng.below(2) == 0 { bytes.len().min(200) } else { bytes.len() };
                bytes[rng.below(within)] = rng.below(256) as u8;
            }
            if rng.below(4) == 0 {
                bytes.truncate(rng.below(bytes.len()));
            }
            fs::write(&damaged, bytes).unwrap();
            let read = || source.train(Path::new("")).map(|images| images.len());
            let read = std::panic::catch_unwind(std::panic::AssertUnwindSafe(read));
            assert!(read.is_ok(), "{name}: {file}: case {case}");
        }
    }
}
