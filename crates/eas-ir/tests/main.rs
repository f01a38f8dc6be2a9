//! What `eas-ir` promises, over random networks and hostile files.

mod allocations;
mod cost;
mod editing;
mod fingerprint;
mod gradients;
mod hostile;
mod models;
mod networks;
mod onnx;
mod onnx_hostile;
mod reference;
mod registry;
mod round_trips;
mod saving;
mod verify;
