//! A GPU: what there is, its context, a stream of work, memory.

#![expect(unsafe_code, reason = "the driver and cuDNN are C libraries")]

use cudarc::cudnn::result as cudnn;
use cudarc::driver::{CudaContext, sys};

use crate::device::{CudaSurvey, Gpu};

/// The CUDA version that a driver must know for our kernels, as the driver tells it: that of the
/// compiler which wrote them.
const DRIVER: i32 = 13000;

/// Looks for the driver, cuDNN and the GPUs.
pub(crate) fn survey() -> CudaSurvey {
    let mut found = CudaSurvey::default();
    match driver_version() {
        None => found.missing.push(
            "no NVIDIA driver: install one of at least version 580 (Debian: `apt install \
             nvidia-driver`), and look whether `nvidia-smi` shows the GPU"
                .to_owned(),
        ),
        Some(version) => {
            let text = format!("{}.{}", version / 1000, version % 1000 / 10);
            if version < DRIVER {
                found.missing.push(format!(
                    "the driver knows CUDA {text}, and 13.0 is needed: install a driver of at least \
                     version 580"
                ));
            }
            found.driver = Some(text);
            found.gpus = gpus();
            if found.gpus.is_empty() {
                found.missing.push(
                    "no GPU that the driver can use: `nvidia-smi` says why, and CUDA_VISIBLE_DEVICES \
                     may hide them"
                        .to_owned(),
                );
            }
        }
    }
    // Safety: loading cuDNN runs its initialisers, which is what it is there for.
    let has_cudnn = unsafe { cudarc::cudnn::sys::is_culib_present() };
    if has_cudnn {
        let version = cudnn::get_version();
        let (major, minor, patch) = (version / 10_000, version / 100 % 100, version % 100);
        found.cudnn = Some(format!("{major}.{minor}.{patch}"));
    } else {
        found.missing.push(
            "no cuDNN 9: install it by `python3 -m pip install nvidia-cudnn-cu13`, and put its folder \
             `nvidia/cudnn/lib` and cuBLAS's, `nvidia/cu13/lib`, into LD_LIBRARY_PATH"
                .to_owned(),
        );
    }
    found
}

/// The CUDA version that the driver knows, a thousand times the major one and ten times the minor.
fn driver_version() -> Option<i32> {
    // Safety: loading the driver's library runs its initialisers, which is what it is there for; the
    // call writes one number.
    unsafe {
        if !sys::is_culib_present() {
            return None;
        }
        let mut version = 0;
        sys::cuDriverGetVersion(&raw mut version).result().ok()?;
        Some(version)
    }
}

fn gpus() -> Vec<Gpu> {
    let count = CudaContext::device_count().unwrap_or(0);
    let gpus = (0..usize::try_from(count).unwrap_or(0)).filter_map(|ordinal| {
        let context = CudaContext::new(ordinal).ok()?;
        let (major, minor) = context.compute_capability().ok()?;
        let (free, memory) = context.mem_get_info().ok()?;
        Some(Gpu {
            name: context.name().ok()?,
            capability: format!("{major}.{minor}"),
            memory: memory as u64,
            free: free as u64,
        })
    });
    gpus.collect()
}
