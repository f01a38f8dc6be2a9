//! How a network may *change* without changing what it computes.
//!
//! An edit is a value. A [`Transform`] lists the edits it can make to a network and turns one into
//! a [`Patch`]: the new architecture, and how each new weight derives from old ones. Only
//! [`apply`] touches weights; [`certify`] checks that the function stayed. A [`SearchSpace`] says
//! where a search starts and how far it may go.
//!
//! This crate knows nothing of policies, training or data sets. It is the only import a plugin
//! author needs: [`ir`] and [`inventory`] are re-exported, so that a plugin never links a second
//! version of either.

mod apply;
mod calibrate;
mod certificate;
mod channels;
mod decision;
mod edit;
mod grow;
pub mod law;
mod options;
mod patch;
mod registry;
mod space;
mod spaces;
mod transform;
mod transforms;

pub use apply::{Noise, apply, carry_momentum};
pub use calibrate::{Calibrated, calibrate, drift};
pub use certificate::{Certificate, TOLERANCE, Verdict, certify};
pub use channels::{ChannelGroup, Gained, channel_groups, replicate, rewire};
pub use decision::Decision;
pub use eas_ir as ir;
pub use edit::{Candidate, Edit, ParseEditError, Step, Target};
pub use grow::{Growth, grow, grow_network};
pub use inventory;
pub use patch::{Derive, GradientMap, Patch};
pub use registry::{SpacePlugin, TransformPlugin, Transforms, spaces, transforms};
pub use space::{Limits, Problem, Refusal, SearchSpace, Token};
pub use spaces::{ConvNet, DenseNet, NetworkFile, Residual, tokens, vocabulary};
pub use transform::Transform;
pub use transforms::{
    AddBlock, Deepen, DeepenDense, GrowKernel, NewFilters, Replicate, Skip, Widen, WidenGrowth,
    WidenTransition,
};
