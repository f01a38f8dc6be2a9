//! The CPU engine: a network as a static program over planned buffers, faster than a general
//! framework's because nothing in a step is decided, allocated or stored that needn't be.
//!
//! Values stand as `[image][row][column][channel]`. Batch norms and ReLUs are applied by whoever
//! reads a value ([`values`]), so neither their results nor copies for a concatenation are stored
//! ([`plan`], [`placement`]). Convolutions multiply windows in place ([`correlation`], [`product`]) by kernels for
//! AVX-512, AVX2 or any machine ([`kernels`]), those of few filters from planes ([`planes`]); most of 3×3 and 5×5
//! go by tiles, which takes a sixth to a quarter of the multiplications ([`winograd`]). A training step may multiply in
//! bf16 what doesn't go by tiles ([`paired`]), or what fills matrix units where the processor has some ([`matrix`]).
//! Work is cut into blocks of images that depend on shapes alone, and sums are joined in the blocks' order, so results
//! are bit-identical on any number of threads.

mod batch_norm;
mod convolution;
mod correlation;
mod elementwise;
mod images;
mod kernels;
mod loss;
mod matrix;
mod memory;
mod paired;
mod placement;
mod plan;
mod planes;
mod polynomials;
mod pool;
mod product;
mod program;
mod values;
mod weights;
mod windows;
mod winograd;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use eas_ir::{Forward, Gradients, Images, Mode, Model, Moments, Network, NodeId, Weights};
use ndarray::Array2;

use crate::engine::{Batch, Engine, Program, StepOptions};
use crate::optimiser::Nesterov;
use crate::parameters::{FlatParameters, Slot};
use crate::recipe::Precision;

pub use program::CpuProgram;

/// The CPU engine. It works on the threads of the current rayon pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cpu;

impl Cpu {
    /// The names of this processor's instructions that the engine makes use of: of `avx2`, `avx512`, `avx512_bf16` and
    /// `amx_bf16`.
    pub fn instructions() -> &'static [&'static str] {
        kernels::Isa::detect().names()
    }
}

impl Engine for Cpu {
    fn compile(&self, network: &Network) -> anyhow::Result<Box<dyn Program>> {
        Ok(Box::new(CpuProgram::new(network)?))
    }
}

impl Forward for Cpu {
    fn logits(&self, model: &Model, images: &Images, mode: Mode) -> anyhow::Result<Array2<f64>> {
        let parameters = FlatParameters::new(model, None)?;
        let logits = CpuProgram::new(model.network())?.logits(&parameters, images, mode)?;
        Ok(logits.mapv(f64::from))
    }

    fn moments(
        &self,
        model: &Model,
        images: &Images,
        nodes: &[NodeId],
    ) -> anyhow::Result<BTreeMap<NodeId, Moments>> {
        let parameters = FlatParameters::new(model, None)?;
        CpuProgram::new(model.network())?.moments(&parameters, images, nodes)
    }
}

impl Gradients for Cpu {
    fn gradients(
        &self,
        model: &Model,
        images: &Images,
        labels: &[usize],
    ) -> anyhow::Result<Weights> {
        let parameters = FlatParameters::new(model, None)?;
        let batch = Batch::new(images.clone(), labels.to_vec());
        let update = Nesterov::default();
        let options =
            StepOptions { update, label_smoothing: 0.0, precision: Precision::F32, dropout: None };
        let mut program = CpuProgram::new(model.network())?;
        let (gradient, _) = program.gradient(&parameters, &batch, &options)?;
        Ok(parameters.weights_of(&gradient, Slot::is_trainable))
    }
}
