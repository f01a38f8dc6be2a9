//! All parameters of a network in one buffer, in the order of their ids.

use std::ops::Range;

use anyhow::{bail, ensure};
use eas_ir::{Model, ModelError, Network, ParamId, Role, Weights, tensor};

/// Where one parameter stands in the buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Its name.
    pub id: ParamId,
    /// Its shape.
    pub shape: Vec<usize>,
    start: usize,
    length: usize,
}

impl Slot {
    /// The places it takes in the buffer.
    pub fn range(&self) -> Range<usize> {
        self.start..self.start + self.length
    }

    /// Whether gradient descent changes it.
    pub fn is_trainable(&self) -> bool {
        self.id.role.trainable()
    }

    /// Whether it is a kernel or matrix, rather than a bias or part of a batch norm.
    pub fn is_weight(&self) -> bool {
        self.id.role == Role::Weight
    }
}

/// Parameters and momentum of a network, each in one flat buffer of the same layout: ordered by id,
/// running statistics among them (their momentum stays 0).
#[derive(Clone, Debug, PartialEq)]
pub struct FlatParameters {
    pub(crate) slots: Vec<Slot>,
    pub(crate) values: Vec<f32>,
    pub(crate) momentum: Vec<f32>,
}

impl FlatParameters {
    /// Copies of a model's parameters, and of their momentum: 0 for a parameter that has none in
    /// `momentum`; what `momentum` has besides trainable parameters of this model is left out.
    ///
    /// # Errors
    /// Momentum of another shape than its parameter, or that is not finite.
    pub fn new(model: &Model, momentum: Option<&Weights>) -> anyhow::Result<Self> {
        let mut flat =
            FlatParameters { slots: Vec::new(), values: Vec::new(), momentum: Vec::new() };
        for (id, weights) in model.weights() {
            let (start, length) = (flat.values.len(), weights.len());
            let shape = weights.shape().to_vec();
            flat.values.extend(weights.iter());
            let known = momentum.filter(|_| id.role.trainable()).and_then(|all| all.get(id));
            if let Some(known) = known {
                ensure!(
                    known.shape() == shape,
                    "momentum of {id}: expected shape {shape:?}, found {:?}",
                    known.shape()
                );
                let wrong = known.iter().find(|value| !value.is_finite());
                if let Some(wrong) = wrong {
                    bail!("momentum of {id}: expected finite values, found {wrong}");
                }
                flat.momentum.extend(known.iter());
            } else {
                flat.momentum.resize(start + length, 0.0);
            }
            flat.slots.push(Slot { id: *id, shape, start, length });
        }
        Ok(flat)
    }

    /// Where each parameter stands, in order.
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// The values of one parameter.
    pub fn get(&self, id: ParamId) -> Option<&[f32]> {
        let index = self.slots.binary_search_by_key(&id, |slot| slot.id).ok()?;
        Some(&self.values[self.slots[index].range()])
    }

    /// The values of one parameter, to change them.
    pub fn get_mut(&mut self, id: ParamId) -> Option<&mut [f32]> {
        let index = self.slots.binary_search_by_key(&id, |slot| slot.id).ok()?;
        let range = self.slots[index].range();
        Some(&mut self.values[range])
    }

    /// Whether every value is finite.
    pub fn is_finite(&self) -> bool {
        self.values.iter().all(|value| value.is_finite())
    }

    /// The model of these parameters: copies, so that training on doesn't change it.
    ///
    /// # Errors
    /// A network that these are not the parameters of, or values that are not finite.
    pub fn to_model(&self, network: &Network) -> Result<Model, ModelError> {
        Model::new(network.clone(), self.weights_of(&self.values, |_| true))
    }

    /// The momentum of every trainable parameter: copies.
    pub fn to_momentum(&self) -> Weights {
        self.weights_of(&self.momentum, Slot::is_trainable)
    }

    /// A buffer of this layout as weights.
    pub(crate) fn weights_of(&self, buffer: &[f32], wanted: impl Fn(&Slot) -> bool) -> Weights {
        let slots = self.slots.iter().filter(|slot| wanted(slot));
        slots.map(|slot| (slot.id, tensor(&slot.shape, buffer[slot.range()].to_vec()))).collect()
    }
}
