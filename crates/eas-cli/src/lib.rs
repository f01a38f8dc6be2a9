//! The `eas` command: composition of spaces, transforms, controllers and trainers from a spec.
//!
//! A binary of your own with your plugins in it is three lines:
//!
//! ```no_run
//! // use my_plugin as _; // Links the crate, and with it what it registers.
//! fn main() -> std::process::ExitCode {
//!     eas_cli::main()
//! }
//! ```
//!
//! Nothing imports this crate but such binaries and the tests. Libraries below it return values or
//! call back; [`print`] is the one module that writes to the terminal.

mod args;
mod automatic;
mod commands;
mod comparison;
mod devices;
mod difference;
mod dispatcher;
mod engine;
mod executor;
mod exit;
mod export;
mod failpoint;
mod fetch;
mod forecast;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod lineage;
mod onnx_runtime;
mod picture;
mod plan;
mod plot;
mod print;
mod reach;
mod report;
mod room;
mod runs;
mod schedule;
mod search;
mod spec;
mod statistics;
mod status;
mod stop;
mod storage;
mod trial;

use std::process::ExitCode;

pub use devices::Devices;
pub use eas_controller;
pub use eas_ir;
pub use eas_train;
pub use eas_transform;
pub use exit::{BAD_INPUT, DAMAGED, FAILURE, INTERRUPTED, NO, NO_ROOM, SUCCESS};
pub use plan::{
    FinalWeights, Finals, Named, Plan, Promotion, Retries, Running, Saturation, Stage, StageParent,
    Storage, Workers,
};
pub use spec::{SpecErrors, read_plan};

/// Runs the command line of this process and returns its exit code.
pub fn main() -> ExitCode {
    ExitCode::from(commands::run(std::env::args_os()))
}
