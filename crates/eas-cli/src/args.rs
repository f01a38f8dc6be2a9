//! The command line.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use eas_ir::Count;
use serde::Deserialize;
use serde::de::IntoDeserializer;

use crate::export;
use crate::fetch::DATA_SETS;
use crate::plan::Workers;
use crate::runs::Purpose;

/// Efficient architecture search by network transformation.
#[derive(Debug, Parser)]
#[command(name = "eas", version, after_help = EXIT_CODES, subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXIT_CODES: &str = "\
Exit codes:
  0    done
  1    failed for a reason outside the input
  2    the command line, a spec or a file is wrong; the message says where
  3    the answer is no: an edit or an export changed the function
  4    a file of a run is damaged
  5    a disk is full
  130  interrupted; what was done is kept
  134  interrupted twice: ended at once";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Search an architecture
    #[command(after_help = "\
Examples:
  eas search                                  the built-in quickstart, some minutes
  eas search my.toml                          a spec of your own (see: eas init)
  eas search my.toml --seed 2 --set child.epochs=10
  eas search my.toml --run runs/second
  eas search --data images --budget 30m       no spec: a folder of images by class, or files of a format
  eas search --data images --budget 30m --init > my.toml")]
    Search(Search),
    /// Go on with a run that was stopped, or make a finished one longer
    #[command(after_help = "\
Examples:
  eas resume runs/quickstart
  eas resume runs/quickstart --extend-batches 2
  eas resume runs/quickstart --extend-deadline 2h")]
    Resume(Resume),
    /// Check a spec: what it would do, how large its space is, how long it would take
    #[command(after_help = "\
Examples:
  eas check my.toml
  eas check my.toml --set stage.0.batches=30 --json")]
    Check(Check),
    /// Compare controllers: the same start weights, recipes and budget, several seeds
    #[command(after_help = "\
Examples:
  eas compare my.toml --controllers reinforce,random --seeds 5
  eas compare my.toml --controllers reinforce,random --seeds 3 --budget 20M --out comparison
  eas compare my.toml --controllers reinforce,hill_climb --budget 30m

Each controller and seed is a run of its own in the folder. What is stopped goes on when the same
command is given again.")]
    Compare(Compare),
    /// Look at a data set
    Data(Data),
    /// Write a spec with every key, its default and its meaning
    #[command(after_help = "\
Examples:
  eas init                                    writes eas.toml
  eas init --template c10-plain c10.toml
  eas init --list")]
    Init(Init),
    /// List the linked transforms, spaces, controllers and data sets
    #[command(after_help = "\
Examples:
  eas list
  eas list --json")]
    List(List),
    /// Show a network, a model, a run, or a trial of a run
    #[command(after_help = "\
Examples:
  eas show network.toml
  eas show densenet                           a network of eas bench
  eas show runs/quickstart                    the result, and the best network
  eas show runs/quickstart 7 --json
  eas show runs/quickstart --format svg --out best.svg
  eas show model --format dot | dot -Tpng > model.png

A line of the picture is a block. `2 x` stands before what repeats; `add [...]` and `concat [...]` join
the branches in brackets; a single branch is joined with its own input. Operations that are no such
branches are a `web [...]`. Batch norms, activations and dropout are only counted: --nodes lists every
node.")]
    Show(Show),
    /// Show in which layers two networks differ
    #[command(after_help = "\
Examples:
  eas diff runs/quickstart                    what the search made of its start network
  eas diff runs/quickstart --trial 12         what an episode made of its parent
  eas diff runs/quickstart --trial 3 --trial 12
  eas diff before.toml runs/quickstart/best --json

`~` is a layer that both have, `+` one that only the second has, `-` one that only the first has. Nodes
are known by their ids where one network can have come from the other, else by their operations and
order. The exit code is 0 whether they differ or not.")]
    Diff(Diff),
    /// List the trials of a run
    #[command(after_help = "\
Examples:
  eas trials runs/quickstart
  eas trials runs/quickstart --format csv > trials.csv")]
    Trials(Trials),
    /// Say how far a run has come
    #[command(after_help = "\
Examples:
  eas status runs/quickstart
  eas status runs/quickstart --json")]
    Status(Status),
    /// Show how a run gets on, until nobody works on it
    #[command(after_help = "\
Examples:
  eas watch runs/quickstart
  eas watch runs/quickstart --json            a line of JSON twice a second")]
    Watch(Status),
    /// Show how a network came about
    #[command(after_help = "\
Examples:
  eas lineage runs/quickstart                 of the best network
  eas lineage runs/quickstart 7
  eas lineage runs/quickstart --dot | dot -Tsvg > lineage.svg")]
    Lineage(Lineage),
    /// Check a run: its files, its decisions, its best network
    #[command(after_help = "\
Examples:
  eas verify runs/quickstart
  eas verify runs/quickstart --rebuild --json
  eas verify runs/quickstart --repair         then eas resume trains again what is damaged")]
    Verify(Verify),
    /// Remove the models and momentum that a run doesn't need any more
    #[command(after_help = "\
Examples:
  eas gc runs/quickstart --dry-run            what would go, and why the rest stays
  eas gc runs/quickstart --keep-best 1

What the run may still read stays: it can be resumed and made longer afterwards, with the same results.
A search does the same by itself once its store is larger than store.size.")]
    Gc(Gc),
    /// Edit a model without changing its function
    #[command(after_help = "\
Examples:
  eas transform runs/quickstart --apply 'widen n1 to 32' --out wider
  eas transform model --apply 'deepen n1 with kernel 3' --apply 'widen n1 to 64' --out child

An inserted batch norm is the identity until it is trained: it has seen no images yet. A search takes
its statistics from training images first.")]
    Transform(Transform),
    /// Train a network or go on training a model
    #[command(after_help = "\
Examples:
  eas train network.toml --data fashion_mnist_subset --out trained
  eas train runs/quickstart --data cifar10=DIR --set epochs=5 --out longer
  eas train runs/quickstart --trial start --data cifar10=DIR --out longer")]
    Train(Train),
    /// Test a model on a data set's test images
    #[command(after_help = "\
Examples:
  eas test runs/quickstart --data fashion_mnist_subset
  eas test model --data cifar10=DIR --json
  eas test model --data cifar10=DIR --test-time-augmentation mirror

Where the model is one of a run, the run records that its test images were opened, and when.")]
    Test(Test),
    /// Write a model in forms that other programs read, and prove that they do the same
    #[command(after_help = "\
Examples:
  eas export runs/quickstart --out exported   every form, and a model card
  eas export runs/quickstart --format onnx --fold-batch-norms --out onnx
  eas export runs/quickstart --trial start --format pytorch --out start
  eas export model --python ~/torch/bin/python --out exported

What was written is read again and run, on the images that a model keeps for that and on validation
images of the run where there are some. Its logits must be the model's to 1e-4 of their deviation, and
the predicted classes the same; otherwise nothing is left of it.")]
    Export(Export),
    /// Classify pictures
    #[command(after_help = "\
Examples:
  eas predict runs/quickstart shoe.png
  eas predict exported pictures/ --top 3
  curl -s https://example.org/cat.jpg | eas predict model - --json

Pictures are PNG, JPEG or WebP of any size. They are cut, scaled and normalised as the training
images were. What can't be read is named, and the others are classified all the same; the exit code
is 2 then.")]
    Predict(Predict),
    /// Carry out an attempt at a trial of a run, as executors have it done
    #[command(hide = true)]
    Trial(Trial),
    /// Measure how fast a network trains and runs on this machine
    #[command(after_help = "\
Examples:
  eas bench
  eas bench wide --batch 128 --threads 1
  eas bench runs/quickstart --json            its best network
  eas bench network.toml")]
    Bench(Bench),
    /// Print a script that completes eas commands in a shell
    #[command(after_help = "\
Examples:
  eas completions bash > ~/.local/share/bash-completion/completions/eas
  eas completions zsh > \"${fpath[1]}/_eas\"")]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

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

/// A trial of a run, as a command is told it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TrialName {
    /// By its number.
    Number(u32),
    /// The best that was trained for a purpose.
    Purpose(Purpose),
    /// What a search hands over.
    Best,
}

impl FromStr for TrialName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(number) = text.parse() {
            return Ok(TrialName::Number(number));
        }
        if text == "best" {
            return Ok(TrialName::Best);
        }
        let known = Purpose::ALL.into_iter().find(|purpose| purpose.name() == text);
        known.map(TrialName::Purpose).ok_or_else(|| {
            let names = Purpose::ALL.map(Purpose::name);
            let hint = match eas_ir::nearest(text, names.into_iter().chain(["best"])) {
                Some(near) => format!("; did you mean `{near}`?"),
                None => format!(" (names are: best, {})", names.join(", ")),
            };
            format!("expected the number of a trial or a name{hint}")
        })
    }
}

/// A model.
#[derive(Debug, clap::Args)]
pub(crate) struct Model {
    /// A model's folder, an ONNX file, or a run, which stands for its best network
    #[arg(value_name = "MODEL|RUN")]
    pub(crate) path: PathBuf,
    /// Another trial of the run: its number, or what it is for, such as start or scratch
    #[arg(long, value_name = "N|NAME")]
    pub(crate) trial: Option<TrialName>,
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
    /// Trials that run at once: auto (one a core) or a number [default: the spec's]
    #[arg(long, value_name = "N")]
    pub(crate) workers: Option<Workers>,
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
    /// Best children of each run to train from scratch, for Kendall's tau
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub(crate) ranked: usize,
    /// Folder of the comparison and its runs [default: runs/NAME-compared]
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) overrides: SpecArgs,
    /// Trials that run at once: auto (one a core) or a number [default: the spec's]
    #[arg(long, value_name = "N")]
    pub(crate) workers: Option<Workers>,
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
    /// Trials that run at once: auto (one a core) or a number [default: the spec's]
    #[arg(long, value_name = "N")]
    pub(crate) workers: Option<Workers>,
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
pub(crate) struct Data {
    #[command(subcommand)]
    pub(crate) command: DataCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DataCommand {
    /// Say what a data set holds: counts, balance, mean and deviation, images that two parts share
    #[command(after_help = "\
Examples:
  eas data inspect fashion_mnist_subset
  eas data inspect cifar10=DIR --sheet sheet.png
  eas data inspect folder=DIR --set data.size=64 --json")]
    Inspect(Inspect),
    /// Fetch a published data set
    #[command(after_help = "\
Examples:
  eas data fetch cifar10
  eas data fetch svhn --extra --to /data
  eas data fetch mnist --mirror https://example.org/mnist

What is there already is kept, and what was broken off goes on. The files are checked against their
published sums. Without --to they go to the folder that EAS_DATA names, or else to the user's cache,
~/.cache/eas/data, and a spec that gives no path finds them there.")]
    Fetch(Fetch),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Fetch {
    /// The data set
    #[arg(value_name = "NAME", value_parser = DATA_SETS.map(|files| files.name))]
    pub(crate) name: String,
    /// Folder of data to put it into [default: $EAS_DATA, or ~/.cache/eas/data]
    #[arg(long, value_name = "DIR")]
    pub(crate) to: Option<PathBuf>,
    /// Address that holds the files, instead of the official ones
    #[arg(long, value_name = "URL", value_parser = mirror)]
    pub(crate) mirror: Option<String>,
    /// Fetch SVHN's 531,131 easier images, too: 1.3 GB
    #[arg(long)]
    pub(crate) extra: bool,
}

/// An address of a folder of files.
fn mirror(text: &str) -> Result<String, String> {
    let rest = ["https://", "http://"].iter().find_map(|scheme| text.strip_prefix(scheme));
    match rest {
        Some(rest) if !rest.is_empty() && !rest.starts_with('/') => Ok(text.to_owned()),
        _ => Err("expected an address such as https://example.org/data".to_owned()),
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct Inspect {
    /// The data set: NAME, or NAME=PATH
    #[arg(value_name = "NAME[=PATH]")]
    pub(crate) data: String,
    /// A key of the data set to set, such as data.size=64; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// Draw the first training images of each class into this file, a PNG
    #[arg(long, value_name = "FILE")]
    pub(crate) sheet: Option<PathBuf>,
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
pub(crate) struct List {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Show {
    /// A network file, a model's folder, a run, or the name of a network of eas bench
    #[arg(value_name = "NETWORK|RUN")]
    pub(crate) path: PathBuf,
    /// A trial of the run: its number, or what it is for, such as start
    #[arg(value_name = "TRIAL")]
    pub(crate) place: Option<TrialName>,
    /// The trial, as other commands are told it
    #[arg(long, value_name = "N|NAME", conflicts_with = "place")]
    pub(crate) trial: Option<TrialName>,
    /// How to draw it; of a run its best network
    #[arg(long, value_enum, default_value_t = Drawing::Text)]
    pub(crate) format: Drawing,
    /// List every node instead of drawing blocks
    #[arg(long, conflicts_with_all = ["format", "json"])]
    pub(crate) nodes: bool,
    /// Write to a file, which must not exist yet
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    /// Print JSON: the same as --format json
    #[arg(long, conflicts_with = "format")]
    pub(crate) json: bool,
}

impl Show {
    /// The trial, whichever way it was named.
    pub(crate) fn trial(&self) -> Option<TrialName> {
        self.trial.or(self.place)
    }

    /// How to draw it.
    pub(crate) fn format(&self) -> Drawing {
        if self.json { Drawing::Json } else { self.format }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Drawing {
    /// A line a block
    Text,
    /// A graph for Graphviz
    Dot,
    /// A drawing for browsers and documents
    Svg,
    /// All that is known
    Json,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Diff {
    /// A network file, a model's folder, a run, or the name of a network of eas bench
    #[arg(value_name = "NETWORK|RUN")]
    pub(crate) first: PathBuf,
    /// What to compare it with [default: of a run, its start network with its best]
    #[arg(value_name = "NETWORK|RUN")]
    pub(crate) second: Option<PathBuf>,
    /// A trial of the run, compared with its parent; given twice, the first with the second
    #[arg(long = "trial", value_name = "N|NAME", conflicts_with = "second")]
    pub(crate) trials: Vec<TrialName>,
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

#[derive(Debug, clap::Args)]
pub(crate) struct Transform {
    #[command(flatten)]
    pub(crate) model: Model,
    /// An edit, such as 'widen n3 to 64' or 'deepen n5 with kernel 3'; may be repeated
    #[arg(long = "apply", value_name = "EDIT", required = true)]
    pub(crate) apply: Vec<String>,
    /// Folder for the child
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// Seed of what is replicated, and of the noise
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub(crate) seed: u64,
    /// Leave replicas exactly equal; they then stay equal in training
    #[arg(long)]
    pub(crate) no_noise: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Train {
    /// A network file, a model's folder or a run, of which the best network is trained on
    #[arg(value_name = "NETWORK|MODEL|RUN")]
    pub(crate) network: PathBuf,
    /// Another trial of the run
    #[arg(long, value_name = "N|NAME")]
    pub(crate) trial: Option<TrialName>,
    /// The data set: NAME, or NAME=PATH
    #[arg(long, value_name = "NAME[=PATH]")]
    pub(crate) data: String,
    /// Folder for the trained model
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// The recipe: paper-child, paper-full or quick
    #[arg(long, default_value = "quick")]
    pub(crate) recipe: String,
    /// A key of the recipe or data set to set, such as epochs=10 or data.train=5000; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// Seed of all randomness
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub(crate) seed: u64,
    /// Begin with fresh weights even where the model has some
    #[arg(long)]
    pub(crate) from_scratch: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Bench {
    /// A network file, a model's folder, a run, or one of: released, paper, wide, found, densenet
    /// [default: paper]
    #[arg(value_name = "NETWORK|MODEL|RUN")]
    model: Option<PathBuf>,
    /// The same, by an option
    #[arg(long, value_name = "NETWORK|MODEL|RUN", conflicts_with = "model")]
    network: Option<PathBuf>,
    /// Another trial of the run
    #[arg(long, value_name = "N|NAME")]
    pub(crate) trial: Option<TrialName>,
    /// Images of a step, and of a batch in evaluation
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(usize))]
    pub(crate) batch: usize,
    /// Threads to work on [default: one a core]
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<usize>,
    /// What products are computed in
    #[arg(long, value_enum, default_value_t = Precision::F32)]
    pub(crate) precision: Precision,
    /// Seconds to measure for, about
    #[arg(long, value_name = "S", default_value_t = 3.0)]
    pub(crate) seconds: f64,
    /// Print the result as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

impl Bench {
    /// What is measured.
    pub(crate) fn path(&self) -> &Path {
        let named = self.model.as_deref().or(self.network.as_deref());
        named.unwrap_or(Path::new("paper"))
    }
}

/// What products are computed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Precision {
    F32,
    Bf16,
}

/// What is classified together with a test image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum TestTimeAugmentation {
    /// Its mirror image: the mean of the logits of both counts
    Mirror,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Test {
    #[command(flatten)]
    pub(crate) model: Model,
    /// The data set: NAME, or NAME=PATH
    #[arg(long, value_name = "NAME[=PATH]")]
    pub(crate) data: String,
    /// A key of the data set to set, such as data.height=8; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// Classify each image together with changed ones; the result says so
    #[arg(long, value_enum, value_name = "WHAT")]
    pub(crate) test_time_augmentation: Option<TestTimeAugmentation>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Export {
    #[command(flatten)]
    pub(crate) model: Model,
    /// A form to write; may be repeated
    #[arg(long, value_enum, value_name = "FORM", default_values_t = [Form::All])]
    pub(crate) format: Vec<Form>,
    /// Folder for what is written: a new one, an empty one, or that of an earlier export
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// ONNX: put batch norms into the convolutions and linear layers before them, where there are some
    #[arg(long)]
    pub(crate) fold_batch_norms: bool,
    /// ONNX: let the graph normalise, so that it takes pixels as they are, 0 to 255
    #[arg(long)]
    pub(crate) fold_normalisation: bool,
    /// Don't run what was written
    #[arg(long)]
    pub(crate) no_verify: bool,
    /// The Python, with PyTorch, that model.py is checked with [default: $EAS_PYTHON, or python3]
    #[arg(long, value_name = "PATH", conflicts_with = "no_verify")]
    pub(crate) python: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

impl Export {
    /// The forms to write, each once.
    pub(crate) fn forms(&self) -> Vec<export::Form> {
        let mut forms: Vec<export::Form> = self
            .format
            .iter()
            .flat_map(|form| match form {
                Form::Safetensors => vec![export::Form::Safetensors],
                Form::Onnx => vec![export::Form::Onnx],
                Form::Pytorch => vec![export::Form::Pytorch],
                Form::All => export::Form::ALL.to_vec(),
            })
            .collect();
        forms.sort();
        forms.dedup();
        forms
    }
}

/// What a model is written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Form {
    /// network.toml and weights.safetensors: a model's folder, as eas reads it
    Safetensors,
    /// model.onnx, for ONNX runtimes
    Onnx,
    /// model.py and model.safetensors, for PyTorch
    Pytorch,
    /// All of these
    All,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Predict {
    #[command(flatten)]
    pub(crate) model: Model,
    /// Pictures: PNG, JPEG or WebP; folders of them; `-` for one on standard input
    #[arg(value_name = "IMAGE", required = true)]
    pub(crate) images: Vec<PathBuf>,
    /// Classes to tell for each
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) top: u16,
    /// Print a line of JSON for each
    #[arg(long)]
    pub(crate) json: bool,
}
