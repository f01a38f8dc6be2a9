//! How a network learns: engines, optimiser, schedule, data.
//!
//! An [`Engine`] compiles a network into a [`Program`], which trains [`FlatParameters`] in place.
//! [`Cpu`] is the engine to use, [`Oracle`] the one that others are tested against. [`train`] is the loop; a [`Recipe`] holds
//! every hyper-parameter. Data sets are plugins ([`DataPlugin`]). This crate knows nothing of
//! transforms, search or controllers.

mod cpu;
mod data;
mod engine;
mod optimiser;
mod oracle;
mod parameters;
mod recipe;
mod train;

pub use cpu::{Cpu, CpuProgram, OpTime};
pub use data::{
    Augment, Batches, DataOptions, DataPlugin, DataSource, Description, Labelled, Mirror, Split,
    Survey, TrainingData, cache_folder, calibration_images, contact_sheet, data_sets, image_bytes,
    image_of, images_in, normalisation_of, normalise, read_image, shared_images, split, survey,
};
pub use engine::{Batch, Engine, Mixed, Program, StepOptions, StepReport};
pub use optimiser::{Nesterov, nesterov_step};
pub use oracle::Oracle;
pub use parameters::{FlatParameters, Slot};
pub use recipe::{Momentum, Precision, Recipe, RecipeSpec, Schedule};
pub use train::{
    Accuracy, EpochRecord, Position, Progress, Start, Training, TrainingEnd, accuracy,
    mirrored_accuracy, train, train_from,
};
