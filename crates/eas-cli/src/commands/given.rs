//! What a command is given as a network or a model, found in the same way by all of them: a model's
//! folder, a run, which stands for its best network, or a trial of a run.

use std::path::Path;

use anyhow::Context;
use eas_controller::TrialId;
use eas_ir::{LoadError, Network, SavedModel};

use super::bad_input;
use super::search::network_of_trial;
use crate::args::{self, TrialName};
use crate::engine::ENGINE;
use crate::lineage;
use crate::print;
use crate::report::Report;
use crate::runs::{Run, TrialResult};

/// A model, and where it comes from.
pub(crate) struct Given {
    /// What to call it.
    pub(crate) name: String,
    pub(crate) saved: SavedModel,
    /// The run that made it and its trial there, where it was given by them.
    pub(crate) from: Option<(Run, TrialResult)>,
}

/// The model that was asked for.
///
/// # Errors
/// A path with no model; a trial of what is no run, that isn't there, or that has no model.
pub(super) fn model(args: &args::Model) -> anyhow::Result<Given> {
    let args::Model { path, trial } = args;
    let shown = path.display();
    if Run::is_run(path) {
        let run = Run::open(path).map_err(bad_input)?;
        let trial = self::trial(&run, *trial)?;
        return of_trial(run, trial);
    }
    if trial.is_some() {
        return Err(no_run(path));
    }
    let saved = load(path).map_err(|error| match &error {
        LoadError::Io { error: cause, .. } if is_absent(cause) && !has_a_file(path) => {
            let found = match () {
                () if path.is_dir() => "another folder",
                () if path.exists() => "a file whose name doesn't end in .onnx",
                () => "nothing",
            };
            bad_input(format!(
                "{shown}: expected a model's folder (network.toml and weights.safetensors), a run or an ONNX \
                 file, found {found}"
            ))
        }
        _ => error.into(),
    })?;
    Ok(Given { name: shown.to_string(), saved, from: None })
}

/// A folder's model, or an ONNX file's, which is held against the logits that lie beside it.
fn load(path: &Path) -> Result<SavedModel, LoadError> {
    let (saved, compared) = SavedModel::load_compared(path, &ENGINE)?;
    if compared.images > 0 {
        print::note(&format!(
            "{}: agrees with the logits given for {} images, to {:.1e} of their deviation",
            path.display(),
            compared.images,
            compared.gap
        ));
    }
    Ok(saved)
}

/// Whether a file can't be read since it isn't there, rather than for want of permission or a broken disk.
fn is_absent(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{NotADirectory, NotFound};
    matches!(error.kind(), NotFound | NotADirectory)
}

/// Whether a folder has anything of a model in it.
fn has_a_file(folder: &Path) -> bool {
    ["network.toml", "weights.safetensors"].iter().any(|name| folder.join(name).exists())
}

fn no_run(path: &Path) -> anyhow::Error {
    bad_input(format!("{}: only a run has trials, and this is no run", path.display()))
}

/// The model of a trial.
pub(super) fn of_trial(run: Run, trial: TrialId) -> anyhow::Result<Given> {
    let (name, result) = trained(&run, trial)?;
    let saved = run.model_of(&result)?;
    Ok(Given { name, saved, from: Some((run, result)) })
}

/// What to call a trial that came to a network, and its result.
pub(super) fn trained(run: &Run, trial: TrialId) -> anyhow::Result<(String, TrialResult)> {
    let result = run.result(trial).map_err(bad_input)?;
    let (root, trial) = (run.root().display(), result.trial);
    if result.model.is_none() {
        let ending = result.ending_words();
        return Err(bad_input(format!("{root}: trial {trial} has no network: {ending}")));
    }
    Ok((format!("{root} trial {trial} ({})", result.purpose.words()), result))
}

/// Which trial of a run is meant; the best where none is named.
pub(super) fn trial(run: &Run, name: Option<TrialName>) -> anyhow::Result<TrialId> {
    let purpose = match name {
        None | Some(TrialName::Best) => return lineage::best(run).map_err(bad_input),
        Some(TrialName::Number(number)) => return Ok(TrialId(number)),
        Some(TrialName::Purpose(purpose)) => purpose,
    };
    // The report has the finals in their order even where they have no validation accuracy.
    let rows = run.report::<Report>()?.map(|report| report.rows).unwrap_or_default();
    if let Some(row) = rows.iter().find(|row| row.purpose == purpose) {
        return Ok(row.trial);
    }
    let results = run.listing()?.results()?;
    let trained = results.iter().filter(|result| result.purpose == purpose && result.is_trained());
    let best = trained.min_by(|a, b| a.compare(b)).with_context(|| {
        format!("{}: no trial was trained as `{}`", run.root().display(), purpose.words())
    });
    best.map(|result| result.trial).map_err(bad_input)
}

/// The networks that engines are measured on, by name.
const NETWORKS: [(&str, &str); 5] = [
    ("released", include_str!("../../../../benches/networks/released.toml")),
    ("paper", include_str!("../../../../benches/networks/paper.toml")),
    ("wide", include_str!("../../../../benches/networks/wide.toml")),
    ("found", include_str!("../../../../benches/networks/found.toml")),
    ("densenet", include_str!("../../../../benches/networks/densenet.toml")),
];

/// The network of a run's trial, of a file or a model's folder, or by name where there is no such path.
pub(super) fn network(path: &Path, trial: Option<TrialName>) -> anyhow::Result<Network> {
    if Run::is_run(path) {
        let run = Run::open(path).map_err(bad_input)?;
        let trial = self::trial(&run, trial)?;
        return network_of_trial(&run, &trained(&run, trial)?.1);
    }
    if trial.is_some() {
        return Err(no_run(path));
    }
    let loaded = Network::load(path).context("not a network");
    if loaded.is_ok() || path.exists() {
        return loaded;
    }
    let named = NETWORKS.iter().find(|(name, _)| Path::new(name) == path);
    let (name, text) = named.ok_or_else(|| {
        let names = NETWORKS.map(|(name, _)| name).join(", ");
        let shown = path.display();
        let near = path.to_str().and_then(|name| eas_ir::nearest(name, NETWORKS.map(|it| it.0)));
        let hint = near.map_or(String::new(), |near| format!("; did you mean `{near}`?"));
        bad_input(format!(
            "expected a network file, a model's folder, a run or one of {names}, found `{shown}`{hint}"
        ))
    })?;
    Network::from_toml(text).with_context(|| format!("network {name}"))
}
