//! The operations of a network: a closed set, matched everywhere without a catch-all, so that the
//! compiler lists what to extend when one is added. [`Op::output_shape`] and [`Op::parameters`] are
//! the only two tables about them.

use serde::{Deserialize, Serialize};

use crate::shape::{Shape, ShapeError};
use crate::verify::MAX_ELEMENTS;
use crate::weights::Role;

/// Added to a variance before the square root unless a network says otherwise.
pub const BATCH_NORM_EPSILON: f32 = 1e-5;

/// The largest value any size parameter may have: far above any real layer, far below overflow.
const LARGEST: usize = 1 << 20;

/// What a node computes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Op {
    /// The images, normalised, `[channels, height, width]`.
    Input {
        /// Shape of one image.
        shape: Shape,
    },
    /// Convolution (cross-correlation); weight `[filters, channels / groups, kernel, kernel]`.
    Conv {
        /// Output channels.
        filters: usize,
        /// Side of the square kernel.
        kernel: usize,
        /// Step between output pixels.
        #[serde(default = "one")]
        stride: usize,
        /// Zeros added on every side.
        padding: usize,
        /// Channel groups that don't see one another.
        #[serde(default = "one")]
        groups: usize,
        /// Whether a bias `[filters]` is added.
        #[serde(default)]
        bias: bool,
    },
    /// Batch normalisation (Ioffe and Szegedy 2015) over every channel: by the batch's statistics in
    /// training, by the running ones in evaluation.
    BatchNorm {
        /// Added to the variance.
        #[serde(default = "default_epsilon")]
        epsilon: f32,
    },
    /// max(0, x).
    Relu,
    /// The largest value of each window; the border counts as −∞, ties go to the first in row-major
    /// order.
    MaxPool {
        /// Side of the window.
        size: usize,
        /// Step between windows.
        stride: usize,
        /// Border on every side, less than `size`.
        #[serde(default)]
        padding: usize,
    },
    /// The mean of each window; windows that would leave the image are dropped.
    AveragePool {
        /// Side of the window.
        size: usize,
        /// Step between windows.
        stride: usize,
    },
    /// The mean of each channel: `[channels, height, width]` to `[channels]`.
    GlobalPool,
    /// `[channels, height, width]` to `[channels · height · width]`, channel-major.
    Flatten,
    /// Fully connected layer; weight `[units, features]`.
    Linear {
        /// Output features.
        units: usize,
        /// Whether a bias `[units]` is added.
        #[serde(default)]
        bias: bool,
    },
    /// Sets each value to 0 with probability `rate` in training and scales the rest by
    /// 1 / (1 − rate); the identity in evaluation.
    Dropout {
        /// Probability of dropping a value, in [0, 1).
        rate: f32,
    },
    /// The sum of inputs of one shape.
    Add,
    /// Inputs of one height and width, one after another along the channels.
    Concat,
}

fn one() -> usize {
    1
}

fn default_epsilon() -> f32 {
    BATCH_NORM_EPSILON
}

impl Op {
    /// A convolution as plain networks have it: stride 1, output as large as the input ("same"
    /// padding, for odd kernels), no groups, no bias.
    pub fn conv(filters: usize, kernel: usize) -> Self {
        let padding = kernel / 2;
        Op::Conv { filters, kernel, stride: 1, padding, groups: 1, bias: false }
    }

    /// Batch normalisation with the usual epsilon.
    pub fn batch_norm() -> Self {
        Op::BatchNorm { epsilon: BATCH_NORM_EPSILON }
    }

    /// The operation's name, as in `network.toml`.
    pub fn name(&self) -> &'static str {
        match self {
            Op::Input { .. } => "input",
            Op::Conv { .. } => "conv",
            Op::BatchNorm { .. } => "batch_norm",
            Op::Relu => "relu",
            Op::MaxPool { .. } => "max_pool",
            Op::AveragePool { .. } => "average_pool",
            Op::GlobalPool => "global_pool",
            Op::Flatten => "flatten",
            Op::Linear { .. } => "linear",
            Op::Dropout { .. } => "dropout",
            Op::Add => "add",
            Op::Concat => "concat",
        }
    }

    /// The shape of the output for inputs of these shapes.
    ///
    /// # Errors
    /// A wrong number or kind of inputs, inputs that disagree, or a parameter out of range.
    pub fn output_shape(&self, inputs: &[Shape]) -> Result<Shape, ShapeError> {
        self.check_parameters()?;
        match *self {
            Op::Input { shape } => {
                arity(self, inputs, 0, "no inputs")?;
                Ok(shape)
            }
            Op::Conv { filters, kernel, stride, padding, groups, .. } => {
                let input @ (channels, ..) = image(self, inputs)?;
                if channels % groups != 0 {
                    let expected = format!("a divisor of the {channels} input channels");
                    return Err(self.parameter("groups", expected, groups));
                }
                Ok(self.slide(input, kernel, stride, padding)?.with_channels(filters))
            }
            Op::BatchNorm { .. } | Op::Relu | Op::Dropout { .. } => single(self, inputs),
            Op::MaxPool { size, stride, padding } => {
                self.slide(image(self, inputs)?, size, stride, padding)
            }
            Op::AveragePool { size, stride } => self.slide(image(self, inputs)?, size, stride, 0),
            Op::GlobalPool => {
                let (channels, ..) = image(self, inputs)?;
                Ok(Shape::Flat { features: channels })
            }
            Op::Flatten => {
                image(self, inputs)?;
                Ok(Shape::Flat { features: inputs[0].elements() })
            }
            Op::Linear { units, .. } => match single(self, inputs)? {
                Shape::Flat { .. } => Ok(Shape::Flat { features: units }),
                found @ Shape::Image { .. } => {
                    Err(ShapeError::Kind { op: self.name(), expected: "a flat input", found })
                }
            },
            Op::Add => {
                let (first, rest) = several(self, inputs)?;
                match rest.iter().find(|other| **other != first) {
                    Some(&other) => Err(self.disagree("shape", first, other)),
                    None => Ok(first),
                }
            }
            Op::Concat => {
                let (first, rest) = several(self, inputs)?;
                let fits = |other: &&Shape| other.with_channels(1) != first.with_channels(1);
                match rest.iter().find(fits) {
                    Some(&other) => Err(self.disagree("height and width", first, other)),
                    None => {
                        let channels = inputs
                            .iter()
                            .fold(0usize, |sum, shape| sum.saturating_add(shape.channels()));
                        Ok(first.with_channels(channels))
                    }
                }
            }
        }
    }

    /// The parameters for inputs of these shapes, which [`Op::output_shape`] has accepted: the role
    /// and shape of each, in the order of [`Role`].
    pub fn parameters(&self, inputs: &[Shape]) -> Vec<(Role, Vec<usize>)> {
        match *self {
            Op::Conv { filters, kernel, groups, bias, .. } => {
                let channels = inputs[0].channels() / groups;
                let weight = (Role::Weight, vec![filters, channels, kernel, kernel]);
                with_bias(weight, bias, filters)
            }
            Op::Linear { units, bias } => {
                with_bias((Role::Weight, vec![units, inputs[0].channels()]), bias, units)
            }
            Op::BatchNorm { .. } => {
                let channels = inputs[0].channels();
                [Role::Gamma, Role::Beta, Role::Mean, Role::Variance]
                    .map(|role| (role, vec![channels]))
                    .to_vec()
            }
            Op::Input { .. }
            | Op::Relu
            | Op::MaxPool { .. }
            | Op::AveragePool { .. }
            | Op::GlobalPool
            | Op::Flatten
            | Op::Dropout { .. }
            | Op::Add
            | Op::Concat => Vec::new(),
        }
    }

    fn check_parameters(&self) -> Result<(), ShapeError> {
        let size = |parameter, value: usize| {
            if (1..=LARGEST).contains(&value) {
                Ok(())
            } else {
                Err(self.parameter(parameter, format!("between 1 and {LARGEST}"), value))
            }
        };
        let padding = |value: usize, side: usize, name| {
            if value < side {
                Ok(())
            } else {
                Err(self.parameter("padding", format!("less than the {name} {side}"), value))
            }
        };
        match *self {
            Op::Input { shape } => {
                size("channels", shape.channels())?;
                if let Shape::Image { height, width, .. } = shape {
                    size("height", height)?;
                    size("width", width)?;
                }
                Ok(())
            }
            Op::Conv { filters, kernel, stride, padding: border, groups, .. } => {
                size("filters", filters)?;
                size("kernel", kernel)?;
                size("stride", stride)?;
                size("groups", groups)?;
                padding(border, kernel, "kernel")?;
                if filters % groups != 0 {
                    let expected = format!("a divisor of the {filters} filters");
                    return Err(self.parameter("groups", expected, groups));
                }
                Ok(())
            }
            Op::MaxPool { size: side, stride, padding: border } => {
                size("size", side)?;
                size("stride", stride)?;
                padding(border, side, "size")
            }
            Op::AveragePool { size: side, stride } => {
                size("size", side)?;
                size("stride", stride)
            }
            Op::Linear { units, .. } => size("units", units),
            Op::Dropout { rate } => {
                if (0.0..1.0).contains(&rate) {
                    Ok(())
                } else {
                    Err(self.parameter("rate", "at least 0 and less than 1".into(), rate))
                }
            }
            Op::BatchNorm { epsilon } => {
                if epsilon > 0.0 && epsilon.is_finite() {
                    Ok(())
                } else {
                    Err(self.parameter("epsilon", "positive and finite".into(), epsilon))
                }
            }
            Op::Relu | Op::GlobalPool | Op::Flatten | Op::Add | Op::Concat => Ok(()),
        }
    }

    /// The windows that fit into a padded image, for every channel.
    fn slide(
        &self,
        (channels, height, width): (usize, usize, usize),
        window: usize,
        stride: usize,
        padding: usize,
    ) -> Result<Shape, ShapeError> {
        let [height, width] = [height, width].map(|side| side.saturating_add(2 * padding));
        let padded = Shape::Image { channels, height, width };
        let side = height.min(width);
        if side < window {
            let expected = format!("at most the padded input's side {side}");
            let parameter = if matches!(self, Op::Conv { .. }) { "kernel" } else { "size" };
            return Err(self.parameter(parameter, expected, window));
        }
        if padding > 0 && padded.elements() > MAX_ELEMENTS {
            let expected = format!("less, as {padded} padded is more than {MAX_ELEMENTS} numbers");
            return Err(self.parameter("padding", expected, padding));
        }
        let windows = |side: usize| (side - window) / stride + 1;
        Ok(Shape::Image { channels, height: windows(height), width: windows(width) })
    }

    fn parameter(
        &self,
        parameter: &'static str,
        expected: String,
        found: impl ToString,
    ) -> ShapeError {
        ShapeError::Parameter { op: self.name(), parameter, expected, found: found.to_string() }
    }

    fn disagree(&self, axes: &'static str, first: Shape, other: Shape) -> ShapeError {
        ShapeError::Disagree { op: self.name(), axes, first, other }
    }
}

fn with_bias(weight: (Role, Vec<usize>), bias: bool, features: usize) -> Vec<(Role, Vec<usize>)> {
    let mut parameters = vec![weight];
    if bias {
        parameters.push((Role::Bias, vec![features]));
    }
    parameters
}

fn arity(
    op: &Op,
    inputs: &[Shape],
    count: usize,
    expected: &'static str,
) -> Result<(), ShapeError> {
    if inputs.len() == count {
        Ok(())
    } else {
        Err(ShapeError::Arity { op: op.name(), expected, found: inputs.len() })
    }
}

fn single(op: &Op, inputs: &[Shape]) -> Result<Shape, ShapeError> {
    arity(op, inputs, 1, "one input")?;
    Ok(inputs[0])
}

fn image(op: &Op, inputs: &[Shape]) -> Result<(usize, usize, usize), ShapeError> {
    match single(op, inputs)? {
        Shape::Image { channels, height, width } => Ok((channels, height, width)),
        found @ Shape::Flat { .. } => {
            Err(ShapeError::Kind { op: op.name(), expected: "an image", found })
        }
    }
}

fn several<'a>(op: &Op, inputs: &'a [Shape]) -> Result<(Shape, &'a [Shape]), ShapeError> {
    match inputs {
        [first, rest @ ..] if !rest.is_empty() => Ok((*first, rest)),
        _ => Err(ShapeError::Arity {
            op: op.name(),
            expected: "two inputs or more",
            found: inputs.len(),
        }),
    }
}
