//! The CUDA engine: a network as a static program over planned device memory, its convolutions by
//! cuDNN, everything else by kernels of its own ([`kernels`]).

mod gpu;

pub(crate) use gpu::survey;
