//! What to try next: controllers, the search loop, and the seam to whoever trains.
//!
//! A [`Controller`] proposes edits and learns from how their children did. It sees architectures,
//! never weights, data, files or devices. The loop ([`search`]) hands assignments to an
//! [`Evaluator`] and tells the controller about complete batches, so that what it learns doesn't
//! depend on which trial ended first.

mod action;
mod batch;
mod controller;
mod evaluator;
mod evolution;
mod halving;
mod hill_climb;
mod mutation;
mod random;
mod registry;
mod reinforce;
mod scope;
mod search;
mod trial;

pub use action::{Action, ParseActionError};
pub use controller::{Controller, Proposal};
pub use evaluator::{Assignment, Evaluator};
pub use evolution::{Evolution, EvolutionOptions};
pub use halving::{Halving, Repeat};
pub use hill_climb::{HillClimb, HillClimbOptions};
pub use random::Random;
pub use registry::{ControllerPlugin, controllers};
pub use reinforce::{BaselineKind, Reinforce, ReinforceOptions};
pub use scope::{EpisodeError, Scope, every_site, pick_one, take_all};
pub use search::{Batches, Event, StopReason, search};
pub use trial::{Ending, Outcome, Trial, TrialId};
