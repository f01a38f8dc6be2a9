//! Any network file as the start of a search: of this program, with or without weights, or in ONNX.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, ensure};
use eas_ir::{
    Built, Forward, Label, Network, NodeId, Op, Plugin, Rng, SavedModel, Shape, parse_options,
    resolved_options,
};
use serde::{Deserialize, Serialize};

use super::convnet::{ConvNet, widths};
use super::tokens;
use crate::options::{Kernels, Widths};
use crate::registry::SpacePlugin;
use crate::space::{Limits, Problem, SearchSpace, Token};

/// The networks that grow from a network file. Its labels say which layers can be deepened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkFile {
    start: PathBuf,
    #[serde(default)]
    weights: StartWeights,
    #[serde(default = "default_filters")]
    filters: Widths,
    #[serde(default = "default_units")]
    units: Widths,
    #[serde(default = "default_kernels")]
    kernels: Kernels,
    #[serde(default)]
    limits: Limits,
}

/// What the start network begins with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StartWeights {
    /// The weights of the file, where it has some.
    #[default]
    Inherited,
    /// Fresh ones.
    Scratch,
}

fn default_filters() -> Widths {
    Widths(vec![16, 32, 64, 96, 128, 192, 256, 320, 384, 448, 512])
}

fn default_units() -> Widths {
    Widths(vec![64, 128, 256, 384, 512, 640, 768, 896, 1024])
}

fn default_kernels() -> Kernels {
    Kernels(vec![1, 3, 5])
}

inventory::submit! {
    SpacePlugin(Plugin::new(
        "network",
        "whatever grows from a network file of your own",
        r#"start = "network.toml"  # the file, a model's folder, or an ONNX file; relative to the spec
weights = "inherited"  # those of the folder or ONNX file (a network file alone has none), or "scratch"
filters = [16, 32, 64, 96, 128, 192, 256, 320, 384, 448, 512]  # what a convolution may be widened to
units = [64, 128, 256, 384, 512, 640, 768, 896, 1024]  # what a linear layer may be widened to
kernels = [1, 3, 5]  # kernel sizes a convolution may have
limits = { depth = 32, parameters = "30M", macs = "1.5G", memory = "10GiB", blocks = 5, layers = 10 }  # what no network exceeds; blocks and layers of a block: those that edits may be picked from
"#,
        |options| {
            let space = parse_options::<NetworkFile>(options)?;
            Ok(Built { options: resolved_options(&space)?, implementation: Box::new(space) })
        },
    ))
}

/// A policy tells layers apart by block and layer alone, so two kinds of layer can't share both.
fn check_labels(network: &Network) -> anyhow::Result<()> {
    let mut kinds: BTreeMap<(u32, u32), &Label> = BTreeMap::new();
    for label in network.nodes().iter().filter_map(|node| node.label.as_ref()) {
        let known = kinds.entry((label.block, label.layer)).or_insert(label);
        ensure!(
            *known == label,
            "expected labels that differ in block or layer, found {known} and {label}"
        );
    }
    Ok(())
}

impl NetworkFile {
    /// Whether a network is one for a problem.
    fn check(&self, network: &Network, problem: &Problem) -> anyhow::Result<()> {
        let input = network.input().map(|node| node.op);
        let wanted = Op::Input { shape: problem.input };
        ensure!(
            input == Some(wanted),
            "expected {wanted} as the data has it, found {}",
            input.map_or("none".to_owned(), |op| op.to_string())
        );
        let logits = network.verify()?.output();
        let wanted = Shape::Flat { features: problem.classes };
        ensure!(
            logits == wanted,
            "expected {wanted} logits, one for each class of the data, found {logits}"
        );
        check_labels(network)
    }
}

impl SearchSpace for NetworkFile {
    fn start(&self, problem: &Problem) -> anyhow::Result<Network> {
        let path = problem.directory.join(&self.start);
        let network = Network::load(&path)?;
        self.check(&network, problem).with_context(|| path.display().to_string())?;
        Ok(network)
    }

    fn start_model(
        &self,
        problem: &Problem,
        forward: &dyn Forward,
    ) -> anyhow::Result<Option<SavedModel>> {
        let path = problem.directory.join(&self.start);
        if self.weights == StartWeights::Scratch || !SavedModel::has_weights(&path) {
            return Ok(None);
        }
        let (saved, _) = SavedModel::load_compared(&path, forward)?;
        let network = saved.model.network();
        self.check(network, problem).with_context(|| path.display().to_string())?;
        Ok(Some(saved))
    }

    fn widths(&self, network: &Network, site: NodeId) -> &[usize] {
        widths(network, site, &self.filters.0, &self.units.0)
    }

    fn kernels(&self) -> &[usize] {
        &self.kernels.0
    }

    fn limits(&self) -> &Limits {
        &self.limits
    }

    fn vocabulary(&self) -> Vec<String> {
        tokens::vocabulary(&self.filters.0, &self.units.0, &self.kernels.0)
    }

    fn tokens(&self, network: &Network) -> Vec<Token> {
        tokens::tokens(network, &self.vocabulary())
    }

    fn miniature(&self, rng: &mut Rng) -> anyhow::Result<Box<dyn SearchSpace>> {
        // The file says nothing of networks in general; plain ones stand for them.
        ConvNet::small().miniature(rng).context("the plain space has a miniature")
    }
}
