//! What the policy learns: tensors by name. One is made when it is first asked for, from the random
//! stream of its own name, so that it is the same whatever was made before it: an actor that only a
//! later stage needs changes nothing about the others.

use std::collections::BTreeMap;

use candle_core::{Device, Result, Tensor, Var};
use eas_ir::Rng;

/// The policy's precision is double: it is small, and its gradients can then be checked to nine
/// digits.
#[derive(Debug)]
pub(super) struct Parameters {
    stream: Rng,
    variables: BTreeMap<String, Var>,
}

/// A layer `x W + b`.
pub(super) struct Linear {
    /// [inputs, outputs]
    weight: Tensor,
    /// [outputs]
    bias: Tensor,
}

impl Linear {
    /// [rows, inputs] → [rows, outputs]
    pub(super) fn forward(&self, inputs: &Tensor) -> Result<Tensor> {
        inputs.matmul(&self.weight)?.broadcast_add(&self.bias)
    }
}

impl Parameters {
    pub(super) fn new(stream: Rng) -> Self {
        Parameters { stream, variables: BTreeMap::new() }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &Var)> {
        self.variables.iter().map(|(name, variable)| (name.as_str(), variable))
    }

    /// The tensor of this name; `value` gives its numbers the first time, by their place.
    ///
    /// # Errors
    /// One of another shape has this name: a space or transform that changed during the search.
    pub(super) fn get(
        &mut self,
        name: &str,
        shape: &[usize],
        value: impl Fn(usize, &mut Rng) -> f64,
    ) -> Result<Tensor> {
        if !self.variables.contains_key(name) {
            let mut rng = self.stream.split(name);
            let numbers = (0..shape.iter().product()).map(|place| value(place, &mut rng));
            let tensor = Tensor::from_vec(numbers.collect(), shape, &Device::Cpu)?;
            self.variables.insert(name.to_owned(), Var::from_tensor(&tensor)?);
        }
        let tensor = self.variables[name].as_tensor();
        if tensor.dims() != shape {
            let found = tensor.dims();
            candle_core::bail!("{name}: expected the shape {found:?} as before, found {shape:?}");
        }
        Ok(tensor.clone())
    }

    /// A matrix of uniform numbers within the bound of Glorot and Bengio (2010).
    pub(super) fn matrix(&mut self, name: &str, rows: usize, columns: usize) -> Result<Tensor> {
        let bound = (6.0 / (rows + columns) as f64).sqrt();
        self.get(name, &[rows, columns], |_, rng| bound * (2.0 * rng.unit() - 1.0))
    }

    /// A row of unit variance for each of `count` symbols.
    pub(super) fn embedding(&mut self, name: &str, count: usize, size: usize) -> Result<Tensor> {
        self.get(name, &[count, size], |_, rng| 3f64.sqrt() * (2.0 * rng.unit() - 1.0))
    }

    pub(super) fn linear(&mut self, name: &str, inputs: usize, outputs: usize) -> Result<Linear> {
        let weight = self.matrix(&format!("{name}.weight"), inputs, outputs)?;
        let bias = self.get(&format!("{name}.bias"), &[outputs], |_, _| 0.0)?;
        Ok(Linear { weight, bias })
    }
}

/// Rows of a table: [rows, size] → [places, size]
pub(super) fn rows(table: &Tensor, places: impl IntoIterator<Item = usize>) -> Result<Tensor> {
    let places: Vec<u32> = places.into_iter().map(|place| place as u32).collect();
    let count = places.len();
    table.index_select(&Tensor::from_vec(places, count, &Device::Cpu)?, 0)
}
