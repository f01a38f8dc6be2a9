//! Weights, keyed by node and role, so that an edit elsewhere can't detach them from their layer.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use ndarray::{ArcArray, IxDyn};

use crate::network::{Network, NodeId, ParseIdError};
use crate::verify::Shapes;

/// What a parameter is to its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Kernel of a convolution `[out, in / groups, height, width]` or matrix of a linear layer
    /// `[out, in]`.
    Weight,
    /// Added to every output channel, `[out]`.
    Bias,
    /// Batch norm's scale, `[channels]`.
    Gamma,
    /// Batch norm's shift, `[channels]`.
    Beta,
    /// Batch norm's running mean, `[channels]`; not trained.
    Mean,
    /// Batch norm's running variance, `[channels]`; not trained, never negative.
    Variance,
}

impl Role {
    const ALL: [Role; 6] =
        [Role::Weight, Role::Bias, Role::Gamma, Role::Beta, Role::Mean, Role::Variance];

    /// Whether gradient descent changes it; running statistics are only observed.
    pub fn trainable(self) -> bool {
        match self {
            Role::Weight | Role::Bias | Role::Gamma | Role::Beta => true,
            Role::Mean | Role::Variance => false,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Role::Weight => "weight",
            Role::Bias => "bias",
            Role::Gamma => "gamma",
            Role::Beta => "beta",
            Role::Mean => "mean",
            Role::Variance => "variance",
        })
    }
}

/// Names one parameter; its text, such as `n3.weight`, is also its key in `weights.safetensors`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ParamId {
    /// The node it belongs to.
    pub node: NodeId,
    /// What it is to that node.
    pub role: Role,
}

impl ParamId {
    /// The parameter of this node and role.
    pub fn new(node: NodeId, role: Role) -> Self {
        ParamId { node, role }
    }
}

impl fmt::Display for ParamId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}.{}", self.node, self.role)
    }
}

impl FromStr for ParamId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let parse = || {
            let (node, role) = text.split_once('.')?;
            let role = Role::ALL.into_iter().find(|known| known.to_string() == role)?;
            Some(ParamId::new(node.parse().ok()?, role))
        };
        parse().ok_or_else(|| ParseIdError {
            expected: "a parameter such as `n3.weight`",
            found: text.chars().take(40).collect(),
        })
    }
}

/// Numbers with a shape, f32, in row-major order; a clone shares them, a change copies them first.
pub type Tensor = ArcArray<f32, IxDyn>;

/// A tensor of this shape and these values, row-major.
///
/// # Panics
/// Where the number of values isn't the product of the shape.
pub fn tensor(shape: &[usize], values: Vec<f32>) -> Tensor {
    Tensor::from_shape_vec(IxDyn(shape), values).expect("as many values as the shape has places")
}

/// All parameters of a network, ordered by id, so that every walk over them is the same.
pub type Weights = BTreeMap<ParamId, Tensor>;

/// Every parameter that a verified network has, with its shape, ordered by id.
pub fn parameter_list(network: &Network, shapes: &Shapes) -> Vec<(ParamId, Vec<usize>)> {
    let mut list: Vec<_> = network
        .nodes()
        .iter()
        .flat_map(|node| {
            let inputs: Vec<_> = node.inputs.iter().map(|input| shapes[*input]).collect();
            let parameters = node.op.parameters(&inputs).into_iter();
            parameters.map(|(role, shape)| (ParamId::new(node.id, role), shape))
        })
        .collect();
    list.sort();
    list
}
