//! What a network *is*: operations, graph, shapes, cost, weights, and what it computes.
//!
//! This crate is inert data with validation. It knows nothing of runs, training, devices or edits.
//! A [`Network`] is an architecture, a [`Model`] an architecture with weights that fit it, a
//! [`SavedModel`] what is kept on disk. [`Reference`] says what a network means; every engine is
//! tested against it.

mod cost;
mod fingerprint;
mod fold;
mod forward;
mod model;
mod network;
pub mod onnx;
mod op;
mod quantity;
mod reference;
mod registry;
mod rng;
mod saved;
mod shape;
mod text;
mod verify;
mod weights;

pub use cost::{Cost, cost, node_cost};
pub use fingerprint::Fingerprint;
pub use fold::fold_batch_norms;
pub use forward::{Forward, Gradients, Images, Mode, Moments, deviation_of_logits};
pub use model::{Model, ModelError};
pub use network::{Label, Network, Node, NodeId, ParseIdError};
pub use op::{BATCH_NORM_EPSILON, Op};
pub use quantity::{Bytes, Count};
pub use reference::Reference;
pub use registry::{
    Built, DuplicatePlugin, Plugin, Registry, UnknownPlugin, Value, nearest, parse_options,
    resolved_options,
};
pub use rng::Rng;
pub use saved::{Fit, LoadError, Metadata, Normalisation, Probe, SavedModel};
pub use shape::{Shape, ShapeError};
pub use text::NetworkError;
pub use verify::{
    MAX_ELEMENTS, MAX_NEXT, MAX_NODES, MAX_PARAMETERS, Shapes, Violation, Violations,
};
pub use weights::{ParamId, Role, Tensor, Weights, parameter_list, tensor};
