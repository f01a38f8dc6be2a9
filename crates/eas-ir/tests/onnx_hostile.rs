//! Damaged, malicious and merely foreign ONNX files are refused with what is wrong with them, all of it at
//! once: no panic, and no allocation of what a file merely claims.

use std::fs;
use std::panic::catch_unwind;
use std::path::Path;

use eas_ir::onnx::{OnnxError, OnnxOptions, from_bytes, read, write};
use eas_ir::{Metadata, Normalisation, Rng, SavedModel};

use crate::allocations::largest_allocation;
use crate::hostile::mutate;
use crate::networks::{random_model, random_network};

/// A field of a protocol buffer that holds bytes: text, a message, or packed numbers.
fn field(number: u64, content: impl AsRef<[u8]>) -> Vec<u8> {
    let content = content.as_ref();
    [varint(number << 3 | 2), varint(content.len() as u64), content.to_vec()].concat()
}

/// A field of a protocol buffer that holds a number.
fn number(field: u64, value: i64) -> Vec<u8> {
    [varint(field << 3), varint(value as u64)].concat()
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

fn tensor(name: &str, sides: &[i64], values: &[f32]) -> Vec<u8> {
    let raw: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let sides: Vec<u8> = sides.iter().flat_map(|side| number(1, *side)).collect();
    [sides, number(2, 1), field(8, name), field(9, raw)].concat()
}

/// A tensor whose numbers stand in another file.
fn external(name: &str, sides: &[i64], entries: &[(&str, &str)]) -> Vec<u8> {
    let entry = |(key, value): &(&str, &str)| field(13, [field(1, key), field(2, value)].concat());
    let entries: Vec<u8> = entries.iter().flat_map(entry).collect();
    [tensor(name, sides, &[]), entries, number(14, 1)].concat()
}

fn value(name: &str, sides: &[i64]) -> Vec<u8> {
    let side = |side: &i64| field(1, if *side < 0 { field(2, "n") } else { number(1, *side) });
    let shape: Vec<u8> = sides.iter().flat_map(side).collect();
    let kind = field(1, [number(1, 1), field(2, shape)].concat());
    [field(1, name), field(2, kind)].concat()
}

fn ints(name: &str, values: &[i64]) -> Vec<u8> {
    let values: Vec<u8> = values.iter().flat_map(|value| number(8, *value)).collect();
    field(5, [field(1, name), values, number(20, 7)].concat())
}

fn int(name: &str, value: i64) -> Vec<u8> {
    field(5, [field(1, name), number(3, value), number(20, 2)].concat())
}

fn node(name: &str, op: &str, inputs: &[&str], output: &str, attributes: &[Vec<u8>]) -> Vec<u8> {
    let inputs: Vec<u8> = inputs.iter().flat_map(|input| field(1, input)).collect();
    [inputs, field(2, output), field(3, name), field(4, op), attributes.concat()].concat()
}

/// A file: nodes, initializers, and the ends of the graph.
struct File {
    nodes: Vec<Vec<u8>>,
    initializers: Vec<Vec<u8>>,
    inputs: Vec<Vec<u8>>,
    outputs: Vec<Vec<u8>>,
    opset: i64,
}

impl File {
    /// A convolution, pooled and flattened, and a linear layer.
    fn good() -> Self {
        File {
            nodes: vec![
                node("first", "Conv", &["x", "kernel"], "a", &[]),
                node("pool", "GlobalAveragePool", &["a"], "b", &[]),
                node("flat", "Flatten", &["b"], "c", &[]),
                node("last", "Gemm", &["c", "matrix"], "y", &[]),
            ],
            initializers: vec![
                tensor("kernel", &[2, 1, 3, 3], &[0.5; 18]),
                tensor("matrix", &[2, 3], &[0.25; 6]),
            ],
            inputs: vec![value("x", &[-1, 1, 4, 4])],
            outputs: vec![value("y", &[-1, 3])],
            opset: 17,
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let list = |number: u64, list: &[Vec<u8>]| -> Vec<u8> {
            list.iter().flat_map(|part| field(number, part)).collect()
        };
        let graph = [
            list(1, &self.nodes),
            field(2, "graph"),
            list(5, &self.initializers),
            list(11, &self.inputs),
            list(12, &self.outputs),
        ];
        let operators = [field(1, ""), number(2, self.opset)].concat();
        [number(1, 8), field(7, graph.concat()), field(8, operators)].concat()
    }
}

/// Reads bytes, holding the largest allocation against what they really are.
fn load(bytes: &[u8]) -> Result<SavedModel, OnnxError> {
    let (loaded, largest) = largest_allocation(|| from_bytes(bytes));
    let bound = 256 * bytes.len() + 16_384;
    assert!(largest <= bound, "allocated {largest} bytes at once for a file of {}", bytes.len());
    loaded
}

#[track_caller]
fn check(file: &File, expected: &str) {
    let error = load(&file.bytes()).expect_err(expected).to_string();
    assert!(error.contains(expected), "expected `{expected}`, found `{error}`");
}

#[test]
fn a_file_made_by_hand_is_read() {
    let saved = load(&File::good().bytes()).unwrap();
    assert_eq!(saved.model.network().nodes().len(), 4);
    assert_eq!(saved.metadata, Metadata::default());
}

#[test]
fn asking_for_the_images_shape_is_not_reading_them() {
    let mut file = File::good();
    file.initializers.push(tensor("half", &[], &[0.5]));
    file.nodes = vec![
        node("ask", "Shape", &["x"], "shape", &[int("end", 1)]),
        node("less", "Sub", &["x", "half"], "z", &[]),
        node("first", "Conv", &["z", "kernel"], "a", &[]),
        node("pool", "GlobalAveragePool", &["a"], "b", &[]),
        node("rest", "Constant", &[], "open", &[ints("value_ints", &[-1])]),
        node("whole", "Concat", &["shape", "open"], "wanted", &[int("axis", 0)]),
        node("flat", "Reshape", &["b", "wanted"], "c", &[]),
        node("last", "Gemm", &["c", "matrix"], "y", &[]),
    ];
    let saved = load(&file.bytes()).unwrap();
    let expected = Normalisation { mean: vec![0.5], deviation: vec![1.0] };
    assert_eq!(saved.metadata.normalisation, Some(expected));
}

#[test]
fn images_are_bytes_where_only_bytes_have_such_a_mean_or_deviation() {
    // What the graph multiplies by and then adds, and the normalisation of pixels from 0 to 1.
    for (scale, shift, mean, deviation) in [
        (4.0, -2.0, 0.5, 0.25),
        (1.0 / 255.0, 0.0, 0.0, 1.0),
        (1.0 / 127.5, -1.0, 0.5, 0.5),
        (1.0 / 51.0, 0.0, 0.0, 0.2),
        (1.0, -51.0, 0.2, 1.0 / 255.0),
    ] {
        let mut file = File::good();
        file.initializers.push(tensor("scale", &[], &[scale]));
        file.initializers.push(tensor("shift", &[], &[shift]));
        file.nodes[0] = node("first", "Conv", &["w", "kernel"], "a", &[]);
        file.nodes.insert(0, node("multiply", "Mul", &["x", "scale"], "v", &[]));
        file.nodes.insert(1, node("add", "Add", &["v", "shift"], "w", &[]));
        let found = load(&file.bytes()).unwrap().metadata.normalisation.unwrap();
        let near = |found: f32, expected: f32| (found - expected).abs() < 1e-6;
        assert!(near(found.mean[0], mean) && near(found.deviation[0], deviation), "{found:?}");
    }
}

#[test]
fn whatever_is_not_supported_is_listed_at_once() {
    let mut file = File::good();
    file.nodes = vec![
        node("softer", "Elu", &["x"], "e", &[]),
        node("first", "Conv", &["e", "kernel"], "a", &[]),
        node("", "Conv", &["x", "kernel"], "wide", &[ints("dilations", &[2, 2])]),
        node("uneven", "Conv", &["x", "kernel"], "u", &[ints("pads", &[0, 0, 1, 1])]),
        node(
            "ceiling",
            "MaxPool",
            &["x"],
            "m",
            &[ints("kernel_shape", &[3, 3]), ints("strides", &[2, 2]), int("ceil_mode", 1)],
        ),
        node("all", "Concat", &["a", "wide", "u", "m"], "j", &[int("axis", 1)]),
        node("pool", "GlobalAveragePool", &["j"], "b", &[]),
        node("flat", "Flatten", &["b"], "c", &[]),
        node("last", "Gemm", &["c", "matrix"], "l", &[]),
        node("likely", "Softmax", &["l"], "y", &[]),
        node("unused", "Lost", &["x"], "nobody", &[]),
    ];
    let error = load(&file.bytes()).unwrap_err().to_string();
    assert_eq!(
        error,
        "5 parts can't be read:\n  \
         node `softer` (Elu): this operator isn't supported\n  \
         node `wide` (Conv): dilations [2, 2]: expected 1\n  \
         node `uneven` (Conv): pads [0, 0, 1, 1]: expected the same on every side\n  \
         node `ceiling` (MaxPool): ceil_mode 1: expected windows that come out even, found 3x3 by 2 on \
         4x4\n  \
         node `likely` (Softmax): this operator isn't supported: export the network up to its logits, \
         without a softmax"
    );
}

#[test]
fn a_graph_that_is_none_is_refused() {
    let mut file = File::good();
    file.nodes[0] = node("first", "Conv", &["c", "kernel"], "a", &[]);
    check(
        &file,
        "node `first` (Conv): reads `c`, which comes later: a cycle, or nodes out of order",
    );
    let mut file = File::good();
    file.nodes[1] = node("pool", "GlobalAveragePool", &["nowhere"], "b", &[]);
    check(&file, "node `pool` (GlobalAveragePool): reads `nowhere`, which nothing gives");
    let mut file = File::good();
    file.nodes.insert(1, node("again", "Relu", &["a"], "a", &[]));
    check(&file, "`a` is given twice");
    let mut file = File::good();
    file.initializers.push(tensor("kernel", &[1], &[1.0]));
    check(&file, "initializer `kernel`: this name is given twice");
    let mut file = File::good();
    file.outputs = vec![value("a", &[-1, 2, 2, 2])];
    check(&file, "must give flat logits, found shape 2x2x2");
    file.outputs = vec![value("b", &[-1, 2, 1, 1])];
    check(&file, "output `b`: expected logits, [batch, classes], found [batch, classes, 1, 1]");
    file.outputs = vec![value("nobody", &[-1, 2])];
    check(&file, "output `nobody`: reads `nobody`, which nothing gives");
    file.outputs = vec![value("y", &[-1, 3]), value("a", &[-1, 2, 2, 2])];
    check(&file, "expected one output, the logits; found 2 `y`, `a`");
    let mut file = File::good();
    file.inputs.push(value("z", &[-1, 1, 4, 4]));
    check(&file, "expected one input, the images; found 2 `x`, `z`");
    file.inputs = vec![value("x", &[-1, 1, -1, 4])];
    check(&file, "all but the batch fixed: export it for one size of images");
    file.inputs = vec![value("x", &[])];
    check(&file, "found no shape");
    let mut file = File::good();
    file.opset = 99;
    check(&file, "operators `ai.onnx`: expected version 9 to 28, found 99");
}

#[test]
fn sides_that_lie_are_refused() {
    let cases: [(&[i64], &str); 6] = [
        (&[2, 1, 3, 4], "expected 96 bytes for the sides [2, 1, 3, 4], found 72"),
        (&[1 << 40, 1, 3, 3], "expected 39582418599936 bytes for the sides"),
        (&[1 << 40, 1 << 40, 3, 3], "are too long"),
        (&[i64::MAX, 2], "are too long"),
        (&[-2, 1, 3, 3], "expected at most 8 sides of at least 0, found [-2, 1, 3, 3]"),
        (&[1; 300], "found [1, 1, 1, 1, 1, 1, 1, 1] and 292 more"),
    ];
    for (sides, expected) in cases {
        let mut file = File::good();
        file.initializers[0] = tensor("kernel", sides, &[0.5; 18]);
        check(&file, expected);
    }
    let mut file = File::good();
    file.initializers[0] = tensor("kernel", &[2, 1, 3, 3], &[f32::NAN; 18]);
    check(&file, "expected finite values, found NaN");
    let mut file = File::good();
    file.inputs = vec![value("x", &[-1, 1 << 19, 1 << 19, 1 << 19])];
    check(&file, "are larger than 268435456 numbers");
    file.inputs = vec![value("x", &[-1, 1 << 19, 4, 4])];
    check(&file, "expected sides [2, 524288, 3, 3], found [2, 1, 3, 3]");
    let mut file = File::good();
    file.nodes[0] =
        node("first", "Conv", &["x", "kernel"], "a", &[ints("strides", &[i64::MAX; 2])]);
    check(
        &file,
        "strides [9223372036854775807, 9223372036854775807]: expected two numbers above 0",
    );
    file.nodes[0] = node("first", "Conv", &["x", "kernel"], "a", &[ints("pads", &[1 << 20; 4])]);
    check(&file, "padding must be less than the kernel 3, found 1048576");
}

#[test]
fn a_small_file_can_not_fill_the_memory() {
    // Empty nodes take two bytes each, and two hundred once they are decoded.
    let mut file = File::good();
    file.nodes = vec![Vec::new(); 3 << 20];
    let error = load(&file.bytes()).unwrap_err();
    assert_eq!(error, OnnxError::Damaged("expected at most 1048576 parts, found more".to_owned()));
    // One matrix, turned again and again.
    let mut file = File::good();
    file.initializers.push(tensor("large", &[100, 100], &[0.5; 10_000]));
    let names: Vec<String> = (0..200).map(|turn| format!("turned{turn}")).collect();
    for (turn, name) in names.iter().enumerate() {
        let before = if turn == 0 { "large" } else { &names[turn - 1] };
        file.nodes.push(node(name, "Transpose", &[before], name, &[]));
    }
    file.nodes.push(node("end", "Gemm", &["c", "turned199"], "z", &[]));
    file.outputs = vec![value("z", &[-1, 100])];
    check(&file, "matrices are turned more often than twice");
    // A number for every channel, again and again.
    let mut file = File::good();
    file.initializers.push(tensor("shift", &[1, 1, 1, 1], &[0.5]));
    let names: Vec<String> = (0..17).map(|step| format!("front{step}")).collect();
    for (step, name) in names.iter().enumerate() {
        let before = if step == 0 { "x" } else { &names[step - 1] };
        file.nodes.insert(step, node(name, "Add", &[before, "shift"], name, &[]));
    }
    file.nodes[17] = node("first", "Conv", &["front16", "kernel"], "a", &[]);
    check(&file, "expected at most 16 operations on the images before the network");
}

#[test]
fn external_data_are_read_from_the_models_folder_alone() {
    let outer = tempfile::tempdir().unwrap();
    let folder = outer.path().join("model");
    fs::create_dir(&folder).unwrap();
    let numbers: Vec<u8> = [0.5f32; 18].iter().flat_map(|value| value.to_le_bytes()).collect();
    fs::write(folder.join("data"), &numbers).unwrap();
    fs::write(outer.path().join("outside"), &numbers).unwrap();
    #[cfg(unix)]
    std::os::unix::fs::symlink("../outside", folder.join("link")).unwrap();
    #[cfg(unix)]
    std::os::unix::fs::symlink("/dev/zero", folder.join("zero")).unwrap();
    let path = folder.join("model.onnx");
    let load = |initializers: Vec<Vec<u8>>| {
        let mut file = File::good();
        file.initializers.splice(..1, initializers);
        fs::write(&path, file.bytes()).unwrap();
        read(&path).map_err(|error| error.to_string())
    };
    let of = |entries: &[(&str, &str)]| vec![external("kernel", &[2, 1, 3, 3], entries)];
    let saved = load(of(&[("location", "data"), ("offset", "0"), ("length", "72")])).unwrap();
    assert_eq!(saved, from_bytes(&File::good().bytes()).unwrap());
    let outside = outer.path().join("outside");
    let absolute = outside.to_str().unwrap();
    let in_folder = "expected a file in the model's folder, found";
    let cases: [(&[(&str, &str)], &str); 11] = [
        (&[("location", "../outside")], in_folder),
        (&[("location", absolute)], in_folder),
        (&[("location", "")], in_folder),
        (&[("location", "./data/../../outside")], in_folder),
        (&[("location", "link")], "a link that leads out of the model's folder"),
        (&[("location", "zero")], "a link that leads out of the model's folder"),
        (&[("location", "missing")], "No such file"),
        (&[], "expected a location, found none"),
        (&[("location", "data"), ("offset", "4")], "expected 72 bytes from byte 4 on"),
        (&[("location", "data"), ("length", "71")], "expected 72 bytes, found 71"),
        (&[("location", "data"), ("offset", "-1")], "expected a number as offset, found `-1`"),
    ];
    for (entries, expected) in cases {
        let error = load(of(entries)).expect_err(expected);
        assert!(error.contains(expected), "expected `{expected}`, found `{error}`");
        assert!(error.contains("initializer `kernel`"), "{error}");
    }
    // A file of holes takes no room.
    fs::File::create(folder.join("holes")).unwrap().set_len(5 << 30).unwrap();
    let error = load(vec![external("kernel", &[5 << 28, 1, 1, 1], &[("location", "holes")])]);
    let error = error.unwrap_err();
    assert!(
        error.contains("expected at most 4294967296 bytes in all, found 5368709120"),
        "{error}"
    );
    // The same bytes for two tensors would make a large file of a small one.
    let twice =
        ["kernel", "more"].map(|name| external(name, &[2, 1, 3, 3], &[("location", "data")]));
    let mut file = File::good();
    file.initializers.splice(..1, twice);
    file.nodes[1] = node("more", "Conv", &["x", "more"], "d", &[]);
    file.nodes.insert(2, node("sum", "Add", &["a", "d"], "e", &[]));
    file.nodes.insert(3, node("pool", "GlobalAveragePool", &["e"], "b", &[]));
    fs::write(&path, file.bytes()).unwrap();
    let error = read(&path).unwrap_err().to_string();
    assert!(error.contains("none of them twice, found a file of 72"), "{error}");
    let error = from_bytes(&file.bytes()).unwrap_err().to_string();
    assert!(error.contains("there is no folder to read from"), "{error}");
}

#[test]
fn what_is_no_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let told = |path: &Path| SavedModel::load(path).unwrap_err().to_string();
    let missing = folder.path().join("missing.onnx");
    assert!(told(&missing).contains("missing.onnx: No such file"), "{}", told(&missing));
    let text = folder.path().join("text.onnx");
    fs::write(&text, "<html><body>not found</body></html>").unwrap();
    assert!(told(&text).contains("not an ONNX file: "), "{}", told(&text));
    let long = folder.path().join("long.onnx");
    fs::File::create(&long).unwrap().set_len(3 << 30).unwrap();
    assert!(told(&long).contains("expected at most 2147483648 bytes"), "{}", told(&long));
    assert_eq!(from_bytes(&[]), Err(OnnxError::Damaged("it has no graph".to_owned())));
}

#[test]
fn every_truncation_is_refused_and_no_damage_panics() {
    let (mut loaded, mut refused) = (0, 0);
    for seed in 0..6 {
        let rng = &mut Rng::new(seed);
        let network = random_network(rng);
        let model = random_model(network, rng);
        let channels = model.input_shape().channels();
        let normalisation =
            Some(Normalisation { mean: vec![0.5; channels], deviation: vec![0.25; channels] });
        let classes = (0..model.classes()).map(|class| class.to_string()).collect();
        let saved = SavedModel {
            model,
            metadata: Metadata { classes, normalisation, ..Metadata::default() },
        };
        let options = OnnxOptions { fold_normalisation: seed % 2 == 0, ..OnnxOptions::default() };
        let file = write(&saved, &options).unwrap();
        for end in 0..file.len() {
            let cut = catch_unwind(|| load(&file[..end]).is_err());
            let refused = cut.unwrap_or_else(|_| panic!("seed {seed}, cut at {end}"));
            // What comes last is metadata, without which there is a model too.
            assert!(refused || end > file.len() / 2, "seed {seed}: read, though cut at {end}");
        }
        for damage in 0..1500 {
            let mut bytes = file.clone();
            mutate(&mut bytes, &mut Rng::new(damage));
            match catch_unwind(|| load(&bytes)) {
                Ok(Ok(_)) => loaded += 1,
                Ok(Err(error)) => {
                    refused += 1;
                    let length = error.to_string().len();
                    assert!(length < 20_000, "seed {seed}, {damage}: a message of {length} bytes");
                }
                Err(_) => panic!("seed {seed}, damage {damage}"),
            }
        }
    }
    assert!(loaded > 100 && refused > 1000, "damage too weak or too strong: {loaded}, {refused}");
}
