//! What `eas-ir` promises, over random networks and hostile files.

mod allocations;
mod cost;
mod fingerprint;
mod gradients;
mod hostile;
mod networks;
mod reference;
mod registry;
mod round_trips;
mod saving;
mod verify;
