//! The CUDA engine: a network as a static program over planned device memory, its convolutions by
//! cuDNN, everything else by kernels of its own (`kernels.cu`).
//!
//! Values stand as `[image][row][column][channel]`, in f32 or, with weights kept in f32, in bf16.
//! Parameters, momentum and data stay on the GPU while a training takes its steps; a step is one
//! upload of what it depends on and one launch of a recording ([`program`]), so the host is
//! waited for once in so many steps. Batches are made on the GPU, from the same random numbers as everywhere
//! ([`crate::Drawn`]), so that a training differs from one on the CPU by rounding alone.

mod cudnn;
mod gpu;
mod instance;
mod kernels;
mod plan;
mod program;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use eas_ir::{Forward, Images, Mode, Model, Moments, Network, NodeId};
use ndarray::Array2;

use crate::engine::{Engine, Program};
use crate::parameters::FlatParameters;

pub(crate) use gpu::survey;

use program::CudaProgram;

/// The engine of a GPU.
#[derive(Clone, Debug)]
pub(crate) struct Cuda {
    gpu: Arc<gpu::Gpu>,
}

impl Cuda {
    /// That of the GPU of this number.
    ///
    /// # Errors
    /// What is missing, or a GPU that isn't there.
    pub(crate) fn open(gpu: usize) -> anyhow::Result<Self> {
        Ok(Cuda { gpu: gpu::Gpu::open(gpu)? })
    }

    fn program(&self, network: &Network) -> anyhow::Result<CudaProgram> {
        CudaProgram::new(&self.gpu, network)
    }
}

impl Engine for Cuda {
    fn compile(&self, network: &Network) -> anyhow::Result<Box<dyn Program>> {
        Ok(Box::new(self.program(network)?))
    }
}

impl Forward for Cuda {
    fn logits(&self, model: &Model, images: &Images, mode: Mode) -> anyhow::Result<Array2<f64>> {
        let parameters = FlatParameters::new(model, None)?;
        let logits = self.program(model.network())?.logits(&parameters, images, mode)?;
        Ok(logits.mapv(f64::from))
    }

    fn moments(
        &self,
        model: &Model,
        images: &Images,
        nodes: &[NodeId],
    ) -> anyhow::Result<BTreeMap<NodeId, Moments>> {
        let parameters = FlatParameters::new(model, None)?;
        self.program(model.network())?.moments(&parameters, images, nodes)
    }
}
