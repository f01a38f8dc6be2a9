//! Arguments of the commands about data sets.

use std::path::PathBuf;

use clap::Subcommand;

use crate::fetch::DATA_SETS;

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
    /// The data set: NAME, NAME=PATH, or a path whose format is found out
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
