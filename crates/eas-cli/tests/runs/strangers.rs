//! A run directory from a stranger: looking at it runs nothing of it, waits for nothing, and changes
//! nothing, in it or outside.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::{Place, eas, files, json, output, said, succeeds};

/// What is done to a run, besides a folder with what must stay as it is.
type Trap = fn(run: &Path, outside: &Path);

fn swap(path: &Path, target: &Path) {
    if path.is_dir() && !path.is_symlink() {
        fs::remove_dir_all(path).unwrap();
    } else {
        let _ = fs::remove_file(path);
    }
    symlink(target, path).unwrap();
}

fn pipe(path: &Path) {
    let _ = fs::remove_file(path);
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

fn sql(path: &Path, text: &str) {
    let database = rusqlite::Connection::open(path).unwrap();
    database.execute_batch(text).unwrap();
}

fn edit(path: &Path, change: fn(&mut serde_json::Value)) {
    let mut value = json(path);
    change(&mut value);
    fs::write(path, value.to_string()).unwrap();
}

/// Gives a terminal another title and clears it.
const WHY: &str = "\u{1b}]0;another title\u{7}\u{1b}[2J";

const TRAPS: &[(&str, Trap)] = &[
    ("parts of files that are links", |run, outside| {
        for name in ["clock.json", "report.json", "build.json", "trials/0001/trial.json"] {
            symlink(outside.join("precious"), run.join(format!("{name}.part"))).unwrap();
        }
    }),
    ("a lock that is a link", |run, outside| swap(&run.join("lock"), &outside.join("precious"))),
    ("a lock that is a pipe", |run, _| pipe(&run.join("lock"))),
    ("events that are a link", |run, outside| {
        swap(&run.join("events.jsonl"), &outside.join("precious"))
    }),
    ("a log that is a link", |run, outside| {
        swap(&run.join("log.jsonl"), &outside.join("precious"))
    }),
    ("a plan that is a pipe", |run, _| pipe(&run.join("plan.toml"))),
    ("a plan without end", |run, _| swap(&run.join("plan.toml"), Path::new("/dev/zero"))),
    ("an attempt's log that is a pipe", |run, _| {
        fs::remove_file(run.join("trials/0001/result.json")).unwrap();
        pipe(&run.join("trials/0001/attempts/1/log.txt"));
    }),
    ("a report that is a pipe", |run, _| pipe(&run.join("report.json"))),
    ("a result that is a pipe", |run, _| {
        fs::remove_file(run.join("index.sqlite")).unwrap();
        pipe(&run.join("trials/0001/result.json"));
    }),
    ("an index that is a link", |run, outside| {
        swap(&run.join("index.sqlite"), &outside.join("database"))
    }),
    ("an index with a view without end", |run, _| {
        sql(
            &run.join("index.sqlite"),
            "ALTER TABLE trial RENAME TO hidden;
             CREATE VIEW trial AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)
             SELECT i AS trial FROM n;",
        );
    }),
    ("a collected object that is a link", |run, outside| {
        fs::create_dir_all(run.join("store/ab")).unwrap();
        symlink(outside, run.join("store/ab/00.collected")).unwrap();
    }),
    ("an object that is a link", |run, outside| {
        fs::create_dir_all(run.join("store/ab")).unwrap();
        symlink(outside, run.join("store/ab").join("cd".repeat(31))).unwrap();
    }),
    ("an index with triggers", |run, _| {
        sql(
            &run.join("index.sqlite"),
            "CREATE TRIGGER t AFTER INSERT ON trial BEGIN DELETE FROM trial; END;",
        );
    }),
    ("attempts that are a link", |run, outside| {
        swap(&run.join("trials/0001/attempts/1"), &outside.join("folder"));
    }),
    ("a trial that is a link", |run, outside| {
        swap(&run.join("trials/0001"), &outside.join("folder"))
    }),
    ("trials that are a link", |run, outside| swap(&run.join("trials"), &outside.join("folder"))),
    ("a store that is a link", |run, outside| swap(&run.join("store"), &outside.join("folder"))),
    ("huge numbers", |run, _| {
        edit(&run.join("trials/0001/result.json"), |result| {
            result["parameters"] = u64::MAX.into();
            result["epochs"] = u64::MAX.into();
            result["seconds"] = 1e300.into();
            result["attempt"] = u32::MAX.into();
        });
        fs::remove_file(run.join("index.sqlite")).unwrap();
    }),
    ("reasons that a terminal would obey", |run, _| {
        edit(&run.join("trials/0001/result.json"), |result| {
            result["ending"] = serde_json::json!({ "kind": "failed", "why": WHY });
        });
        fs::remove_file(run.join("index.sqlite")).unwrap();
        let trials = fs::read_dir(run.join("trials")).unwrap();
        let last = trials.map(|trial| trial.unwrap().path()).max().unwrap();
        fs::remove_file(last.join("result.json")).unwrap();
        let attempt = last.join("attempts/1");
        fs::create_dir_all(&attempt).unwrap();
        let ending =
            serde_json::json!({ "kind": "failed", "why": WHY, "seconds": 1.0, "log": WHY });
        fs::write(attempt.join("ending.json"), ending.to_string()).unwrap();
    }),
    ("an ancestor of itself", |run, _| {
        for file in ["result", "trial"] {
            let path = run.join(format!("trials/0001/{file}.json"));
            let text = fs::read_to_string(&path).unwrap();
            let own = text.replace("\"parent\": \"0000\"", "\"parent\": \"0001\"");
            assert_ne!(own, text);
            fs::write(path, own).unwrap();
        }
    }),
    ("a digest that leads away", |run, _| {
        edit(&run.join("trials/0001/result.json"), |result| {
            result["model"] = "../../../../etc".into();
        });
    }),
    ("another program", |run, outside| {
        let script = format!("#!/bin/sh\necho run > {}\n", outside.join("was-run").display());
        fs::remove_file(run.join("bin/eas")).unwrap();
        fs::write(run.join("bin/eas"), script).unwrap();
        fs::set_permissions(run.join("bin/eas"), fs::Permissions::from_mode(0o755)).unwrap();
    }),
];

fn assert_harmless(done: &Output, what: &str) {
    let code = done.status.code();
    assert!(code.is_some_and(|code| code < 6), "{what}: {}", said(done));
    let escape = |text: &[u8]| text.contains(&0x1b);
    assert!(!escape(&done.stdout) && !escape(&done.stderr), "{what}: {:?}", said(done));
}

/// The commands that look.
const LOOKS: &[&[&str]] = &[
    &["status"],
    &["watch"],
    &["trials"],
    &["lineage"],
    &["show"],
    &["show", "1"],
    &["diff"],
    &["verify"],
];

/// Every file of a folder with its bytes, and every link with its target.
fn state(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let kind = fs::symlink_metadata(&path).unwrap().file_type();
        if kind.is_symlink() {
            let target = fs::read_link(&path).unwrap();
            all.insert(path, target.into_os_string().into_encoded_bytes());
        } else if kind.is_dir() {
            all.extend(state(&path));
        } else if kind.is_file() {
            all.insert(path.clone(), fs::read(&path).unwrap());
        }
    }
    all
}

#[test]
fn a_strangers_run_is_looked_at_without_harm() {
    let place = Place::new();
    let whole = place.path("whole");
    succeeds(&mut place.search("whole", &["run.deadline=0s"]));
    let mut escaped = BTreeSet::new();
    for (name, trap) in TRAPS {
        let (run, outside) = (place.path("stranger"), place.path("outside"));
        assert!(Command::new("cp").arg("-a").args([&whole, &run]).status().unwrap().success());
        fs::create_dir_all(outside.join("folder/inner")).unwrap();
        fs::write(outside.join("folder/inner/file"), "precious").unwrap();
        fs::write(outside.join("precious"), "precious").unwrap();
        sql(&outside.join("database"), "CREATE TABLE precious (a INTEGER);");
        trap(&run, &outside);
        let before = (state(&run), files(&outside));
        for arguments in LOOKS {
            let done = output(eas(arguments[0], &run).args(&arguments[1..]));
            assert_harmless(&done, &format!("{name}, {arguments:?}"));
            assert_eq!((state(&run), files(&outside)), before, "{name}: {arguments:?} wrote");
            if said(&done).contains("\\u{1b}") {
                escaped.insert(arguments.join(" "));
            }
        }
        let exported = place.path("exported");
        let done = output(eas("export", &run).arg("--out").arg(&exported));
        assert_harmless(&done, &format!("{name}, export"));
        assert_eq!((state(&run), files(&outside)), before, "{name}: export wrote");
        let _ = fs::remove_dir_all(&exported);
        // What changes a run changes nothing outside of it, and runs no program but this one.
        let _ = fs::remove_file(run.join("report.json"));
        for arguments in [&["verify", "--rebuild", "--repair"][..], &["gc"], &["resume"]] {
            let done = output(eas(arguments[0], &run).args(&arguments[1..]));
            assert_harmless(&done, &format!("{name}, {arguments:?}"));
            assert_eq!(files(&outside), before.1, "{name}: {arguments:?} wrote outside");
        }
        fs::remove_dir_all(&run).unwrap();
        fs::remove_dir_all(&outside).unwrap();
    }
    for command in ["status", "watch", "show 1"] {
        assert!(escaped.contains(command), "{command} tells no stranger's reason");
    }
}
