//! The commands, as a person or a script uses them.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::Path;

use eas_ir::{Reference, Rng, SavedModel};
use eas_transform::{certify, law};
use serde_json::Value;

use crate::harness::{Done, Folder, TINY, cifar10, root};

#[test]
fn a_search_writes_the_documented_layout() {
    let folder = Folder::with_tiny_run();
    let run = folder.path("run");
    let expected = [
        "best",
        "bin",
        "build.json",
        "clock.json",
        "events.jsonl",
        "index.sqlite",
        "lock",
        "log.jsonl",
        "plan.toml",
        "report.json",
        "run.json",
        "spec.toml",
        "store",
        "trials",
    ];
    assert_eq!(names(&run), expected);
    assert_eq!(folder.read("run/spec.toml"), TINY);
    // The start network, two batches of two, a final, and two to compare it with.
    let trials: Vec<String> = (0..8).map(|trial| format!("{trial:04}")).collect();
    assert_eq!(names(&run.join("trials")), trials);
    let repeated = |trial: &str| {
        let result: Value =
            serde_json::from_str(&folder.read(&format!("run/trials/{trial}/result.json"))).unwrap();
        !result["same_as"].is_null()
    };
    for trial in trials {
        let found = names(&run.join("trials").join(&trial));
        if repeated(&trial) {
            assert_eq!(found, ["attempts", "model", "result.json", "trial.json"], "trial {trial}");
            assert_eq!(names(&run.join("trials").join(&trial).join("attempts")), [] as [&str; 0]);
        } else {
            assert_eq!(found, ["attempts", "model", "result.json", "trial.json"], "trial {trial}");
            let epochs = folder.read(&format!("run/trials/{trial}/attempts/1/epochs.jsonl"));
            epochs.lines().for_each(|line| {
                serde_json::from_str::<Value>(line).unwrap();
            });
            let model = run.join("trials").join(&trial).join("model");
            assert_eq!(names(&model), ["network.toml", "weights.safetensors"], "trial {trial}");
        }
    }
    assert_eq!(names(&run.join("best")), ["network.toml", "weights.safetensors"]);
    let carry = ["search", "spec.toml", "--run", "carry", "--set", "child.momentum=carry"];
    folder.eas(carry).exits(0);
    let result: Value =
        serde_json::from_str(&folder.read("carry/trials/0000/result.json")).unwrap();
    let (shelf, object) = result["momentum"].as_str().unwrap().split_at(2);
    let momentum = folder.path("carry/store").join(shelf).join(object);
    assert_eq!(names(&momentum), ["momentum.safetensors"]);
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let name = |entry: std::io::Result<std::fs::DirEntry>| {
        entry.unwrap().file_name().into_string().expect("names are UTF-8")
    };
    entries.map(name).collect::<BTreeSet<_>>().into_iter().collect()
}

/// What a run found, without what the clock has a hand in.
fn found(folder: &Folder, run: &str) -> Value {
    let mut trials = folder.eas(["trials", run, "--format", "json"]).exits(0).json();
    for trial in trials.as_array_mut().unwrap() {
        assert!(trial.as_object_mut().unwrap().remove("seconds").is_some());
    }
    trials
}

#[test]
fn one_seed_makes_one_search() {
    let folder = Folder::with_tiny_run();
    folder.eas(["search", "spec.toml", "--run", "again"]).exits(0);
    folder.eas(["search", "spec.toml", "--run", "other", "--seed", "4"]).exits(0);
    let run = found(&folder, "run");
    assert_eq!(run, found(&folder, "again"));
    assert_ne!(run, found(&folder, "other"));
    let weights = |run: &str| std::fs::read(folder.path(run).join("best/weights.safetensors"));
    assert_eq!(weights("run").unwrap(), weights("again").unwrap());
}

#[test]
fn a_child_that_was_trained_before_repeats_the_known_result() {
    let folder = Folder::with_tiny_spec();
    // The space holds fewer networks than are proposed.
    let settings = ["stage.0.batches=20", "stage.0.repeat=reuse", "final.compare=false"];
    let settings = settings.into_iter().flat_map(|key| ["--set", key]);
    folder.eas(["search", "spec.toml", "--run", "run"].into_iter().chain(settings)).exits(0);
    let trials = found(&folder, "run");
    let trials = trials.as_array().unwrap();
    assert_eq!(trials.len(), 1 + 40 + 1);
    let mut repeated = 0;
    for (number, trial) in trials.iter().enumerate() {
        assert_eq!(trial["trial"], format!("{number:04}"));
        if let Some(same) = trial["same_as"].as_str() {
            let known = &trials[same.parse::<usize>().unwrap()];
            assert!(known["same_as"].is_null(), "{trial}");
            for key in ["fingerprint", "ending", "parameters"] {
                assert_eq!(trial[key], known[key], "{key} of {trial}");
            }
            repeated += 1;
        }
    }
    assert!(repeated > 5, "{trials:?}");
}

#[test]
fn the_plan_of_a_run_is_a_spec_that_makes_the_same_run() {
    let folder = Folder::with_tiny_run();
    folder.eas(["search", "run/plan.toml", "--run", "again"]).exits(0);
    assert_eq!(found(&folder, "run"), found(&folder, "again"));
    assert_eq!(folder.read("run/plan.toml"), folder.read("again/plan.toml"));
}

#[test]
fn relative_paths_of_a_plan_start_where_those_of_its_spec_did() {
    let folder = Folder::with_tiny_run();
    let (before, after) = TINY.split_once("[space.convnet]").expect("the spec has a space");
    let (_, after) = after.split_once("[transform").expect("the spec has transforms");
    let spec = format!("{before}[space.network]\nstart = \"start.toml\"\n[transform{after}");
    folder.write("specs/spec.toml", spec);
    folder.write("specs/start.toml", folder.read("run/best/network.toml"));
    folder.eas(["search", "specs/spec.toml", "--run", "first"]).exits(0);
    folder.eas(["search", "first/plan.toml", "--run", "second"]).exits(0);
    assert_eq!(found(&folder, "first"), found(&folder, "second"));
}

#[test]
fn every_reading_command_prints_json() {
    let folder = Folder::with_tiny_run();
    let commands: [(&[&str], &str); 12] = [
        (&["list", "--json"], "/0/declared"),
        (&["data", "inspect", "synthetic", "--json"], "/parts/1/images"),
        (&["check", "spec.toml", "--no-forecast", "--json"], "/start_parameters"),
        (&["check", "spec.toml", "--json"], "/forecast/seconds"),
        (&["show", "run/best/network.toml", "--json"], "/fingerprint"),
        (&["show", "run/best", "--json"], "/classes/0"),
        (&["show", "run", "--json"], "/report/rows/0/test_accuracy"),
        (&["show", "run", "1", "--json"], "/result/certificate/gap"),
        (&["show", "run/best", "--format", "json"], "/blocks/0/layers"),
        (&["diff", "run", "--json"], "/changes"),
        (&["trials", "run", "--format", "json"], "/0/ending"),
        (&["gc", "run", "--dry-run", "--json"], "/kept/objects"),
    ];
    for (command, part) in commands {
        let json = folder.eas(command.iter().copied()).exits(0).json();
        assert!(json.pointer(part).is_some_and(|value| !value.is_null()), "{command:?}: {json}");
    }
}

#[test]
fn trials_as_csv_are_a_header_and_a_line_each() {
    let folder = Folder::with_tiny_run();
    let csv = folder.eas(["trials", "run", "--format", "csv"]).exits(0).stdout;
    let lines: Vec<&str> = csv.lines().collect();
    assert_eq!(lines.len(), 1 + 8, "{csv}");
    assert!(lines[0].starts_with("trial,purpose,parent,"), "{csv}");
    let columns = lines[0].split(',').count();
    for (number, line) in lines[1..].iter().enumerate() {
        // The last column is the edits, which hold commas between quotes.
        let (values, edits) = line.split_once(",\"").unwrap();
        assert_eq!(values.split(',').count(), columns - 1, "{line}");
        assert!(line.starts_with(&format!("{number:04},")) && edits.ends_with('"'), "{line}");
    }
}

#[test]
fn show_shows_networks_models_runs_and_trials() {
    let folder = Folder::with_tiny_run();
    for (what, parts) in [
        (&["run/best/network.toml"][..], &["classifier", "fingerprint", "MACs"][..]),
        (&["run/best"], &["classifier", "fingerprint", "classes stripes_0"]),
        (&["run"], &["8 finished trials", "best child", "start network, trained as long"]),
        (&["run", "1"], &["trial 0001 (child)", "function preserved", "step 1", "fingerprint"]),
    ] {
        let shown = folder.eas(["show"].into_iter().chain(what.iter().copied())).exits(0).stdout;
        for part in parts {
            assert!(shown.contains(part), "show {what:?} lacks {part:?}: {shown}");
        }
    }
    let missing = folder.eas(["show", "run", "99"]).exits(2).stderr;
    assert!(missing.contains("no finished trial 0099; there are 0 to 7"), "{missing}");
}

#[test]
fn transform_certifies_every_edit_and_writes_the_child() {
    let folder = Folder::with_tiny_run();
    let model = "run/trials/0000/model";
    let edits = ["--apply", "widen n1 to 7", "--apply", "deepen n5 with kernel 3"];
    let command = ["transform", model, "--out", "child", "--no-noise"];
    let done = folder.eas(command.into_iter().chain(edits)).exits(0);
    let lines: Vec<&str> = done.stdout.lines().collect();
    for (line, edit) in lines.iter().zip(["widen n1 to 7", "deepen n5 with kernel 3"]) {
        assert!(line.starts_with(&format!("{edit}: function preserved")), "{}", done.stdout);
    }
    assert_eq!(lines[2..], ["Wrote child"]);
    let child = folder.eas(["show", "child", "--json"]).exits(0).json();
    let parent = folder.eas(["show", model, "--json"]).exits(0).json();
    assert_eq!(child["depth"].as_u64(), parent["depth"].as_u64().map(|depth| depth + 1));
    let json = ["transform", model, "--out", "other", "--json"].into_iter().chain(edits);
    let json = folder.eas(json).exits(0).json();
    assert_eq!(json[1]["edit"], edits[3]);
    assert_eq!(json[1]["certificate"]["verdict"], "preserved");
    // Without noise, what is written is the same function.
    let [parent, child] =
        [model, "child"].map(|name| SavedModel::load(&folder.path(name)).unwrap().model);
    let images = law::random_images(parent.input_shape(), 32, &Rng::new(1));
    let certificate = certify(&parent, &child, &images, &Reference).unwrap();
    assert!(certificate.gap < 1e-5, "{certificate}");
}

#[test]
fn an_edit_that_cannot_be_made_is_refused_and_nothing_is_written() {
    let folder = Folder::with_tiny_run();
    for (edit, why) in [
        ("widen n1 to 2", "expected a width above the present"),
        ("widen n3 to 64", "n3 is no layer that can be widened"),
        ("deepen n1 with kernel 2", "expected an odd kernel"),
        ("widne n1 to 64", "did you mean `widen`?"),
        ("widen n1", "such as `widen n1 to 64`"),
        ("widen the first layer", "expected an edit such as"),
    ] {
        let done = folder.eas(["transform", "run/best", "--out", "child", "--apply", edit]);
        let done = done.exits(2);
        assert!(done.stderr.contains(why), "{edit}: {}", done.stderr);
        assert!(!folder.path("child").exists(), "{edit}");
    }
}

#[test]
fn a_network_is_trained_and_tested_and_goes_on() {
    let folder = Folder::new();
    folder.write(
        "spec.toml",
        // The images that `train` and `test` know the data set by, when given no options.
        TINY.replace("images = 80\nheight = 8\nwidth = 8\nvalidation = 16", "train = 64"),
    );
    folder.eas(["search", "spec.toml", "--run", "run", "--set", "final.compare=false"]).exits(0);
    let train = |network, out| {
        let recipe = ["--set", "epochs=1", "--set", "data.train=128", "--set", "batch=16"];
        let command = ["train", network, "--data", "synthetic", "--out", out, "--json"];
        folder.eas(command.into_iter().chain(recipe)).exits(0).json()
    };
    let trained = train("run/best/network.toml", "trained");
    assert_eq!(trained["epochs"].as_array().unwrap().len(), 1);
    let longer = train("trained", "longer");
    let loss = |training: &Value| training["epochs"][0]["training_loss"].as_f64().unwrap();
    assert!(loss(&longer) < loss(&trained), "{trained}\n{longer}");
    let tested = folder.eas(["test", "longer", "--data", "synthetic", "--json"]).exits(0).json();
    let share = tested["correct"].as_f64().unwrap() / tested["images"].as_f64().unwrap();
    assert_eq!(tested["accuracy"].as_f64(), Some(share));
    let harder = ["--set", "data.noise=8.0", "--json"];
    let harder = ["test", "longer", "--data", "synthetic"].into_iter().chain(harder);
    let harder = folder.eas(harder).exits(0).json();
    assert_eq!(harder["images"], tested["images"]);
    assert!(harder["correct"].as_u64() < tested["correct"].as_u64(), "{harder}\n{tested}");
    let stray = ["test", "longer", "--data", "synthetic", "--set", "noise=8.0"];
    assert!(folder.eas(stray).exits(2).stderr.contains("expected a key of the data set"));
    let again = folder.eas(["train", "trained", "--data", "synthetic", "--out", "trained"]);
    assert!(again.exits(2).stderr.contains("trained: this already exists"));
    let other = folder.eas(["test", "longer", "--data", "fashion_mnist_subset"]).exits(2);
    assert!(other.stderr.contains("the model takes 1x16x16"), "{}", other.stderr);
}

#[test]
fn piped_progress_is_lines_and_results_are_apart_from_it() {
    let folder = Folder::with_tiny_spec();
    let done = folder.eas(["search", "spec.toml", "--run", "run", "--json"]).exits(0);
    assert_eq!(done.json()["run"], "run");
    // A line says where the run goes, and one tells of each trial.
    assert_eq!(done.stderr.lines().count(), 1 + 8, "{}", done.stderr);
    let controls = |text: &str| text.chars().any(|c| c.is_control() && c != '\n');
    assert!(!controls(&done.stderr) && !controls(&done.stdout), "{done:?}");
}

#[test]
fn an_interrupted_search_keeps_what_was_done() {
    let folder = Folder::with_tiny_spec();
    let command = ["search", "spec.toml", "--run", "run", "--set", "stage.0.batches=100000"];
    let mut search = folder.command(command).spawn().unwrap();
    let mut stderr = BufReader::new(search.stderr.take().unwrap());
    let mut seen = String::new();
    while !seen.contains("\n0002 ") {
        assert_ne!(stderr.read_line(&mut seen).unwrap(), 0, "the search ended: {seen}");
    }
    let interrupt = ["-INT", &search.id().to_string()].map(str::to_owned);
    assert!(std::process::Command::new("kill").args(interrupt).status().unwrap().success());
    for line in stderr.lines() {
        seen += &(line.unwrap() + "\n");
    }
    assert_eq!(search.wait().unwrap().code(), Some(130), "{seen}");
    assert!(seen.contains("Interrupted.") && seen.contains("eas trials run"), "{seen}");
    let trials = folder.eas(["trials", "run", "--format", "json"]).exits(0).json();
    let told = seen.lines().filter(|line| line.starts_with("00")).count();
    assert!(told >= 3);
    assert_eq!(trials.as_array().unwrap().len(), told, "{seen}");
    assert!(folder.eas(["show", "run"]).exits(0).stdout.contains("not come to its final"));
}

#[test]
fn a_run_never_overwrites_another() {
    let folder = Folder::with_tiny_run();
    let again = folder.eas(["search", "spec.toml", "--run", "run"]).exits(2);
    assert!(again.stderr.contains("run: this already exists"), "{}", again.stderr);
    for expected in ["runs/tiny", "runs/tiny-2"] {
        let done = folder.eas(["search", "spec.toml", "--json"]).exits(0);
        assert_eq!(done.json()["run"], expected);
    }
}

/// Checks a spec without a forecast; those for CIFAR-10 only where it is.
fn check_spec(folder: &Folder, name: &str, spec: &str) {
    let mut command = folder.command(["check", spec, "--no-forecast"]);
    if name.starts_with("c10") {
        let Some(data) = cifar10(name) else { return };
        command.env("EAS_DATA", data);
    }
    let done = Done::from(command.output().unwrap()).exits(0);
    assert!(done.stdout.contains("the spec is fine"), "{name}: {}", done.stdout);
}

#[test]
fn every_template_is_a_spec_that_passes_its_check() {
    let folder = Folder::new();
    let list = folder.eas(["init", "--list"]).exits(0).stdout;
    let templates: Vec<&str> =
        list.lines().skip(1).filter_map(|line| line.split(' ').next()).collect();
    assert!(templates.len() >= 4, "{list}");
    for template in templates {
        let path = format!("{template}.toml");
        folder.eas(["init", "--template", template, &path]).exits(0);
        let again = folder.eas(["init", "--template", template, &path]).exits(2);
        assert!(again.stderr.contains("--force overwrites it"), "{}", again.stderr);
        folder.eas(["init", "--template", template, &path, "--force"]).exits(0);
        check_spec(&folder, template, &path);
    }
}

#[test]
fn every_spec_of_the_repository_passes_its_check() {
    let folder = Folder::new();
    let specs = names(&root().join("specs"));
    assert!(specs.len() >= 4, "{specs:?}");
    for name in specs {
        let path = root().join("specs").join(&name);
        check_spec(&folder, &name, path.to_str().expect("paths are UTF-8"));
    }
}

#[test]
fn help_lists_commands_and_exit_codes() {
    let help = Folder::new().eas(["--help"]).exits(0).stdout;
    insta::assert_snapshot!(help);
}

#[test]
fn shells_complete_every_command() {
    let script = Folder::new().eas(["completions", "bash"]).exits(0).stdout;
    let help = Folder::new().eas(["--help"]).exits(0).stdout;
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let commands: Vec<&str> = commands
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert!(commands.len() >= 10, "{help}");
    for command in commands {
        assert!(script.contains(&format!("eas,{command})")), "no {command}: {script}");
    }
}

/// An IDX file of images of these sides.
fn idx_images(height: u8, width: u8, pixels: &[u8]) -> Vec<u8> {
    let count = (pixels.len() / usize::from(height) / usize::from(width)) as u8;
    [&[0, 0, 8, 3, 0, 0, 0, count, 0, 0, 0, height, 0, 0, 0, width], pixels].concat()
}

/// An IDX file of labels.
fn idx_labels(labels: &[u8]) -> Vec<u8> {
    [&[0, 0, 8, 1, 0, 0, 0, labels.len() as u8], labels].concat()
}

#[test]
fn an_inspected_data_set_is_counted_and_drawn_and_images_in_two_parts_are_told() {
    let folder = Folder::new();
    let images = |pixels: &[u8]| idx_images(1, 2, pixels);
    let labels = idx_labels;
    folder.write("data/train-images-idx3-ubyte", images(&[0, 255, 0, 0, 255, 255]));
    folder.write("data/train-labels-idx1-ubyte", labels(&[1, 0, 1]));
    folder.write("data/t10k-images-idx3-ubyte", images(&[255, 255, 9, 9]));
    folder.write("data/t10k-labels-idx1-ubyte", labels(&[1, 1]));
    let arguments = ["data", "inspect", "idx=data", "--sheet", "sheet.png", "--json"];
    let found = folder.eas(arguments).exits(0).json();
    assert_eq!(found["parts"][0]["counts"], serde_json::json!([1, 2]), "{found}");
    assert_eq!(found["parts"][0]["mean"], serde_json::json!([0.5]), "{found}");
    assert_eq!(found["shared"], 1, "{found}");
    assert!(std::fs::read(folder.path("sheet.png")).unwrap().starts_with(b"\x89PNG"));
    // A path is enough.
    let told = folder.eas(["data", "inspect", "data"]).exits(0).stdout;
    assert!(told.starts_with("idx: images of 1x1x2, 2 classes\n"), "{told}");
    assert!(told.contains("warning: 1 test images stand among the training images"), "{told}");
    folder.write("data/train-labels-idx1-ubyte", labels(&[1, 0]));
    let refused = folder.eas(arguments).exits(2).stderr;
    assert!(refused.contains("expected 3 labels, as many as images, found 2"), "{refused}");
}

#[test]
fn what_is_wrong_with_test_images_is_told() {
    let folder = Folder::new();
    // Rows of one value each, darker ones and lighter ones.
    let pixels = |values: std::ops::Range<u8>| -> Vec<u8> {
        values.flat_map(|value| [if value % 2 == 0 { value } else { 255 - value }; 64]).collect()
    };
    let classes = |count| (0..count).map(|image: u8| image % 2).collect::<Vec<u8>>();
    folder.write("data/train-images-idx3-ubyte", idx_images(8, 8, &pixels(0..80)));
    folder.write("data/train-labels-idx1-ubyte", idx_labels(&classes(80)));
    let (before, after) = TINY.split_once("[data.synthetic]").unwrap();
    let after = &after[after.find("\n\n").unwrap()..];
    let spec = format!("{before}[data.idx]\npath = \"data\"\nvalidation = 16{after}");
    folder.write("spec.toml", spec);
    let search = ["search", "spec.toml", "--run", "run"];

    // None at all: nothing is trained for a report that can't be made.
    let refused = folder.eas(search).exits(2).stderr;
    assert!(refused.contains("data.idx: expected images to test on too, found none"), "{refused}");
    assert!(!folder.path("run").exists());
    let told = folder.eas(["data", "inspect", "data"]).exits(0);
    assert!(told.stderr.contains("note: no images to test on"), "{told:?}");

    // Damaged ones are no missing ones.
    let test = idx_images(8, 8, &pixels(75..95));
    folder.write("data/t10k-images-idx3-ubyte", &test[..100]);
    folder.write("data/t10k-labels-idx1-ubyte", idx_labels(&classes(20)));
    let refused = folder.eas(["data", "inspect", "data"]).exits(2).stderr;
    assert!(refused.contains("expected 1280 bytes of pixels, found 84 up to the end"), "{refused}");

    // Some of them are training images.
    folder.write("data/t10k-images-idx3-ubyte", &test);
    let told = folder.eas(search).exits(0).stdout;
    let expected = "\nwarning: 5 of 20 test images stand among those trained or validated on\n";
    assert!(told.contains(expected), "{told}");
    let report: Value = serde_json::from_str(&folder.read("run/report.json")).unwrap();
    assert_eq!(report["test_shared"], 5);
}

#[test]
fn a_run_records_when_eas_test_opens_its_test_images() {
    let folder = Folder::with_tiny_run();
    let options =
        ["images=80", "height=8", "width=8"].map(|option| format!("data.{option}")).join("\n");
    let set: Vec<&str> = options.lines().flat_map(|option| ["--set", option]).collect();
    let test = |more: &[&str]| {
        let test = ["test", "run/best", "--data", "synthetic", "--json"].into_iter();
        folder.eas(test.chain(set.iter().copied()).chain(more.iter().copied())).exits(0).json()
    };
    let alone = test(&[]);
    assert!(alone["test_time_augmentation"].is_null(), "{alone}");
    let both = test(&["--test-time-augmentation", "mirror"]);
    assert_eq!(
        (&both["test_time_augmentation"], &both["images"]),
        (&"mirror".into(), &alone["images"])
    );
    let events = folder.read("run/events.jsonl");
    let events: Vec<Value> =
        events.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let kinds: Vec<&str> = events.iter().map(|event| event["event"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["test_opened", "tested", "tested"]);
    assert_eq!(events[1]["model"], "best");
    assert!(events[1]["test_time_augmentation"].is_null(), "{events:?}");
    assert_eq!(events[2]["test_time_augmentation"], "mirror");
    assert!(events[1]["at"].as_u64() >= events[0]["at"].as_u64(), "{events:?}");
    // A report that is made afterwards says so.
    let longer = ["resume", "run", "--extend-batches", "1"];
    let told = folder.eas(longer).exits(0).stdout;
    assert!(told.contains("models of this run had been tested on them before (2)"), "{told}");
}
