//! A network with weights that fit it.

use ndarray::IxDyn;

use crate::network::Network;
use crate::op::Op;
use crate::rng::Rng;
use crate::verify::{Shapes, Violations};
use crate::weights::{ParamId, Role, Tensor, Weights, parameter_list, tensor};

/// An architecture with weights that fit it. [`Model::new`] is the only way to one, so nothing
/// behind it checks shapes again.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    network: Network,
    shapes: Shapes,
    weights: Weights,
}

/// Why a network and weights don't make a model.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ModelError {
    /// The network breaks rules.
    #[error("not a network: {0}")]
    Network(#[from] Violations),
    /// A parameter of the network has no weights.
    #[error("{parameter}: expected weights of shape {expected:?}, found none")]
    Missing {
        /// The parameter.
        parameter: ParamId,
        /// The shape it needs.
        expected: Vec<usize>,
    },
    /// There are weights that no node of the network has.
    #[error("{0}: the network has no such parameter")]
    Extra(ParamId),
    /// Weights have another shape than the network gives them.
    #[error("{parameter}: expected shape {expected:?}, found {found:?}")]
    Shape {
        /// The parameter.
        parameter: ParamId,
        /// The shape that the network gives it.
        expected: Vec<usize>,
        /// The shape it has.
        found: Vec<usize>,
    },
    /// A weight is NaN or infinite, or a variance negative.
    #[error("{parameter}: expected {expected}, found {found} at position {position}")]
    Value {
        /// The parameter.
        parameter: ParamId,
        /// What was expected, in words.
        expected: &'static str,
        /// The offending value.
        found: f32,
        /// Its place in row-major order.
        position: usize,
    },
}

impl Model {
    /// A model of this network and these weights.
    ///
    /// # Errors
    /// A network that doesn't verify; missing, extra or misshapen weights; values that are not
    /// finite; a negative variance.
    pub fn new(network: Network, weights: Weights) -> Result<Self, ModelError> {
        let shapes = network.verify()?;
        let expected = parameter_list(&network, &shapes);
        let mut fitted = Weights::new();
        let mut left = weights;
        for (parameter, shape) in expected {
            let found = left
                .remove(&parameter)
                .ok_or_else(|| ModelError::Missing { parameter, expected: shape.clone() })?;
            if found.shape() != shape.as_slice() {
                let found = found.shape().to_vec();
                return Err(ModelError::Shape { parameter, expected: shape, found });
            }
            check_values(parameter, &found)?;
            fitted.insert(parameter, standard_layout(found));
        }
        match left.keys().next() {
            Some(&extra) => Err(ModelError::Extra(extra)),
            None => Ok(Model { network, shapes, weights: fitted }),
        }
    }

    /// A model with fresh weights: He's normal initialisation (He et al. 2015, deviation
    /// √(2 / fan-in)) for convolutions and linear layers, but √(1 / fan-in) for the classifier,
    /// which no ReLU follows; biases and betas 0, gammas 1, running mean 0 and variance 1. Each
    /// parameter's stream depends on its id alone.
    ///
    /// # Errors
    /// A network that doesn't verify.
    pub fn initialise(network: Network, rng: &Rng) -> Result<Self, ModelError> {
        let shapes = network.verify()?;
        let output = network.output().map(|node| node.id);
        let weights = parameter_list(&network, &shapes)
            .into_iter()
            .map(|(parameter, shape)| {
                let values = match parameter.role {
                    Role::Weight => {
                        let fan_in: usize = shape[1..].iter().product();
                        let gain = if Some(parameter.node) == output { 1.0 } else { 2.0 };
                        let deviation = (gain / fan_in as f64).sqrt();
                        let mut rng = rng.split("initialise").split(&parameter.to_string());
                        (0..shape.iter().product())
                            .map(|_| (rng.normal() * deviation) as f32)
                            .collect()
                    }
                    Role::Gamma | Role::Variance => vec![1.0; shape[0]],
                    Role::Bias | Role::Beta | Role::Mean => vec![0.0; shape[0]],
                };
                (parameter, tensor(&shape, values))
            })
            .collect();
        Model::new(network, weights)
    }

    /// The architecture.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// The shape of every node.
    pub fn shapes(&self) -> &Shapes {
        &self.shapes
    }

    /// The weights, all in row-major order.
    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    /// The values of one parameter, row-major, if the network has it.
    pub fn values(&self, parameter: ParamId) -> Option<&[f32]> {
        self.weights.get(&parameter).and_then(|weights| weights.as_slice())
    }

    /// Shape of one input image.
    pub fn input_shape(&self) -> crate::Shape {
        let input = self.network.input().expect("a verified network has an input");
        let Op::Input { shape } = input.op else { unreachable!("input() returns input nodes") };
        shape
    }

    /// Number of classes: one logit each.
    pub fn classes(&self) -> usize {
        self.shapes.output().channels()
    }

    /// The network and the weights, to make another model of them.
    pub fn into_parts(self) -> (Network, Weights) {
        (self.network, self.weights)
    }
}

fn standard_layout(weights: Tensor) -> Tensor {
    if weights.is_standard_layout() {
        weights
    } else {
        let values: Vec<f32> = weights.iter().copied().collect();
        Tensor::from_shape_vec(IxDyn(weights.shape()), values).expect("the same number of values")
    }
}

fn check_values(parameter: ParamId, weights: &Tensor) -> Result<(), ModelError> {
    let negative_is_wrong = parameter.role == Role::Variance;
    let wrong = |value: f32| !value.is_finite() || (negative_is_wrong && value < 0.0);
    match weights.iter().position(|value| wrong(*value)) {
        None => Ok(()),
        Some(position) => Err(ModelError::Value {
            parameter,
            expected: if negative_is_wrong {
                "finite variances of at least 0"
            } else {
                "finite values"
            },
            found: *weights.iter().nth(position).expect("the position was found here"),
            position,
        }),
    }
}
