//! Arguments of the commands about networks and models, and what names one.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::ValueEnum;

use crate::devices::{Devices, one_device};
use crate::export;
use crate::runs::Purpose;

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
    /// The data set: NAME, NAME=PATH, or a path whose format is found out
    #[arg(long, value_name = "NAME[=PATH]")]
    pub(crate) data: String,
    /// Folder for the trained model
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// The recipe: paper-child, paper-full, quick, fast or inherited
    #[arg(long, default_value = "quick")]
    pub(crate) recipe: String,
    /// A key of the recipe or data set to set, such as epochs=10 or data.train=5000; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// Seed of all randomness
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub(crate) seed: u64,
    /// What to train on: auto (the first GPU that can be used, else the processor), cpu, cuda or cuda:N
    #[arg(long, value_name = "WHICH", default_value_t = Devices::Auto, value_parser = one_device)]
    pub(crate) device: Devices,
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
    /// What to measure on: auto (the first GPU that can be used, else the processor), cpu, cuda or cuda:N
    #[arg(long, value_name = "WHICH", default_value_t = Devices::Auto, value_parser = one_device)]
    pub(crate) device: Devices,
    /// Programs that train at the same time on the device, each in a thread; the rate is their sum
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) side_by_side: u16,
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum TestTimeAugmentation {
    /// Its mirror image: the mean of the logits of both counts
    Mirror,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Test {
    #[command(flatten)]
    pub(crate) model: Model,
    /// The data set: NAME, NAME=PATH, or a path whose format is found out
    #[arg(long, value_name = "NAME[=PATH]")]
    pub(crate) data: String,
    /// A key of the data set to set, such as data.height=8; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// What to classify on: auto (the first GPU that can be used, else the processor), cpu, cuda or cuda:N
    #[arg(long, value_name = "WHICH", default_value_t = Devices::Auto, value_parser = one_device)]
    pub(crate) device: Devices,
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
