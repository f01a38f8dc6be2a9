//! The two registries, and the transforms chosen by a spec.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Context;
use eas_ir::{DuplicatePlugin, Network, Plugin, Registry, Rng};

use crate::edit::{Candidate, Edit};
use crate::patch::Patch;
use crate::space::SearchSpace;
use crate::transform::Transform;

/// A registered transform: `inventory::submit! { TransformPlugin(Plugin::new(..)) }`.
#[derive(Debug)]
pub struct TransformPlugin(pub Plugin<dyn Transform>);

/// A registered search space: `inventory::submit! { SpacePlugin(Plugin::new(..)) }`.
#[derive(Debug)]
pub struct SpacePlugin(pub Plugin<dyn SearchSpace>);

inventory::collect!(TransformPlugin);
inventory::collect!(SpacePlugin);

/// Every linked transform.
///
/// # Errors
/// Two of one name.
pub fn transforms() -> Result<Registry<dyn Transform>, DuplicatePlugin> {
    let linked = inventory::iter::<TransformPlugin>.into_iter().map(|plugin| &plugin.0);
    Registry::collect("transform", linked)
}

/// Every linked search space.
///
/// # Errors
/// Two of one name.
pub fn spaces() -> Result<Registry<dyn SearchSpace>, DuplicatePlugin> {
    let linked = inventory::iter::<SpacePlugin>.into_iter().map(|plugin| &plugin.0);
    Registry::collect("space", linked)
}

/// The transforms of a search, by name. Their order is that of their names, so that it depends on
/// the spec alone and not on what is linked. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Transforms(Arc<BTreeMap<String, Box<dyn Transform>>>);

impl Transforms {
    /// The transforms of these names.
    pub fn new(named: impl IntoIterator<Item = (String, Box<dyn Transform>)>) -> Self {
        Transforms(Arc::new(named.into_iter().collect()))
    }

    /// Their names, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// The transform of this name.
    ///
    /// # Errors
    /// There is none.
    pub fn get(&self, name: &str) -> anyhow::Result<&dyn Transform> {
        self.0.get(name).map(Box::as_ref).with_context(|| {
            let names: Vec<&str> = self.names().collect();
            match eas_ir::nearest(name, names.iter().copied()) {
                Some(near) => format!("no transform named `{name}`; did you mean `{near}`?"),
                None => format!("no transform named `{name}` (there are: {})", names.join(", ")),
            }
        })
    }

    /// The legal edits of one transform on a network, each with its path: those it offers whose
    /// child verifies and lies in the space, when trained with batches of `batch` images.
    ///
    /// # Errors
    /// No transform of this name.
    pub fn edits(
        &self,
        name: &str,
        network: &Network,
        space: &dyn SearchSpace,
        batch: usize,
    ) -> anyhow::Result<Vec<(Edit, Vec<usize>)>> {
        let transform = self.get(name)?;
        let legal = transform.edits(network, space).into_iter().filter(|candidate| {
            // The architecture of a child doesn't depend on which channels are replicated.
            transform
                .patch(network, candidate.site, candidate.target, &mut Rng::new(0))
                .is_ok_and(|patch| space.admits(&patch.network, batch).is_ok())
        });
        Ok(legal
            .map(|candidate| {
                let Candidate { site, target, path } = candidate;
                (Edit { transform: name.to_owned(), site, target }, path)
            })
            .collect())
    }

    /// The patch that makes an edit.
    ///
    /// # Errors
    /// No such transform, or an edit that it can't make on this network.
    pub fn patch(&self, network: &Network, edit: &Edit, rng: &mut Rng) -> anyhow::Result<Patch> {
        self.get(&edit.transform)?
            .patch(network, edit.site, edit.target, rng)
            .with_context(|| format!("can't {edit}"))
    }
}
