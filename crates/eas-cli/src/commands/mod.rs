//! The commands, a file each.

mod bench;
mod check;
mod compare;
mod data;
mod diff;
mod doctor;
mod export;
mod gc;
mod given;
mod init;
mod lineage;
mod list;
mod predict;
pub(crate) mod search;
mod show;
mod status;
mod test;
mod train;
mod transform;
mod trial;
mod trials;
mod verify;

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use clap::{CommandFactory, Parser};
use eas_ir::{LoadError, Value};
use eas_train::{DataSource, data_sets};

use crate::args::{Args, Command, SpecArgs};
use crate::automatic::detect;
use crate::exit;
use crate::fetch;
use crate::plan::{Named, Plan};
use crate::print;
use crate::room;
use crate::runs::{Damaged, Run};
use crate::spec::{SpecErrors, as_toml, read_plan};
use crate::trial::GpuFailed;

/// Runs a command line and returns the exit code.
pub(crate) fn run(arguments: impl IntoIterator<Item = OsString>) -> u8 {
    let args = match Args::try_parse_from(arguments) {
        Ok(args) => args,
        Err(error) => {
            let asked = !error.use_stderr();
            print::usage(&error);
            return if asked { exit::SUCCESS } else { exit::BAD_INPUT };
        }
    };
    let done = match args.command {
        Command::Search(args) => search::run(&args),
        Command::Resume(args) => search::resume(&args),
        Command::Status(args) => status::run(&args),
        Command::Watch(args) => status::watch(&args),
        Command::Lineage(args) => lineage::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Gc(args) => gc::run(&args),
        Command::Trial(args) => trial::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Compare(args) => compare::run(&args),
        Command::Data(args) => data::run(&args),
        Command::Init(args) => init::run(&args),
        Command::List(args) => list::run(&args),
        Command::Show(args) => show::run(&args),
        Command::Diff(args) => diff::run(&args),
        Command::Trials(args) => trials::run(&args),
        Command::Transform(args) => transform::run(&args),
        Command::Train(args) => train::run(&args),
        Command::Test(args) => test::run(&args),
        Command::Export(args) => export::run(&args),
        Command::Predict(args) => predict::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Args::command(), "eas", &mut script);
            print::result(&String::from_utf8_lossy(&script));
            Ok(exit::SUCCESS)
        }
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            let input = error.chain().any(|cause| {
                cause.is::<SpecErrors>() || cause.is::<LoadError>() || cause.is::<BadInput>()
            });
            match error.downcast_ref::<SpecErrors>() {
                Some(errors) => {
                    errors.messages().iter().for_each(|m| print::note(&format!("error: {m}")))
                }
                None => print::error(&error),
            }
            let damaged = error.chain().any(|cause| cause.is::<Damaged>());
            match (damaged, input) {
                _ if room::is_wanting(&error) => exit::NO_ROOM,
                _ if error.is::<GpuFailed>() => exit::GPU,
                (true, _) => exit::DAMAGED,
                (false, true) => exit::BAD_INPUT,
                (false, false) => exit::FAILURE,
            }
        }
    }
}

/// An error that the command line or a file is to blame for.
#[derive(Debug)]
pub(crate) struct BadInput(String);

impl fmt::Display for BadInput {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl std::error::Error for BadInput {}

/// Blames the input for an error.
pub(crate) fn bad_input(error: impl fmt::Display) -> anyhow::Error {
    BadInput(format!("{error:#}")).into()
}

/// The built-in quickstart.
pub(crate) const QUICKSTART: &str = include_str!("../../../../specs/quickstart.toml");

/// Reads a spec file, or the quickstart, with what the command line changes in it. Returns the text
/// as written and the plan.
pub(crate) fn plan_of(spec: Option<&Path>, overrides: &SpecArgs) -> anyhow::Result<(String, Plan)> {
    let (name, text, directory) = match spec {
        None => ("quickstart.toml".to_owned(), QUICKSTART.to_owned(), PathBuf::new()),
        Some(path) => {
            let name = path.display().to_string();
            let bytes = std::fs::read(path)
                .map_err(|error| bad_input(format!("can't read the spec {name}: {error}")))?;
            let text = String::from_utf8(bytes).map_err(|error| {
                let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
                let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
                bad_input(format!("{name}:{line}: expected text in UTF-8, found other bytes"))
            })?;
            (name, text, directory_of(path)?)
        }
    };
    let plan = plan_of_text(&name, &text, overrides, &directory)?;
    Ok((text, plan))
}

/// Where the relative paths of a spec start: in its folder; those of a run's plan where they did when the
/// run began.
fn directory_of(spec: &Path) -> anyhow::Result<PathBuf> {
    let folder = spec.parent().unwrap_or(Path::new(""));
    let of_run = spec.file_name().is_some_and(|name| name == "plan.toml") && Run::is_run(folder);
    match of_run {
        true => Ok(Run::open(folder).map_err(bad_input)?.directory().to_owned()),
        false => Ok(folder.to_owned()),
    }
}

/// The plan of a spec's text, with what the command line changes in it.
pub(crate) fn plan_of_text(
    name: &str,
    text: &str,
    overrides: &SpecArgs,
    directory: &Path,
) -> anyhow::Result<Plan> {
    let mut set = overrides.set.clone();
    set.extend(overrides.seed.map(|seed| format!("seed={seed}")));
    Ok(read_plan(name, text, &set, directory)?)
}

/// A data set named on the command line: `NAME`, `NAME=PATH` or a path to files of some format, with
/// `data.KEY=VALUE` arguments for its options.
pub(crate) fn data_of(text: &str, set: &[String]) -> anyhow::Result<Named<dyn DataSource>> {
    let registry = data_sets()?;
    let (name, mut options) = match text.split_once('=') {
        Some((name, path)) => {
            (name.to_owned(), vec![format!("path = {}", toml::Value::from(path))])
        }
        None if registry.get(text).is_err() && Path::new(text).exists() => {
            let found = detect(text)?;
            (found.name, found.options)
        }
        None => (text.to_owned(), Vec::new()),
    };
    let name = name.as_str();
    let plugin = registry.get(name).map_err(bad_input)?;
    let takes_path = plugin.options.lines().any(|line| line.starts_with("path ="));
    if options.is_empty() && takes_path {
        let known = fetch::default_path(name).and_then(|path| Some(path.to_str()?.to_owned()));
        options.extend(known.map(|path| format!("path = {}", toml::Value::from(path))));
    }
    for argument in set {
        let option = argument.strip_prefix("data.").ok_or_else(|| {
            bad_input(format!("--set {argument}: expected a key of the data set, data.KEY=VALUE"))
        })?;
        let option = as_toml(option);
        // What was found of the files is what nothing else is said of.
        let key = |line: &str| line.split('=').next().unwrap_or(line).trim().to_owned();
        options.retain(|found| key(found) != key(&option));
        options.push(option);
    }
    let text = options.join("\n");
    let table = toml::de::DeTable::parse(&text).map_err(|e| bad_input(e.message()))?;
    let span = table.span();
    let value: Value<'_> = toml::Spanned::new(span, toml::de::DeValue::Table(table.into_inner()));
    let built = plugin.build(value).map_err(|error| {
        let needs_path = error.message().contains("missing field `path`");
        let message = if needs_path { fetch::advice(name) } else { error.message().to_owned() };
        bad_input(format!("data set `{name}`: {message}"))
    })?;
    let (options, implementation) = (built.options, built.implementation);
    Ok(Named { name: name.to_owned(), options, implementation })
}
