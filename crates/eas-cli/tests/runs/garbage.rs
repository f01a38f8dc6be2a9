//! What is removed of a store changes nothing that a run comes to.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::{
    DAMAGED, Place, assert_undisturbed, eas, json, kill, outcome, output, resume, said, start,
    succeeds,
};

/// The smallest store: only what is needed stays.
const SMALLEST: [&str; 2] = ["store.size=1B", "store.keep_best=0"];

fn gc(run: &Path, arguments: &[&str]) -> Value {
    let done = succeeds(eas("gc", run).args(arguments).arg("--json"));
    serde_json::from_slice(&done.stdout).unwrap()
}

fn verify(run: &Path) -> Value {
    let done = succeeds(eas("verify", run).arg("--json"));
    serde_json::from_slice(&done.stdout).unwrap()
}

fn objects(run: &Path) -> Vec<String> {
    let mut objects = Vec::new();
    for shelf in fs::read_dir(run.join("store")).unwrap() {
        let shelf = shelf.unwrap();
        for object in fs::read_dir(shelf.path()).into_iter().flatten() {
            let (shelf, rest) = (shelf.file_name(), object.unwrap().file_name());
            objects.push(format!("{}/{}", shelf.display(), rest.display()));
        }
    }
    objects.retain(|name| !name.ends_with(".collected"));
    objects.sort();
    objects
}

#[test]
fn a_search_in_the_smallest_store_comes_to_the_same() {
    let place = Place::new();
    let run = place.path("run");
    succeeds(&mut place.search("run", &SMALLEST));
    assert_undisturbed(&run, "the smallest store");
    let verified = verify(&run);
    assert!(verified["collected"].as_u64().unwrap() > 10, "{verified}");
}

#[test]
fn collecting_between_kills_changes_nothing() {
    let place = Place::new();
    let run = place.path("run");
    let mut coordinator = start(&mut place.search("run", &[]));
    let mut removed = 0;
    for pause in (0..12).map(|turn| 150 + 90 * turn) {
        std::thread::sleep(Duration::from_millis(pause));
        kill(coordinator.id());
        coordinator.wait().unwrap();
        if run.join("run.json").exists() {
            removed += gc(&run, &["--keep-best", "0"])["removed"]["objects"].as_u64().unwrap();
            coordinator = start(&mut eas("resume", &run));
        } else {
            let _ = fs::remove_dir_all(&run);
            coordinator = start(&mut place.search("run", &[]));
        }
    }
    coordinator.wait().unwrap();
    resume(&run, None);
    assert_undisturbed(&run, "collected between kills");
    assert!(removed > 0, "nothing was collected on the way");
    gc(&run, &["--keep-best", "0"]);
    assert_undisturbed(&run, "collected at the end");
}

/// What is proposed again after it was stopped, by another stage or part, is gone on from; what is
/// trained as long as a child may repeat one without an edit.
#[test]
fn what_is_repeated_is_there_to_be_gone_on_from() {
    let narrow = [
        "controller.random.probability=0.2",
        "stage.0.actions=[\"widen x1\"]",
        "stage.0.parent=start",
        "stage.0.halving.rungs=[1]",
        "stage.0.promote.seeds=0",
        "stage.0.promote.epochs=2",
        "stage.1.actions=[\"widen x1\"]",
        "stage.1.batches=3",
        "stage.1.halving.rungs=[1]",
        "stage.2.repeat=reuse",
        "stage.2.batches=3",
    ];
    let place = Place::new();
    let small: Vec<&str> = narrow.iter().chain(&SMALLEST).copied().collect();
    succeeds(&mut place.search("large", &narrow));
    succeeds(&mut place.search("small", &small));
    let (large, small) = (outcome(&place.path("large")), outcome(&place.path("small")));
    let went_on = large.values().filter(|v| v["ending"].is_object() && !v["continues"].is_null());
    let from_repeated = went_on.filter(|result| {
        let before = result["continues"].as_str().unwrap();
        !large[&format!("{before}/result.json")]["same_as"].is_null()
    });
    assert!(from_repeated.count() > 0, "the seed makes this a test: nothing repeated goes on");
    assert_eq!(large, small);
    assert!(verify(&place.path("small"))["collected"].as_u64().unwrap() > 10);
}

#[test]
fn a_run_is_made_longer_after_a_collection_as_it_would_have_been() {
    let place = Place::new();
    let set = ["stage.2.promote.seeds=1", "stage.2.promote.epochs=1"];
    for (name, collected) in [("whole", false), ("collected", true)] {
        let run = place.path(name);
        succeeds(&mut place.search(name, &set));
        if collected {
            assert!(gc(&run, &["--keep-best", "0"])["removed"]["bytes"].as_u64().unwrap() > 0);
        }
        succeeds(eas("resume", &run).args(["--extend-batches", "1"]));
    }
    assert_eq!(outcome(&place.path("whole")), outcome(&place.path("collected")));
    verify(&place.path("collected"));
}

#[test]
fn a_store_that_is_made_smaller_loses_nothing_that_lies_ahead() {
    let place = Place::new();
    for (name, smaller) in [("whole", false), ("smaller", true)] {
        let run = place.path(name);
        succeeds(&mut place.search(name, &[]));
        if smaller {
            let plan = fs::read_to_string(run.join("plan.toml")).unwrap();
            let kept = plan.replace("keep_best = 5", "keep_best = 0");
            let (before, after) = kept.split_once("size = ").unwrap();
            let rest = after.split_once('\n').map_or("", |(_, rest)| rest);
            fs::write(run.join("plan.toml"), format!("{before}size = \"1B\"\n{rest}")).unwrap();
        }
        succeeds(eas("resume", &run).args(["--extend-batches", "1"]));
    }
    assert_eq!(outcome(&place.path("whole")), outcome(&place.path("smaller")));
    assert!(verify(&place.path("smaller"))["collected"].as_u64().unwrap() > 0);
}

#[test]
fn what_was_collected_is_told_from_what_is_damaged() {
    let place = Place::new();
    let run = place.path("run");
    succeeds(&mut place.search("run", &[]));
    let before = objects(&run);
    let planned = gc(&run, &["--dry-run"]);
    assert_eq!(objects(&run), before, "a dry run");
    assert_eq!(planned["keep_best"], 5);
    // It dies at its first object, and does all of it afterwards.
    let wish = format!("collect.renamed=abort={}", place.path("marker").display());
    assert!(!output(eas("gc", &run).env("EAS_FAILPOINT", wish)).status.success());
    let done = gc(&run, &[]);
    assert_eq!(done["kept"], planned["kept"]);
    let after = objects(&run);
    assert_eq!(after.len() as u64, done["kept"]["objects"]);
    assert!(after.len() < before.len());
    let verified = verify(&run);
    assert!(verified["collected"].as_u64().unwrap() > 0, "{verified}");
    let gone: Vec<Value> = (0..40)
        .map(|trial| run.join(format!("trials/{trial:04}/result.json")))
        .filter(|path| path.exists())
        .map(|path| json(&path))
        .filter(|result| {
            let object = result["model"].as_str().map(|model| {
                let (shelf, rest) = model.split_at(2);
                format!("{shelf}/{rest}")
            });
            object.is_some_and(|object| !after.contains(&object))
        })
        .collect();
    let trial = gone[0]["trial"].as_str().unwrap();
    let shown = succeeds(eas("show", &run).arg(trial));
    assert!(said(&shown).contains("its weights were collected"), "{}", said(&shown));
    assert!(!run.join(format!("trials/{trial}/model")).is_symlink(), "a link that leads nowhere");
    fs::remove_dir_all(run.join("store").join(&after[0])).unwrap();
    let verified = output(&mut eas("verify", &run));
    assert_eq!(verified.status.code(), Some(DAMAGED), "{}", said(&verified));
    assert!(said(&verified).contains("found nothing"), "{}", said(&verified));
}
