//! What networks are trained on: asked for, found, recorded. The `eas` of these tests is built without
//! CUDA, as by default.

use std::io::Write;

use eas_train::{Device, survey_cuda};
use eas_transform::{
    AddBlock, ConvNet, Deepen, DeepenDense, DenseNet, Residual, SearchSpace, Transform, Transforms,
    Widen, WidenGrowth, WidenTransition, law,
};
use serde_json::{Value, json};

use crate::harness::Folder;

/// What the program says that is asked for a GPU and has no CUDA.
const MISSING: &str = "cargo build --release --features cuda";

#[test]
fn gpus_that_are_not_there_are_an_error_that_says_what_is_missing() {
    let folder = Folder::with_tiny_run();
    let network = "run/best/network.toml";
    let data = ["--data", "synthetic", "--set", "data.height=8", "--set", "data.width=8"];
    let commands: &[(&[&str], bool)] = &[
        (&["search", "spec.toml", "--run", "new", "--set", "run.devices=cuda"], false),
        (&["search", "spec.toml", "--run", "new", "--devices", "cuda:0,1"], false),
        (
            &["search", "--data", "fashion_mnist_subset", "--budget", "1h", "--devices", "cuda"],
            false,
        ),
        (&["check", "spec.toml", "--set", "run.devices=cuda:0"], false),
        (&["resume", "run", "--devices", "cuda"], false),
        (
            &[
                "compare",
                "spec.toml",
                "--controllers",
                "random",
                "--devices",
                "cuda",
                "--out",
                "new",
            ],
            false,
        ),
        (&["train", network, "--out", "new", "--device", "cuda"], true),
        (&["test", "run", "--device", "cuda:1"], true),
        (&["bench", network, "--device", "cuda"], false),
    ];
    for (command, takes_data) in commands {
        let data = data.iter().filter(|_| *takes_data);
        let told = folder.eas(command.iter().chain(data).copied()).exits(2).stderr;
        assert!(told.contains(MISSING) && told.contains("eas doctor"), "{command:?}: {told}");
        assert!(told.contains("`cuda"), "{command:?}: {told}");
        assert!(!folder.path("new").exists(), "{command:?}");
    }
    let events = folder.read("run/events.jsonl");
    assert!(!events.contains("tested\""), "test images were opened for nothing: {events}");
    let told = folder.eas(["bench", network, "--device", "cuda:0,1"]).exits(2).stderr;
    assert!(told.contains("expected one device"), "{told}");
}

#[test]
fn a_run_keeps_to_the_devices_of_its_plan_unless_others_are_named() {
    let folder = Folder::with_tiny_spec();
    let search = ["search", "spec.toml", "--run", "run", "--set", "run.devices=cuda"];
    folder.eas(search.into_iter().chain(["--devices", "cpu"])).exits(0);
    assert!(folder.read("run/plan.toml").contains("devices = \"cuda\"\n"));
    let longer = ["resume", "run", "--extend-batches", "1"];
    let told = folder.eas(longer).exits(2).stderr;
    assert!(told.contains(MISSING), "{told}");
    assert!(
        !folder.read("run/events.jsonl").contains("extended"),
        "it was made longer all the same"
    );
    folder.eas(longer.into_iter().chain(["--devices", "auto"])).exits(0);
    // Deciding and collecting needs no device.
    folder.eas(["verify", "run"]).exits(0);
    folder.eas(["gc", "run", "--dry-run"]).exits(0);
}

#[test]
fn what_was_trained_on_a_gpu_is_told() {
    let folder = Folder::with_tiny_run();
    let shown = folder.eas(["show", "run", "1"]).exits(0).stdout;
    assert!(!shown.contains("trained on") && !shown.contains("cuda"), "{shown}");
    let change = |name: &str, key: &str, value: Value| {
        let mut record: Value = serde_json::from_str(&folder.read(name)).unwrap();
        assert!(record.as_object_mut().unwrap().insert(key.to_owned(), value).is_none(), "{name}");
        folder.write(name, record.to_string());
    };
    change("run/trials/0001/result.json", "gpu", json!(3));
    change("run/report.json", "on_gpus", json!(true));
    let shown = folder.eas(["show", "run", "1"]).exits(0).stdout;
    assert!(shown.contains("\ntrained on cuda:3\n"), "{shown}");
    let shown = folder.eas(["show", "run"]).exits(0).stdout;
    assert!(shown.contains("trained on GPUs: ") && shown.contains("but for rounding"), "{shown}");
    folder.eas(["verify", "run", "--rebuild"]).exits(0);
    let trials = folder.eas(["trials", "run", "--json"]).exits(0).json();
    assert_eq!(trials[1]["gpu"], 3, "{trials}");
}

#[test]
fn eas_doctor_says_what_there_is_and_what_is_missing() {
    let folder = Folder::new();
    let found = folder.eas(["doctor", "--json"]).exits(0).json();
    let keys: Vec<&String> = found.as_object().unwrap().keys().collect();
    let expected = [
        "auto",
        "cores",
        "cpu_features",
        "cuda",
        "cudnn",
        "driver",
        "free_disk_bytes",
        "free_memory_bytes",
        "gpus",
        "memory_bytes",
        "missing",
        "mps",
        "version",
    ];
    assert_eq!(keys, expected, "{found}");
    assert_eq!((&found["cuda"], &found["auto"]), (&json!(false), &json!(["cpu"])), "{found}");
    let missing = found["missing"].to_string();
    assert!(missing.contains(MISSING), "{missing}");
    let bytes = |key: &str| found[key].as_u64().unwrap_or_else(|| panic!("{key}: {found}"));
    assert!(bytes("free_memory_bytes") <= bytes("memory_bytes"), "{found}");
    assert!(bytes("free_disk_bytes") > 0 && bytes("cores") > 0, "{found}");
    let told = folder.eas(["doctor"]).exits(0).stdout;
    for part in [
        "\nprocessor ",
        "\nbf16 ",
        "\nmemory ",
        "\ndisk ",
        "\nCUDA ",
        "\nauto ",
        "\nmissing: ",
        MISSING,
    ] {
        assert!(told.contains(part), "no {part:?}: {told}");
    }
}

#[test]
fn programs_side_by_side_are_measured_together() {
    let folder = Folder::with_tiny_spec();
    folder.eas(["search", "spec.toml", "--run", "run", "--set", "final.compare=false"]).exits(0);
    let bench = |more: &[&str]| {
        let bench = ["bench", "run", "--batch", "4", "--seconds", "0.2", "--json"].into_iter();
        folder.eas(bench.chain(more.iter().copied())).exits(0).json()
    };
    let number = |value: &Value| value.as_f64().unwrap_or_else(|| panic!("{value}"));
    let alone = bench(&["--device", "cpu"]);
    assert_eq!(alone["device"], "cpu");
    assert!(alone["side_by_side"].is_null(), "{alone}");
    let ops: Vec<&Value> =
        alone["shares"].as_array().unwrap().iter().map(|share| &share["op"]).collect();
    for op in ["data", "conv", "loss", "update"] {
        assert_eq!(ops.iter().filter(|found| **found == op).count(), 1, "{op}: {alone}");
    }
    let (fastest, median) = (&alone["fastest_images_per_second"], &alone["images_per_second"]);
    assert!(number(fastest) >= number(median) && number(median) > 0.0, "{alone}");
    let both = bench(&["--side-by-side", "3", "--threads", "1"]);
    let each: Vec<f64> = both["side_by_side"].as_array().unwrap().iter().map(number).collect();
    let sum: f64 = each.iter().sum();
    assert_eq!(each.len(), 3, "{both}");
    assert!((number(&both["images_per_second"]) / sum - 1.0).abs() < 1e-9, "{both}");
    let doctor = folder.eas(["doctor", "--json"]).exits(0).json();
    let has_bf16 =
        doctor["cpu_features"].as_array().unwrap().iter().any(|feature| feature == "avx512_bf16");
    assert_eq!(alone["emulated"], false, "{alone}");
    let halves = ["bench", "run", "--batch", "4", "--seconds", "0.1", "--device", "cpu", "--json"];
    let told = folder.eas(halves.into_iter().chain(["--precision", "bf16"])).exits(0);
    assert_eq!(told.stderr.contains("no instructions for bf16"), !has_bf16, "{}", told.stderr);
    assert_eq!(told.json()["emulated"], !has_bf16);
    folder.eas(["bench", "run", "--side-by-side", "0"]).exits(2);
    folder.eas(["bench", "run", "--batch", "0"]).exits(2);
}

/// The devices that are here: the processor always, a GPU where there is one that this build can use.
fn devices(test: &str) -> Vec<Device> {
    let missing = survey_cuda().missing;
    if missing.is_empty() {
        return vec![Device::Cpu, Device::Cuda(0)];
    }
    let why = missing.join("; ");
    let text = format!("{test}: SKIPPED on CUDA, checked on the CPU alone: {why}\n");
    std::io::stderr().write_all(text.as_bytes()).unwrap();
    vec![Device::Cpu]
}

#[test]
fn edits_keep_the_function_as_every_device_computes_it() {
    let widen = || ("widen".to_owned(), Box::new(Widen::default()) as Box<dyn Transform>);
    let deepen = || ("deepen".to_owned(), Box::new(Deepen::default()) as _);
    let add_block = ("add_block".to_owned(), Box::new(AddBlock::default()) as _);
    let dense = [
        ("deepen_dense".to_owned(), Box::new(DeepenDense::default()) as _),
        ("widen_growth".to_owned(), Box::new(WidenGrowth::default()) as _),
        ("widen_transition".to_owned(), Box::new(WidenTransition::default()) as _),
    ];
    let spaces: [(&str, Box<dyn SearchSpace>, Transforms); 3] = [
        ("plain", Box::new(ConvNet::paper()), Transforms::new([deepen(), widen()])),
        (
            "residual",
            Box::new(Residual::resnet20()),
            Transforms::new([add_block, deepen(), widen()]),
        ),
        ("dense", Box::new(DenseNet::small()), Transforms::new(dense)),
    ];
    for device in devices("edits_keep_the_function_as_every_device_computes_it") {
        let engine = device.engine().unwrap();
        for (name, space, transforms) in &spaces {
            let report = law::check_preserves_by(&*engine, transforms, space.as_ref(), 0..2);
            let report = report.unwrap_or_else(|broken| panic!("{device}, {name}: {broken}"));
            assert!(report.networks == 2 && report.edits > 10, "{device}, {name}: {report:?}");
        }
    }
}
