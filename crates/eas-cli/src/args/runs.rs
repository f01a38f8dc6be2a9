//! Arguments of the commands about specs and runs.

use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;
use eas_ir::Count;
use eas_train::Device;
use serde::Deserialize;
use serde::de::IntoDeserializer;

use super::models::TrialName;
use crate::devices::Devices;
use crate::plan::Workers;

/// What the stages of each compared run may take.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Budget {
    /// Training images of the children, all epochs counted.
    Images(Count),
    /// Work on the run, from its beginning.
    Time(Duration),
}

/// A count or a time as specs have them: `20M`, `30m`.
fn budget(text: &str) -> Result<Budget, String> {
    let count: Result<Count, serde::de::value::Error> =
        Count::deserialize(text.into_deserializer());
    if let Ok(count) = count {
        return Ok(Budget::Images(count));
    }
    match humantime::parse_duration(text) {
        Ok(time) if !time.is_zero() => Ok(Budget::Time(time)),
        _ => Err("expected training images, such as 20M, or a time, such as 30m".to_owned()),
    }
}

/// A time that isn't 0.
fn positive_time(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(time) if time >= Duration::from_secs(1) => Ok(time),
        _ => Err("expected a time of at least a second, such as 30m".to_owned()),
    }
}

/// A spec and what is changed in it.
#[derive(Debug, clap::Args)]
pub(crate) struct SpecArgs {
    /// Seed of all randomness, instead of the spec's
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
    /// A key of the spec to set, such as child.epochs=10 or stage.0.batches=3; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Search {
    /// The spec; without one, the built-in quickstart
    #[arg(conflicts_with = "data")]
    pub(crate) spec: Option<PathBuf>,
    /// Instead of a spec, the data: a path whose format is found out, or NAME, or NAME=PATH
    #[arg(long, value_name = "PATH", requires = "budget")]
    pub(crate) data: Option<String>,
    /// With --data, the time that the search may take, such as 30m; what fits is chosen and written
    /// into the run as a spec
    #[arg(long, value_name = "TIME", requires = "data", value_parser = positive_time)]
    pub(crate) budget: Option<Duration>,
    /// With --data, print the spec and don't run it
    #[arg(long, requires = "data", conflicts_with_all = ["run", "json", "set", "seed"])]
    pub(crate) init: bool,
    /// Folder of the run; it must not exist yet [default: runs/NAME, runs/NAME-2, ...]
    #[arg(long, value_name = "DIR")]
    pub(crate) run: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) overrides: SpecArgs,
    /// Trials that run at once: auto (one a core, or a few for each GPU) or a number [default: the spec's]
    #[arg(long, value_name = "N")]
    pub(crate) workers: Option<Workers>,
    /// What they are trained on: auto, cpu, cuda, or GPUs such as cuda:0,1 [default: the spec's]
    #[arg(long, value_name = "WHICH")]
    pub(crate) devices: Option<Devices>,
    /// Print the result as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Compare {
    /// The spec, whose controller's options are kept
    pub(crate) spec: PathBuf,
    /// The controllers; the others are compared with the first
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', required = true)]
    pub(crate) controllers: Vec<String>,
    /// Seeds, the spec's and those that follow it; each controller runs with each
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub(crate) seeds: u64,
    /// What the stages of a run may take: training images of its children, all epochs counted, such as
    /// 20M, or time, such as 30m, behind which nothing is promoted [default: the spec's batches]
    #[arg(long, value_name = "IMAGES|TIME", value_parser = budget)]
    pub(crate) budget: Option<Budget>,
    /// Best children of each run, of as many epochs, to train from scratch, for Kendall's tau
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub(crate) ranked: usize,
    /// Folder of the comparison and its runs [default: runs/NAME-compared]
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) overrides: SpecArgs,
    /// Trials that run at once: auto (one a core, or a few for each GPU) or a number [default: the spec's]
    #[arg(long, value_name = "N")]
    pub(crate) workers: Option<Workers>,
    /// What they are trained on: auto, cpu, cuda, or GPUs such as cuda:0,1 [default: the spec's]
    #[arg(long, value_name = "WHICH")]
    pub(crate) devices: Option<Devices>,
    /// Print the comparison as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Resume {
    /// The run
    pub(crate) run: PathBuf,
    /// Add so many batches to the last stage, and finish anew what is best then
    #[arg(long, value_name = "N")]
    pub(crate) extend_batches: Option<usize>,
    /// Let the stages go on for so much longer from now, such as 2h
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(crate) extend_deadline: Option<Duration>,
    /// Go on although another program made the run
    #[arg(long)]
    pub(crate) accept_build: bool,
    /// Trials that run at once: auto (one a core, or a few for each GPU) or a number [default: the spec's]
    #[arg(long, value_name = "N")]
    pub(crate) workers: Option<Workers>,
    /// What they are trained on: auto, cpu, cuda, or GPUs such as cuda:0,1 [default: the spec's]
    #[arg(long, value_name = "WHICH")]
    pub(crate) devices: Option<Devices>,
    /// Print the result as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Trial {
    /// The run
    pub(crate) run: PathBuf,
    /// The trial
    pub(crate) trial: u32,
    /// The attempt, whose folder is there
    pub(crate) attempt: u32,
    /// What it is trained on: cpu or a GPU, such as cuda:0
    #[arg(long, default_value_t = Device::Cpu)]
    pub(crate) device: Device,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Check {
    /// The spec
    pub(crate) spec: PathBuf,
    #[command(flatten)]
    pub(crate) overrides: SpecArgs,
    /// Leave out the forecast, which trains for some seconds
    #[arg(long)]
    pub(crate) no_forecast: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Init {
    /// Where to write the spec
    #[arg(default_value = "eas.toml")]
    pub(crate) path: PathBuf,
    /// What to begin with
    #[arg(long, value_enum, default_value_t = Template::Quickstart)]
    pub(crate) template: Template,
    /// List the templates
    #[arg(long)]
    pub(crate) list: bool,
    /// Overwrite the file if it exists
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Template {
    /// Fashion-MNIST, built in; some minutes
    Quickstart,
    /// CIFAR-10, the paper's space and counts
    C10Plain,
    /// CIFAR-10, the small space of the released code
    C10Small,
    /// CIFAR-10, 5,000 images, the paper's start network
    C10Quick,
    /// CIFAR-10, 5,000 images, a small residual network
    C10ResidualQuick,
    /// CIFAR-10, DenseNet-BC: the paper's space and counts
    C10Densenet,
    /// CIFAR-10, 5,000 images, small DenseNets
    C10DensenetQuick,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Doctor {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct List {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Status {
    /// The run, or a copy of its folder
    pub(crate) run: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Lineage {
    /// The run
    pub(crate) run: PathBuf,
    /// The trial: its number, or what it is for, such as start [default: the best]
    #[arg(value_name = "TRIAL")]
    pub(crate) trial: Option<TrialName>,
    /// Print all trials as a graph for Graphviz
    #[arg(long, conflicts_with = "json")]
    pub(crate) dot: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Verify {
    /// The run
    pub(crate) run: PathBuf,
    /// Make the index anew from the trials first
    #[arg(long)]
    pub(crate) rebuild: bool,
    /// Take back results whose models or momentum are damaged, so that eas resume trains them again
    #[arg(long)]
    pub(crate) repair: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Gc {
    /// The run
    pub(crate) run: PathBuf,
    /// How many of the best networks keep their models [default: the spec's]
    #[arg(long, value_name = "K")]
    pub(crate) keep_best: Option<usize>,
    /// Remove nothing, but say what would go
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Trials {
    /// The run
    pub(crate) run: PathBuf,
    /// How to print them
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub(crate) format: Format,
    /// Print JSON: the same as --format json
    #[arg(long, conflicts_with = "format")]
    pub(crate) json: bool,
}

impl Trials {
    /// How to print them.
    pub(crate) fn format(&self) -> Format {
        if self.json { Format::Json } else { self.format }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Aligned columns
    Table,
    /// A list of objects
    Json,
    /// Comma-separated values, with a header
    Csv,
}
