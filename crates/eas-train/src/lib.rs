//! How a network learns: engines, optimiser, schedule, data.
//!
//! An [`Engine`] compiles a network into a [`Program`], which trains [`FlatParameters`] in place.
//! [`Device`] says where: [`Cpu`] is the engine of processors, that of GPUs is behind the feature
//! `cuda`, [`Oracle`] is the one that others are tested against. [`train`] is the loop; a [`Recipe`] holds
//! every hyper-parameter. Data sets are plugins ([`DataPlugin`]). This crate knows nothing of
//! transforms, search or controllers.

mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
mod data;
mod device;
mod engine;
mod optimiser;
mod oracle;
mod parameters;
mod recipe;
mod train;

pub use cpu::{Cpu, CpuProgram};
pub use data::{
    Augment, Batches, DataOptions, DataPlugin, DataSource, Description, Drawn, Labelled, Mirror,
    Split, Survey, TrainingData, cache_folder, calibration_images, contact_sheet, data_sets,
    image_bytes, image_of, images_in, normalisation_of, normalise, read_image, shared_images,
    split, survey,
};
pub use device::{CudaSurvey, Device, Gpu, HAS_CUDA, survey_cuda};
pub use engine::{Batch, Engine, Mixed, OpTime, Program, StepOptions, StepReport, TrainingStep};
pub use optimiser::{Nesterov, nesterov_step};
pub use oracle::Oracle;
pub use parameters::{FlatParameters, Slot};
pub use recipe::{Momentum, Precision, Recipe, RecipeSpec, Schedule};
pub use train::{
    Accuracy, EpochRecord, Position, Progress, Start, Training, TrainingEnd, accuracy,
    mirrored_accuracy, steps_of_epoch, train, train_from,
};
