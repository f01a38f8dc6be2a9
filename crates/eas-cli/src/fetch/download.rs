//! One file over HTTP: what is there already is gone on with, and what came is checked.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use md5::{Digest, Md5};
use ureq::http::{Response, StatusCode, header};
use ureq::{Agent, Body, Error};

use super::Published;

/// Bytes after which an attempt counts as none: a line that breaks off again and again gets there.
const PROGRESS: u64 = 1 << 20;
/// The longest pause between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// How long is waited, and how often.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// Until there is a connection.
    pub(crate) connect: Duration,
    /// For the next bytes.
    pub(crate) silence: Duration,
    /// Attempts in a row that bring nothing.
    pub(crate) attempts: u32,
    /// Before the second attempt; twice as long before the next.
    pub(crate) pause: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Patience {
            connect: Duration::from_secs(20),
            silence: Duration::from_secs(30),
            attempts: 4,
            pause: Duration::from_secs(1),
        }
    }
}

impl Patience {
    pub(super) fn agent(&self) -> Agent {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_resolve(Some(self.connect))
            .timeout_connect(Some(self.connect))
            .timeout_recv_response(Some(self.silence))
            .timeout_per_read(Some(self.silence))
            .user_agent(concat!("eas/", env!("CARGO_PKG_VERSION")));
        config.build().new_agent()
    }

    fn pause(&self, failed: u32) -> Duration {
        self.pause.saturating_mul(1 << failed.saturating_sub(1).min(16)).min(LONGEST_PAUSE)
    }
}

/// Who is told how a download gets on.
pub(super) struct Watcher<'a> {
    /// Bytes of the file that are there.
    pub(super) at: &'a dyn Fn(u64),
    /// What a person may want to know.
    pub(super) note: &'a dyn Fn(&str),
}

/// Why an attempt came to nothing.
enum Trouble {
    /// The next one may succeed.
    Passing(String),
    /// The place has no such file.
    Lasting(String),
}

use Trouble::{Lasting, Passing};

/// Fetches a file from the first of these places that has it. What comes goes to a file beside it,
/// `NAME.part`, from which a later call goes on.
///
/// # Errors
/// What was wrong with each place.
pub(super) fn download(
    file: &Published<'_>,
    places: &[String],
    path: &Path,
    patience: &Patience,
    watcher: &Watcher<'_>,
) -> anyhow::Result<()> {
    let part = part_of(path);
    let shown = part.display();
    let open = File::options().create(true).truncate(false).read(true).write(true).open(&part);
    let mut to = open.with_context(|| format!("can't write {shown}"))?;
    if to.try_lock().is_err() {
        bail!("{shown}: another eas data fetch is at work on it");
    }
    let agent = patience.agent();
    let mut urls: Vec<String> = places
        .iter()
        .map(|place| format!("{}/{}", place.trim_end_matches('/'), file.name))
        .collect();
    let (mut turn, mut failed, mut given_up) = (0, 0, Vec::new());
    // What each place was last in trouble with, and how far any of them came.
    let (mut passing, mut farthest) = (BTreeMap::new(), to.metadata()?.len());
    while !urls.is_empty() {
        let place = turn % urls.len();
        let before = to.metadata()?.len();
        let trouble = match attempt(&agent, &urls[place], file, &mut to, watcher.at)? {
            None => {
                let found = digest(&mut to)?;
                if found == file.md5 {
                    to.sync_all()?;
                    fs::rename(&part, path)
                        .with_context(|| format!("can't write {}", path.display()))?;
                    return Ok(());
                }
                to.set_len(0)?;
                let wrong = format!("expected the MD5 sum {}, found {found}", file.md5);
                // Bytes of an earlier attempt may be another file's.
                if before > 0 { Passing(wrong) } else { Lasting(wrong) }
            }
            Some(trouble) => trouble,
        };
        match trouble {
            Lasting(why) => given_up.push(format!("{}: {why}", urls.remove(place))),
            Passing(why) => {
                let reached = to.metadata()?.len();
                failed = if reached.saturating_sub(farthest) >= PROGRESS { 1 } else { failed + 1 };
                farthest = farthest.max(reached);
                passing.insert(urls[place].clone(), why.clone());
                if failed >= patience.attempts {
                    let left = urls.iter().filter_map(|url| Some((url, passing.get(url)?)));
                    given_up.extend(left.map(|(url, why)| format!("{url}: {why}")));
                    break;
                }
                let pause = patience.pause(failed);
                let again = humantime::format_duration(pause);
                (watcher.note)(&format!("{}: {why}; again in {again}", urls[place]));
                std::thread::sleep(pause);
                turn += 1;
            }
        }
    }
    let kept = to.metadata()?.len();
    let mut told = format!("can't fetch {}:\n  {}\n", file.name, given_up.join("\n  "));
    // While it is locked: another command would go on with a file that is gone.
    if kept == 0 {
        fs::remove_file(&part).with_context(|| format!("can't remove {shown}"))?;
    } else {
        told += &format!("What came of it is kept, {kept} of {} bytes.\n", file.bytes);
    }
    let folder = path.parent().unwrap_or(Path::new("")).display();
    bail!(
        "{told}Give the command again to go on, or name another place with --mirror; without a network, \
         put {} into {folder} by hand and give the command again",
        file.name
    )
}

fn part_of(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    path.with_file_name(name)
}

/// Appends what a place has to what is there; nothing is wrong where the file is as long as it should be.
fn attempt(
    agent: &Agent,
    url: &str,
    file: &Published<'_>,
    to: &mut File,
    at: &dyn Fn(u64),
) -> anyhow::Result<Option<Trouble>> {
    let mut have = to.metadata()?.len();
    if have > file.bytes {
        to.set_len(0)?;
        have = 0;
    }
    at(have);
    if have == file.bytes {
        return Ok(None);
    }
    let mut request = agent.get(url);
    if have > 0 {
        request = request.header(header::RANGE, format!("bytes={have}-"));
    }
    let mut response = match request.call() {
        Ok(response) => response,
        Err(error) => return Ok(Some(trouble_of(error))),
    };
    have = match goes_on(&response, have, file) {
        Ok(from) => from,
        Err(trouble) => {
            if response.status() == StatusCode::RANGE_NOT_SATISFIABLE {
                to.set_len(0)?;
            }
            return Ok(Some(trouble));
        }
    };
    to.set_len(have)?;
    to.seek(SeekFrom::Start(have))?;
    let mut body = response.body_mut().as_reader();
    let mut bytes = vec![0; 1 << 16];
    loop {
        let count = match body.read(&mut bytes) {
            Ok(0) if have == file.bytes => return Ok(None),
            Ok(0) => return Ok(Some(Passing(broken_off(have, file, "the connection ended")))),
            Ok(count) => count,
            Err(error) => {
                return Ok(Some(Passing(broken_off(have, file, &error.to_string()))));
            }
        };
        if have + count as u64 > file.bytes {
            to.set_len(0)?;
            let wrong = format!("expected {} bytes, found more", file.bytes);
            return Ok(Some(Lasting(wrong)));
        }
        to.write_all(&bytes[..count]).context("can't write what is fetched")?;
        have += count as u64;
        at(have);
    }
}

fn broken_off(have: u64, file: &Published<'_>, why: &str) -> String {
    format!("broke off at byte {have} of {}: {why}", file.bytes)
}

/// From which byte on an answer goes, where it is an answer to what was asked.
fn goes_on(response: &Response<Body>, have: u64, file: &Published<'_>) -> Result<u64, Trouble> {
    let text = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
    let status = response.status();
    match status {
        StatusCode::OK => {
            let length = text(header::CONTENT_LENGTH).and_then(|length| length.parse::<u64>().ok());
            match length {
                Some(found) if found != file.bytes => {
                    Err(Lasting(format!("expected {} bytes, found {found}", file.bytes)))
                }
                // A server that knows no ranges sends the whole again.
                Some(_) | None => Ok(0),
            }
        }
        StatusCode::PARTIAL_CONTENT => {
            let expected = format!("bytes {have}-{}/{}", file.bytes - 1, file.bytes);
            match text(header::CONTENT_RANGE) {
                Some(found) if found == expected => Ok(have),
                found => {
                    let found = found.unwrap_or("nothing");
                    Err(Lasting(format!("expected the range `{expected}`, found `{found}`")))
                }
            }
        }
        StatusCode::REQUEST_TIMEOUT
        | StatusCode::TOO_MANY_REQUESTS
        | StatusCode::RANGE_NOT_SATISFIABLE => Err(Passing(format!("found {status}"))),
        _ if status.is_server_error() => Err(Passing(format!("found {status}"))),
        _ => Err(Lasting(format!("found {status}"))),
    }
}

fn trouble_of(error: Error) -> Trouble {
    let text = error.to_string();
    match error {
        Error::BadUri(_) | Error::TooManyRedirects | Error::RedirectFailed | Error::Tls(_) => {
            Lasting(text)
        }
        Error::Rustls(_) | Error::Http(_) => Lasting(text),
        _ => Passing(text),
    }
}

/// The MD5 sum of a whole file.
pub(super) fn digest(file: &mut File) -> anyhow::Result<String> {
    file.seek(SeekFrom::Start(0))?;
    let (mut sum, mut bytes) = (Md5::new(), vec![0; 1 << 16]);
    loop {
        match file.read(&mut bytes)? {
            0 => break,
            count => sum.update(&bytes[..count]),
        }
    }
    Ok(sum.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Whether a file is the published one; nothing where there is none.
///
/// # Errors
/// It is another one.
pub(super) fn is_there(path: &Path, file: &Published<'_>) -> anyhow::Result<bool> {
    let shown = path.display();
    let mut found = match File::open(path) {
        Ok(found) => found,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error).with_context(|| format!("can't read {shown}")),
    };
    let sum = digest(&mut found).with_context(|| format!("can't read {shown}"))?;
    ensure!(
        sum == file.md5,
        "{shown}: expected the published file, of MD5 sum {}, found {sum}; move it away to have it fetched",
        file.md5
    );
    Ok(true)
}
