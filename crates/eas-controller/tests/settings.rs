//! Spaces, start networks and episodes to search with.

use std::path::PathBuf;

use eas_controller::{Action, Controller, Scope, controllers};
use eas_ir::{Network, NodeId, Rng, Shape};
use eas_transform::{
    AddBlock, Candidate, Decision, Deepen, DeepenDense, GrowKernel, Patch, Problem, Replicate,
    SearchSpace, Skip, Target, Transform, Transforms, Widen, WidenGrowth, WidenTransition, spaces,
};
use toml::de::{DeTable, DeValue};

/// All that a scope borrows.
pub(crate) struct Setting {
    pub(crate) space: Box<dyn SearchSpace>,
    pub(crate) transforms: Transforms,
    pub(crate) actions: Vec<Action>,
    pub(crate) parent: Network,
}

impl Setting {
    /// Episodes of these actions in a space of plain networks with these options, from its start.
    pub(crate) fn new(options: &str, actions: &[&str]) -> Self {
        Setting::of("convnet", options, actions)
    }

    /// The same in the space of this name.
    pub(crate) fn of(space: &str, options: &str, actions: &[&str]) -> Self {
        let table = DeTable::parse(options).unwrap();
        let (span, table) = (table.span(), table.into_inner());
        let options = toml::Spanned::new(span, DeValue::Table(table));
        let space = spaces().unwrap().get(space).unwrap().build(options).unwrap();
        let space = space.implementation;
        let input = Shape::Image { channels: 3, height: 32, width: 32 };
        let problem = Problem { input, classes: 10, directory: PathBuf::new() };
        let parent = space.start(&problem).unwrap();
        Setting { space, transforms: transforms(), actions: self::actions(actions), parent }
    }

    pub(crate) fn scope(&self) -> Scope<'_> {
        Scope {
            space: self.space.as_ref(),
            transforms: &self.transforms,
            actions: &self.actions,
            batch: 64,
            parent: &self.parent,
        }
    }
}

/// Widening that isn't asked about: at the end of an episode every layer becomes wider.
#[derive(Debug)]
struct WidenAll(Widen);

impl Transform for WidenAll {
    fn decision(&self, _: &dyn SearchSpace) -> Decision {
        Decision::Always
    }

    fn edits(&self, network: &Network, space: &dyn SearchSpace) -> Vec<Candidate> {
        self.0.edits(network, space)
    }

    fn patch(
        &self,
        network: &Network,
        site: NodeId,
        target: Target,
        rng: &mut Rng,
    ) -> anyhow::Result<Patch> {
        self.0.patch(network, site, target, rng)
    }
}

pub(crate) fn transforms() -> Transforms {
    Transforms::new([
        ("widen".to_owned(), Box::new(Widen::default()) as _),
        ("deepen".to_owned(), Box::new(Deepen::default()) as _),
        ("add_block".to_owned(), Box::new(AddBlock {}) as _),
        ("grow_kernel".to_owned(), Box::new(GrowKernel {}) as _),
        ("skip".to_owned(), Box::new(Skip::default()) as _),
        ("widen_growth".to_owned(), Box::new(WidenGrowth::default()) as _),
        ("deepen_dense".to_owned(), Box::new(DeepenDense::default()) as _),
        ("widen_transition".to_owned(), Box::new(WidenTransition::default()) as _),
        ("replicate".to_owned(), Box::new(Replicate::default()) as _),
        ("widen_all".to_owned(), Box::new(WidenAll(Widen::default())) as _),
    ])
}

pub(crate) fn actions(list: &[&str]) -> Vec<Action> {
    list.iter().map(|text| text.parse().unwrap()).collect()
}

/// A controller with its default options.
pub(crate) fn controller(name: &str) -> Box<dyn Controller> {
    let table = toml::de::DeTable::parse("").unwrap();
    let (span, table) = (table.span(), table.into_inner());
    let options = toml::Spanned::new(span, toml::de::DeValue::Table(table));
    controllers().unwrap().get(name).unwrap().build(options).unwrap().implementation
}
