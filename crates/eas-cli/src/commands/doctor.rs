//! `eas doctor`: what this machine has to train on, and what mends what is missing.

use std::path::Path;

use eas_ir::Bytes;
use eas_train::{Cpu, CudaSurvey, Device, HAS_CUDA, survey_cuda};
use serde::Serialize;

use crate::args;
use crate::devices::{Devices, Places};
use crate::dispatcher::free_memory;
use crate::exit;
use crate::print;
use crate::room;

/// Where the daemon of MPS listens unless `CUDA_MPS_PIPE_DIRECTORY` says otherwise.
const MPS: &str = "/tmp/nvidia-mps";

/// The instructions for products of bf16.
const BF16: &str = "avx512_bf16";

#[derive(Serialize)]
struct Diagnosis {
    version: &'static str,
    /// Processors that this program may use.
    cores: usize,
    /// Instructions that training on the processor makes use of, those that it has.
    cpu_features: &'static [&'static str],
    memory_bytes: Option<u64>,
    free_memory_bytes: Option<u64>,
    /// Of the disk of the current folder.
    free_disk_bytes: Option<u64>,
    /// Whether this program was built for GPUs.
    cuda: bool,
    /// The CUDA version that the driver knows.
    driver: Option<String>,
    cudnn: Option<String>,
    gpus: Vec<FoundGpu>,
    /// Whether kernels of several processes run on a GPU at the same time.
    mps: bool,
    /// What `--devices auto` stands for.
    auto: Vec<String>,
    /// What is missing, what that means, and what mends it.
    missing: Vec<String>,
}

#[derive(Serialize)]
struct FoundGpu {
    device: String,
    name: String,
    capability: String,
    memory_bytes: u64,
    free_bytes: u64,
}

pub(super) fn run(args: &args::Doctor) -> anyhow::Result<u8> {
    let folder = std::env::var_os("CUDA_MPS_PIPE_DIRECTORY");
    let mps = folder.as_deref().map_or(Path::new(MPS), Path::new).join("control").exists();
    let diagnosis = Diagnosis::of(survey_cuda(), mps);
    match args.json {
        true => print::json(&diagnosis),
        false => print::result(&diagnosis.text()),
    }
    Ok(exit::SUCCESS)
}

impl Diagnosis {
    fn of(survey: CudaSurvey, mps: bool) -> Self {
        let auto = match Devices::Auto.among(survey.clone()) {
            Ok(Places::Gpus(gpus)) => {
                gpus.iter().map(|(gpu, _)| Device::Cuda(*gpu).to_string()).collect()
            }
            Ok(Places::Cpu) | Err(_) => vec![Device::Cpu.to_string()],
        };
        let cpu_features = Cpu::instructions();
        let mut missing = survey.missing;
        if missing.is_empty() {
            missing.extend(survey.gpus.iter().filter_map(|gpu| gpu.unusable.clone()));
        }
        if !mps && !survey.gpus.is_empty() {
            missing.push(
                "no MPS daemon, so that the trials of a GPU take turns instead of running side by side: \
                 start it by `nvidia-cuda-mps-control -d`"
                    .to_owned(),
            );
        }
        if cpu_features.is_empty() {
            missing.push(
                "no AVX2 and FMA, so that training on the processor takes several times as long: another \
                 processor has them, or a virtual machine that passes them on"
                    .to_owned(),
            );
        }
        let gpus = survey.gpus.into_iter().enumerate().map(|(number, gpu)| FoundGpu {
            device: Device::Cuda(number).to_string(),
            name: gpu.name,
            capability: gpu.capability,
            memory_bytes: gpu.memory,
            free_bytes: gpu.free,
        });
        Diagnosis {
            version: env!("CARGO_PKG_VERSION"),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            cpu_features,
            memory_bytes: memory(),
            free_memory_bytes: free_memory(),
            free_disk_bytes: room::free(Path::new(".")),
            cuda: HAS_CUDA,
            driver: survey.driver,
            cudnn: survey.cudnn,
            gpus: gpus.collect(),
            mps,
            auto,
            missing,
        }
    }

    fn text(&self) -> String {
        let bytes = |bytes: Option<u64>| bytes.map_or("-".to_owned(), |b| Bytes(b).to_string());
        let features = match self.cpu_features {
            [] => "no vector instructions that help".to_owned(),
            features => features.join(", "),
        };
        let found = |version: &Option<String>| version.clone().unwrap_or("not found".to_owned());
        let bf16 = match self.cpu_features.contains(&BF16) {
            true => "the processor multiplies it",
            false => "slower than f32 on the processor, which has no AVX512-BF16",
        };
        let mut rows = vec![
            ("processor", format!("{} cores; {features}", self.cores)),
            ("bf16", bf16.to_owned()),
            (
                "memory",
                format!("{} free of {}", bytes(self.free_memory_bytes), bytes(self.memory_bytes)),
            ),
            ("disk", format!("{} free in this folder", bytes(self.free_disk_bytes))),
        ];
        if self.cuda {
            let driver = self.driver.as_ref().map(|version| format!("for CUDA {version}"));
            rows.push(("driver", found(&driver)));
            rows.push(("cuDNN", found(&self.cudnn)));
            let mps = if self.mps { "its daemon runs" } else { "its daemon doesn't run" };
            rows.push(("MPS", mps.to_owned()));
        } else {
            rows.push(("CUDA", "not in this program".to_owned()));
        }
        for gpu in &self.gpus {
            let (free, memory) = (Bytes(gpu.free_bytes), Bytes(gpu.memory_bytes));
            let about =
                format!("{}, capability {}, {free} free of {memory}", gpu.name, gpu.capability);
            rows.push((gpu.device.as_str(), about));
        }
        rows.push(("auto", format!("trains on {}", self.auto.join(", "))));
        let rows = rows.iter().map(|(name, about)| format!("{name:10}  {about}\n"));
        let mut text = format!("eas {}\n\n{}", self.version, rows.collect::<String>());
        for missing in &self.missing {
            text += &format!("\nmissing: {missing}");
        }
        text
    }
}

/// Whether this processor has instructions for products of bf16.
pub(super) fn has_bf16() -> bool {
    Cpu::instructions().contains(&BF16)
}

/// Bytes of memory that the machine has.
fn memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    Some(line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use eas_train::Gpu;

    use super::*;

    fn diagnosis(survey: CudaSurvey, mps: bool) -> String {
        let diagnosis = Diagnosis {
            version: "0",
            cores: 16,
            cpu_features: &["avx2", "avx512"],
            memory_bytes: Some(128 << 30),
            free_memory_bytes: Some(120 << 30),
            free_disk_bytes: None,
            cuda: true,
            ..Diagnosis::of(survey, mps)
        };
        diagnosis.text()
    }

    #[test]
    fn what_is_there_and_what_is_missing_is_told() {
        let gpu = Gpu {
            name: "NVIDIA H100 80GB HBM3".to_owned(),
            capability: "9.0".to_owned(),
            memory: 80 << 30,
            free: 79 << 30,
            unusable: None,
        };
        let whole = CudaSurvey {
            driver: Some("13.0".to_owned()),
            cudnn: Some("9.19.0".to_owned()),
            gpus: vec![gpu.clone(), gpu],
            missing: Vec::new(),
        };
        let without = CudaSurvey {
            cudnn: None,
            missing: vec!["no cuDNN 9: install it".to_owned()],
            ..whole.clone()
        };
        let texts =
            [diagnosis(whole.clone(), true), diagnosis(whole, false), diagnosis(without, true)];
        insta::assert_snapshot!(texts.join("\n---\n"));
    }
}
