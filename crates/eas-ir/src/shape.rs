//! The shape of one image's value at a node; the batch dimension is never part of it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The shape of what a node computes for one image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Shape {
    /// A stack of feature maps, `[channels, height, width]`.
    Image {
        /// Feature maps, or colours for the input.
        channels: usize,
        /// Rows.
        height: usize,
        /// Columns.
        width: usize,
    },
    /// A vector, `[features]`.
    Flat {
        /// Its length.
        features: usize,
    },
}

impl Shape {
    /// Channels of an image, features of a vector: the axis that widening changes.
    pub fn channels(&self) -> usize {
        match *self {
            Shape::Image { channels, .. } => channels,
            Shape::Flat { features } => features,
        }
    }

    /// Pixels a channel has: height × width of an image, 1 of a vector.
    pub fn area(&self) -> usize {
        match *self {
            Shape::Image { height, width, .. } => height.saturating_mul(width),
            Shape::Flat { .. } => 1,
        }
    }

    /// Numbers in the value; saturates instead of overflowing.
    pub fn elements(&self) -> usize {
        self.channels().saturating_mul(self.area())
    }

    /// The same shape with another number of channels (or features).
    pub fn with_channels(&self, channels: usize) -> Self {
        match *self {
            Shape::Image { height, width, .. } => Shape::Image { channels, height, width },
            Shape::Flat { .. } => Shape::Flat { features: channels },
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Shape::Image { channels, height, width } => write!(out, "{channels}x{height}x{width}"),
            Shape::Flat { features } => write!(out, "{features}"),
        }
    }
}

/// Why an operation can't take its inputs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShapeError {
    /// The operation takes another number of inputs.
    #[error("{op} takes {expected}, found {found}")]
    Arity {
        /// The operation's name.
        op: &'static str,
        /// How many it takes, in words.
        expected: &'static str,
        /// How many it was given.
        found: usize,
    },
    /// The operation takes another kind of input.
    #[error("{op} takes {expected}, found {found}")]
    Kind {
        /// The operation's name.
        op: &'static str,
        /// What it takes, in words.
        expected: &'static str,
        /// The shape it was given.
        found: Shape,
    },
    /// Inputs that must agree don't.
    #[error("{op} takes inputs that agree in {axes}, found {first} and {other}")]
    Disagree {
        /// The operation's name.
        op: &'static str,
        /// What must agree.
        axes: &'static str,
        /// The first input's shape.
        first: Shape,
        /// The shape that differs.
        other: Shape,
    },
    /// A parameter of the operation is out of its range.
    #[error("{op}: {parameter} must be {expected}, found {found}")]
    Parameter {
        /// The operation's name.
        op: &'static str,
        /// The parameter's name.
        parameter: &'static str,
        /// Its range, in words.
        expected: String,
        /// What it is.
        found: String,
    },
}
