use std::fs;
use std::path::Path;
use std::time::Duration;

use eas_ir::Rng;
use flate2::Compression;
use flate2::write::GzEncoder;
use md5::{Digest, Md5};
use tar::{Builder, EntryType, Header};
use tempfile::TempDir;

use super::server::{Reply, Server, Then};
use super::*;

const QUICK: Patience = Patience {
    connect: Duration::from_secs(2),
    silence: Duration::from_millis(250),
    attempts: 3,
    pause: Duration::from_millis(1),
};

fn noise(bytes: usize) -> Vec<u8> {
    let mut rng = Rng::new(5);
    (0..bytes).map(|_| rng.next_u32() as u8).collect()
}

fn md5(bytes: &[u8]) -> String {
    Md5::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Fetches a data set of one file, `data/file`, from these places.
fn fetch_file(
    content: &[u8],
    places: &[&str],
    to: &Path,
    patience: Patience,
) -> anyhow::Result<u64> {
    let sum = md5(content);
    let file = Published { name: "file", bytes: content.len() as u64, md5: &sum };
    let files = DataFiles {
        name: "tiny",
        places,
        folder: "data",
        files: &[file],
        extra: &[],
        unpacked: &[],
    };
    fetch(&files, to, &Wishes { patience, ..Default::default() }, &Bar::silent())
}

/// What lies in a folder and its folders.
fn listed(folder: &Path) -> Vec<String> {
    let mut paths = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path.clone());
            }
            paths.push(path.strip_prefix(folder).unwrap().display().to_string());
        }
    }
    paths.sort();
    paths
}

/// The file arrives from a server with these answers, the last of them again and again, and nothing else
/// is left. Returns the first bytes that were asked for.
#[track_caller]
fn arrives(bytes: usize, answers: Vec<fn(Reply) -> Reply>) -> Vec<Option<usize>> {
    let content = noise(bytes);
    let served = content.clone();
    let server = Server::new(move |request| {
        let answer = answers[request.number.min(answers.len() - 1)];
        answer(Reply::of(&served, request))
    });
    let to = TempDir::new().unwrap();
    fetch_file(&content, &[&server.url], to.path(), QUICK).unwrap();
    assert_eq!(listed(to.path()), ["data", "data/file"]);
    assert_eq!(fs::read(to.path().join("data/file")).unwrap(), content);
    let asked = server.ranges();
    assert_eq!(fetch_file(&content, &[&server.url], to.path(), QUICK).unwrap(), 0);
    assert_eq!(server.ranges(), asked, "what is there is asked for again");
    asked
}

#[test]
fn a_file_is_fetched_once() {
    assert_eq!(arrives(200_000, vec![|reply| reply]), [None]);
    assert_eq!(arrives(1, vec![|reply| reply]), [None]);
}

#[test]
fn what_broke_off_goes_on_where_it_was() {
    let half = Some(100_000);
    let asked = arrives(200_000, vec![|reply| reply.cut(100_000, Then::Close), |reply| reply]);
    assert_eq!(asked, [None, half]);
    let asked = arrives(200_000, vec![|reply| reply.cut(100_000, Then::Stall), |reply| reply]);
    assert_eq!(asked, [None, half]);
    let again: fn(Reply) -> Reply = |reply| reply.cut(70_000, Then::Close);
    assert_eq!(arrives(200_000, vec![again]), [None, Some(70_000), Some(140_000)]);
}

#[test]
fn attempts_that_bring_something_are_not_counted() {
    // Eight parts, and three attempts.
    let part: fn(Reply) -> Reply = |reply| reply.cut(1 << 20, Then::Close);
    assert_eq!(arrives(8 << 20, vec![part]).len(), 8);
}

#[test]
fn servers_that_know_no_ranges_send_all_of_it_again() {
    let content = noise(100_000);
    let served = content.clone();
    let server = Server::new(move |request| match request.number {
        0 => Reply::whole(&served).cut(60_000, Then::Close),
        _ => Reply::whole(&served),
    });
    let to = TempDir::new().unwrap();
    fetch_file(&content, &[&server.url], to.path(), QUICK).unwrap();
    assert_eq!(fs::read(to.path().join("data/file")).unwrap(), content);
    assert_eq!(server.ranges(), [None, Some(60_000)]);
}

#[test]
fn redirections_are_followed_but_not_for_ever() {
    let content = noise(1000);
    let served = content.clone();
    let server = Server::new(move |request| match request.path.as_str() {
        "/old/file" => {
            let mut reply = Reply::status("302 Found");
            reply.headers.push("Location: /new/file".to_owned());
            reply
        }
        "/new/file" => Reply::of(&served, request),
        _ => {
            let mut reply = Reply::status("301 Moved Permanently");
            reply.headers.push(format!("Location: {}", request.path));
            reply
        }
    });
    let to = TempDir::new().unwrap();
    let old = format!("{}/old/", server.url);
    fetch_file(&content, &[&old], to.path(), QUICK).unwrap();
    assert_eq!(fs::read(to.path().join("data/file")).unwrap(), content);
    let to = TempDir::new().unwrap();
    let round = format!("{}/round", server.url);
    let told = fetch_file(&content, &[&round], to.path(), QUICK).unwrap_err().to_string();
    assert!(told.contains("too many redirects"), "{told}");
    assert!(server.requests().len() < 20, "{:?}", server.requests());
}

/// What is said where a file doesn't come, with `URL` for the server and `TO` for the folder; what is
/// left there; and how often the server was asked.
fn refusal(
    bytes: usize,
    answer: impl Fn(&[u8], &server::Request) -> Reply + Send + Sync + 'static,
) -> (String, Vec<String>, usize) {
    let content = noise(bytes);
    let served = content.clone();
    let server = Server::new(move |request| answer(&served, request));
    let to = TempDir::new().unwrap();
    let told = fetch_file(&content, &[&server.url], to.path(), QUICK).unwrap_err().to_string();
    let told = told.replace(&server.url, "URL");
    let told = told.replace(&to.path().display().to_string(), "TO");
    (told, listed(to.path()), server.requests().len())
}

const ADVICE: &str = "Give the command again to go on, or name another place with --mirror; without a \
    network, put file into TO/data by hand and give the command again";

#[test]
fn wrong_bytes_are_refused_and_not_kept() {
    let (told, left, asked) = refusal(1000, |content, _| {
        let mut wrong = content.to_vec();
        wrong[500] ^= 1;
        Reply::whole(&wrong)
    });
    let sum = md5(&noise(1000));
    let expected = format!("can't fetch file:\n  URL/file: expected the MD5 sum {sum}, found ");
    assert!(told.starts_with(&expected) && told.ends_with(ADVICE), "{told}");
    assert_eq!((left, asked), (vec!["data".to_owned()], 1));
    let (told, left, asked) = refusal(1000, |content, _| Reply::whole(&content[1..]));
    let expected = "can't fetch file:\n  URL/file: expected 1000 bytes, found 999\n";
    assert_eq!(told, format!("{expected}{ADVICE}"));
    assert_eq!((left, asked), (vec!["data".to_owned()], 1));
}

#[test]
fn an_endless_body_is_left_behind_the_known_size() {
    let (told, left, asked) = refusal(100_000, |content, _| {
        let headers = Vec::new();
        Reply { headers, then: Then::Endless, ..Reply::whole(content) }
    });
    assert!(told.contains("URL/file: expected 100000 bytes, found more\n"), "{told}");
    assert_eq!((left, asked), (vec!["data".to_owned()], 1));
}

#[test]
fn what_a_server_refuses_is_asked_again_where_that_may_help() {
    let (told, _, asked) = refusal(10, |_, _| Reply::status("404 Not Found"));
    assert_eq!(told, format!("can't fetch file:\n  URL/file: found 404 Not Found\n{ADVICE}"));
    assert_eq!(asked, 1);
    let (told, _, asked) = refusal(10, |_, _| Reply::status("500 Internal Server Error"));
    assert!(told.contains("URL/file: found 500 Internal Server Error"), "{told}");
    assert_eq!(asked, 3);
    let (told, left, asked) = refusal(100, |content, request| match request.from {
        None => Reply::whole(content).cut(40, Then::Close),
        Some(_) => Reply::status("503 Service Unavailable"),
    });
    let kept = "can't fetch file:\n  URL/file: found 503 Service Unavailable\n\
        What came of it is kept, 40 of 100 bytes.\n";
    assert_eq!(told, format!("{kept}{ADVICE}"));
    assert_eq!((left, asked), (vec!["data".to_owned(), "data/file.part".to_owned()], 3));
    let (told, _, asked) = refusal(100, |content, request| match request.from {
        None => Reply::whole(content).cut(40, Then::Close),
        Some(_) => {
            let headers = vec!["Content-Range: bytes 0-59/60".to_owned()];
            Reply { status: "206 Partial Content", headers, ..Reply::whole(content) }
        }
    });
    let range = "URL/file: expected the range `bytes 40-99/100`, found `bytes 0-59/60`";
    assert!(told.contains(range), "{told}");
    assert_eq!(asked, 2);
}

#[test]
fn a_silent_server_is_left_after_a_while() {
    let started = std::time::Instant::now();
    let (told, _, asked) = refusal(10, |content, _| Reply::whole(content).cut(0, Then::Stall));
    assert!(told.contains("URL/file: broke off at byte 0 of 10: timeout"), "{told}");
    assert_eq!(asked, 3);
    assert!(started.elapsed() < Duration::from_secs(20));
}

#[test]
fn without_a_network_it_is_said_what_to_put_where() {
    let content = noise(10);
    let nobody = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    let to = TempDir::new().unwrap();
    let told = fetch_file(&content, &[&nobody], to.path(), QUICK).unwrap_err().to_string();
    let advice = ADVICE.replace("TO", &to.path().display().to_string());
    assert!(told.starts_with(&format!("can't fetch file:\n  {nobody}/file: ")), "{told}");
    assert!(told.ends_with(&advice), "{told}");
    fs::write(to.path().join("data/file"), &content).unwrap();
    assert_eq!(fetch_file(&content, &[&nobody], to.path(), QUICK).unwrap(), 0);
    fs::write(to.path().join("data/file"), b"another").unwrap();
    let told = fetch_file(&content, &[&nobody], to.path(), QUICK).unwrap_err().to_string();
    assert!(told.contains("data/file: expected the published file, of MD5 sum "), "{told}");
    assert_eq!(fs::read(to.path().join("data/file")).unwrap(), b"another");
}

#[test]
fn the_next_place_has_what_the_first_has_not() {
    let content = noise(1000);
    let served = content.clone();
    for answer in [Reply::status("404 Not Found"), Reply::whole(&noise(999)), {
        let mut wrong = content.clone();
        wrong[0] ^= 1;
        Reply::whole(&wrong)
    }] {
        let bad = Server::new(move |_| answer.clone());
        let served = served.clone();
        let good = Server::new(move |request| Reply::of(&served, request));
        let to = TempDir::new().unwrap();
        fetch_file(&content, &[&bad.url, &good.url], to.path(), QUICK).unwrap();
        assert_eq!(fs::read(to.path().join("data/file")).unwrap(), content);
        assert_eq!((bad.requests().len(), good.requests().len()), (1, 1));
    }
}

#[test]
fn bytes_of_another_file_are_found_out_and_fetched_anew() {
    let content = noise(1000);
    for there in [400, 1000, 2000] {
        let served = content.clone();
        let server = Server::new(move |request| Reply::of(&served, request));
        let to = TempDir::new().unwrap();
        fs::create_dir(to.path().join("data")).unwrap();
        fs::write(to.path().join("data/file.part"), vec![7; there]).unwrap();
        fetch_file(&content, &[&server.url], to.path(), QUICK).unwrap();
        assert_eq!(fs::read(to.path().join("data/file")).unwrap(), content, "{there} there");
        assert_eq!(server.ranges().last(), Some(&None), "{there} there");
    }
}

#[test]
fn one_command_at_a_time_fetches_a_file() {
    let to = TempDir::new().unwrap();
    fs::create_dir(to.path().join("data")).unwrap();
    let other = fs::File::create(to.path().join("data/file.part")).unwrap();
    other.lock().unwrap();
    let told = fetch_file(b"content", &["http://127.0.0.1:9"], to.path(), QUICK).unwrap_err();
    assert!(
        told.to_string().ends_with("file.part: another eas data fetch is at work on it"),
        "{told}"
    );
}

#[test]
fn a_flaky_server_delivers_in_the_end() {
    let content = noise(30_000);
    for seed in 0..40 {
        let served = content.clone();
        let server = Server::new(move |request| {
            let mut rng = Rng::new(seed).split_index(request.number as u64);
            let honest = match rng.below(3) {
                0 => Reply::whole(&served),
                _ => Reply::of(&served, request),
            };
            match rng.below(5) {
                0 => Reply::status("503 Service Unavailable"),
                1 => honest,
                _ => honest.cut(rng.below(30_000), Then::Close),
            }
        });
        let to = TempDir::new().unwrap();
        let patience = Patience { attempts: 100, ..QUICK };
        let done = fetch_file(&content, &[&server.url], to.path(), patience);
        assert!(done.is_ok(), "seed {seed}: {done:?}");
        let found = fs::read(to.path().join("data/file")).unwrap();
        assert!(found == content, "seed {seed}: {:?}", server.ranges());
    }
}

/// An archive's entry: its path, kind, content and what it links to.
type Entry<'a> = (&'a str, EntryType, &'a [u8], &'a str);

fn archive(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut builder = Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    for (path, kind, content, link) in entries {
        let mut header = Header::new_gnu();
        // The library itself writes no path that leads elsewhere.
        let old = header.as_gnu_mut().unwrap();
        old.name[..path.len()].copy_from_slice(path.as_bytes());
        old.linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(*kind);
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        builder.append(&header, *content).unwrap();
    }
    builder.into_inner().unwrap().finish().unwrap()
}

const INNER: &[u8] = b"some bytes";

/// Fetches an archive that should hold `inner/a`, of ten bytes.
fn fetch_archive(content: &[u8], to: &Path) -> anyhow::Result<u64> {
    let (sum, served) = (md5(content), content.to_vec());
    let server = Server::new(move |request| Reply::of(&served, request));
    let file = Published { name: "file.tar.gz", bytes: content.len() as u64, md5: &sum };
    let files = DataFiles {
        name: "tiny",
        places: &[&server.url],
        folder: "",
        files: &[file],
        extra: &[],
        unpacked: &[("inner/a", INNER.len() as u64)],
    };
    fetch(&files, to, &Wishes { patience: QUICK, ..Default::default() }, &Bar::silent())
}

#[test]
fn an_archive_is_unpacked_and_not_kept() {
    let content = archive(&[
        ("inner/", EntryType::Directory, b"", ""),
        ("./inner/a", EntryType::Regular, INNER, ""),
        ("inner/deep/b", EntryType::Regular, b"more", ""),
    ]);
    let to = TempDir::new().unwrap();
    assert_eq!(fetch_archive(&content, to.path()).unwrap(), content.len() as u64);
    assert_eq!(listed(to.path()), ["inner", "inner/a", "inner/deep", "inner/deep/b"]);
    assert_eq!(fs::read(to.path().join("inner/a")).unwrap(), INNER);
    assert_eq!(fetch_archive(&content, to.path()).unwrap(), 0);
    fs::remove_file(to.path().join("inner/a")).unwrap();
    let told = fetch_archive(&content, to.path()).unwrap_err().to_string();
    assert!(
        told.ends_with(
            "inner: expected all the files of tiny or no such folder; move it away to \
        have it fetched"
        ),
        "{told}"
    );
}

#[test]
fn an_archive_writes_nothing_outside_its_folder() {
    use EntryType::{Link, Regular, Symlink};
    let large = vec![0; 2 << 20];
    let many: Vec<String> = (0..1001).map(|number| format!("inner/{number}")).collect();
    let many: Vec<Entry<'_>> =
        many.iter().map(|path| (path.as_str(), Regular, INNER, "")).collect();
    let inner: Entry<'_> = ("inner/a", Regular, INNER, "");
    let cases: [(&str, Vec<u8>, &str); 12] = [
        ("a path upwards", archive(&[("../out", Regular, INNER, "")]), "within the archive"),
        (
            "a path upwards within",
            archive(&[("inner/../../out", Regular, INNER, "")]),
            "`inner/../../out`: expected a path within the archive",
        ),
        ("an absolute path", archive(&[("/tmp/out", Regular, INNER, "")]), "within the archive"),
        (
            "a symbolic link",
            archive(&[("inner", Symlink, b"", "/tmp"), ("inner/a", Regular, INNER, "")]),
            "`inner`: expected a file or folder, found Symlink",
        ),
        (
            "a hard link",
            archive(&[("inner/a", Link, b"", "/etc/passwd")]),
            "`inner/a`: expected a file or folder, found Link",
        ),
        (
            "a device",
            archive(&[("inner/a", EntryType::Char, b"", "")]),
            "expected a file or folder, found Char",
        ),
        (
            "a file that is too large",
            archive(&[inner, ("inner/b", Regular, &large, "")]),
            "`inner/b`: expected at most 1048586 bytes in all, found an entry of 2097152",
        ),
        ("too many files", archive(&many), "expected at most 1000 entries, found more"),
        ("a file twice", archive(&[inner, inner]), "`inner/a`: expected a path of its own"),
        ("nothing", archive(&[]), "expected `inner/a` of 10 bytes, found None"),
        (
            "a shorter file",
            archive(&[("inner/a", Regular, b"some", "")]),
            "expected `inner/a` of 10 bytes, found Some(4)",
        ),
        ("no archive", b"<html>not found</html>".to_vec(), "file.tar.gz"),
    ];
    for (title, content, expected) in cases {
        let parent = TempDir::new().unwrap();
        let to = parent.path().join("to");
        fs::create_dir(&to).unwrap();
        let told = format!("{:#}", fetch_archive(&content, &to).unwrap_err());
        assert!(told.contains(expected) && told.contains("file.tar.gz: "), "{title}: {told}");
        assert_eq!(listed(parent.path()), ["to", "to/file.tar.gz"], "{title}");
    }
    // Cut anywhere, all of it comes or nothing.
    let whole = archive(&[inner]);
    for length in 1..whole.len() {
        let to = TempDir::new().unwrap();
        match fetch_archive(&whole[..length], to.path()) {
            Ok(_) => assert_eq!(fs::read(to.path().join("inner/a")).unwrap(), INNER),
            Err(_) => assert_eq!(listed(to.path()), ["file.tar.gz"], "{length} bytes"),
        }
    }
}

#[test]
fn the_table_is_sound() {
    for files in &DATA_SETS {
        assert!(eas_train::data_sets().unwrap().get(files.name).is_ok(), "{}", files.name);
        assert!(files.places.iter().any(|place| place.starts_with("https://")), "{}", files.name);
        for file in files.files.iter().chain(files.extra) {
            let digits = file.md5.chars().all(|digit| matches!(digit, '0'..='9' | 'a'..='f'));
            assert!(digits && file.md5.len() == 32, "{} of {}", file.name, files.name);
            assert_eq!(file.name.ends_with(".tar.gz"), !files.unpacked.is_empty());
        }
    }
}
