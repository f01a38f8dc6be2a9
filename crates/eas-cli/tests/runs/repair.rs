//! What is damaged or lost in a run that can be made again is made again.

use std::fs;
use std::path::Path;

use super::{Place, assert_undisturbed, eas, files, json, output, resume, said, succeeds};

type Damage = fn(run: &Path);

/// Changes a byte in the middle of a file.
fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x55;
    fs::write(path, bytes).unwrap();
}

fn tear(path: &Path) {
    let bytes = fs::read(path).unwrap();
    fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
}

const DAMAGES: &[(&str, Damage)] = &[
    ("a report", |run| tear(&run.join("report.json"))),
    ("a report of other keys", |run| {
        let path = run.join("report.json");
        let text = fs::read_to_string(&path).unwrap();
        fs::write(path, text.replace("\"rows\"", "\"rowz\"")).unwrap();
    }),
    ("a result", |run| tear(&run.join("trials/0002/result.json"))),
    ("the start network's result", |run| tear(&run.join("trials/0000/result.json"))),
    ("an assignment", |run| tear(&run.join("trials/0001/trial.json"))),
    ("the model that is handed over", |run| flip(&run.join("best/weights.safetensors"))),
    ("the model that is handed over, lost", |run| fs::remove_dir_all(run.join("best")).unwrap()),
];

#[test]
fn records_that_cannot_be_read_are_found_and_made_again() {
    let place = Place::new();
    let whole = place.path("whole");
    succeeds(&mut place.search("whole", &[]));
    for (name, damage) in DAMAGES {
        let run = place.path("run");
        assert!(
            std::process::Command::new("cp")
                .arg("-a")
                .args([&whole, &run])
                .status()
                .unwrap()
                .success()
        );
        damage(&run);
        let found = output(&mut eas("verify", &run));
        assert_eq!(found.status.code(), Some(4), "{name}: {}", said(&found));
        output(eas("verify", &run).args(["--rebuild", "--repair"]));
        resume(&run, None);
        assert_undisturbed(&run, name);
        fs::remove_dir_all(&run).unwrap();
    }
}

#[test]
fn a_run_goes_on_with_this_program_where_nothing_says_which_made_it() {
    let place = Place::new();
    let run = place.path("run");
    succeeds(&mut place.search("run", &[]));
    fs::write(run.join("build.json"), "").unwrap();
    fs::remove_file(run.join("report.json")).unwrap();
    let refused = output(&mut eas("resume", &run));
    assert_eq!(refused.status.code(), Some(2), "{}", said(&refused));
    assert!(said(&refused).contains("--accept-build"), "{}", said(&refused));
    succeeds(eas("resume", &run).arg("--accept-build"));
    assert_undisturbed(&run, "an empty build.json");
}

#[test]
fn a_run_is_made_no_longer_than_trials_have_numbers() {
    let place = Place::new();
    let run = place.path("run");
    succeeds(&mut place.search("run", &[]));
    let before = files(&run);
    let refused = output(eas("resume", &run).args(["--extend-batches", "2000000"]));
    assert_eq!(refused.status.code(), Some(2), "{}", said(&refused));
    assert!(
        said(&refused).contains("--extend-batches 2000000: expected 1000000 trials"),
        "{}",
        said(&refused)
    );
    assert_eq!(files(&run), before);
}

#[test]
fn an_index_that_lacks_what_is_published_gets_it_when_a_run_goes_on() {
    let place = Place::new();
    let run = place.path("run");
    succeeds(&mut place.search("run", &[]));
    fs::remove_file(run.join("index.sqlite")).unwrap();
    succeeds(eas("resume", &run).args(["--extend-batches", "1"]));
    succeeds(&mut eas("verify", &run));
}

#[test]
fn an_index_with_damaged_pages_is_made_anew() {
    let place = Place::new();
    let run = place.path("run");
    succeeds(&mut place.search("run", &[]));
    let path = run.join("index.sqlite");
    let mut bytes = fs::read(&path).unwrap();
    // The schema is in the first page.
    bytes[4096..].fill(0xff);
    fs::write(path, bytes).unwrap();
    succeeds(&mut eas("status", &run));
    fs::remove_file(run.join("report.json")).unwrap();
    succeeds(&mut eas("resume", &run));
    assert_undisturbed(&run, "an index with damaged pages");
}

#[test]
fn damage_that_a_search_meets_is_told_from_its_own_failures() {
    let place = Place::new();
    let run = place.path("run");
    succeeds(&mut place.search("run", &[]));
    let start = json(&run.join("trials/0000/result.json"))["model"].clone();
    let (shelf, rest) = start.as_str().unwrap().split_at(2);
    flip(&run.join("store").join(shelf).join(rest).join("weights.safetensors"));
    let grown = (1..).map(|trial| run.join(format!("trials/{trial:04}")));
    let grown = grown.take_while(|trial| trial.exists()).find(|trial| {
        json(&trial.join("trial.json"))["origin"].to_string().contains(start.as_str().unwrap())
    });
    fs::remove_file(grown.expect("a child of the start network").join("result.json")).unwrap();
    fs::remove_file(run.join("report.json")).unwrap();
    let stopped = output(&mut eas("resume", &run));
    assert_eq!(stopped.status.code(), Some(4), "{}", said(&stopped));
    assert!(
        said(&stopped).contains("--repair has what is damaged trained again"),
        "{}",
        said(&stopped)
    );
    output(eas("verify", &run).args(["--rebuild", "--repair"]));
    resume(&run, None);
    assert_undisturbed(&run, "a damaged start network");
}
