//! Where networks are trained and run.

use std::fmt;
use std::str::FromStr;

use crate::cpu::Cpu;
use crate::engine::Engine;

/// A processor that networks are trained on. Text: `cpu`, or `cuda:` and a GPU's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Device {
    /// This machine's processor.
    #[default]
    Cpu,
    /// The GPU of this number, as CUDA counts them.
    Cuda(usize),
}

impl fmt::Display for Device {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Cpu => out.write_str("cpu"),
            Device::Cuda(gpu) => write!(out, "cuda:{gpu}"),
        }
    }
}

impl FromStr for Device {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let gpu = text.strip_prefix("cuda:").and_then(|number| number.parse().ok());
        match (text, gpu) {
            ("cpu", _) => Ok(Device::Cpu),
            ("cuda", _) => Ok(Device::Cuda(0)),
            (_, Some(gpu)) => Ok(Device::Cuda(gpu)),
            _ => Err(format!("expected `cpu`, `cuda` or `cuda:NUMBER`, found `{text}`")),
        }
    }
}

impl Device {
    /// Its engine.
    ///
    /// # Errors
    /// A GPU that can't be used, and what is missing.
    pub fn engine(self) -> anyhow::Result<Box<dyn Engine>> {
        match self {
            Device::Cpu => Ok(Box::new(Cpu)),
            #[cfg(feature = "cuda")]
            Device::Cuda(gpu) => Ok(Box::new(crate::cuda::Cuda::open(gpu)?)),
            #[cfg(not(feature = "cuda"))]
            Device::Cuda(_) => anyhow::bail!(NOT_BUILT),
        }
    }
}

/// Whether this program was built to train on GPUs.
pub const HAS_CUDA: bool = cfg!(feature = "cuda");

/// What CUDA finds on this machine.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CudaSurvey {
    /// The CUDA version that the driver knows, as `13.0`; none without a driver.
    pub driver: Option<String>,
    /// The version of cuDNN, as `9.19.0`; none where it can't be loaded.
    pub cudnn: Option<String>,
    /// The GPUs, in CUDA's order.
    pub gpus: Vec<Gpu>,
    /// What keeps this program from training on any GPU, and what mends it; empty where nothing does.
    pub missing: Vec<String>,
}

/// A GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpu {
    /// Its name, as the driver has it.
    pub name: String,
    /// Its compute capability, as `9.0`.
    pub capability: String,
    /// Bytes of its memory.
    pub memory: u64,
    /// Bytes of it that are free.
    pub free: u64,
    /// Why it can't be used, where it can't.
    pub unusable: Option<String>,
}

/// Looks for what training on GPUs needs. It never fails: what is missing is part of what it finds.
pub fn survey_cuda() -> CudaSurvey {
    #[cfg(feature = "cuda")]
    return crate::cuda::survey();
    #[cfg(not(feature = "cuda"))]
    CudaSurvey { missing: vec![NOT_BUILT.to_owned()], ..CudaSurvey::default() }
}

#[cfg(not(feature = "cuda"))]
const NOT_BUILT: &str =
    "this program was built without CUDA: build it by `cargo build --release --features cuda`";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_read_as_it_is_written() {
        for device in [Device::Cpu, Device::Cuda(0), Device::Cuda(17)] {
            assert_eq!(device.to_string().parse(), Ok(device));
        }
        assert_eq!("cuda".parse(), Ok(Device::Cuda(0)));
        for wrong in ["", "gpu", "cuda:", "cuda:-1", "cuda:x", "CPU"] {
            assert!(wrong.parse::<Device>().is_err(), "{wrong}");
        }
    }
}
