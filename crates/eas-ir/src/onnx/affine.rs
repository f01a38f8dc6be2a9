//! The normalisation at the front of a graph, read from its arithmetic.

use super::tensors::few;
use crate::saved::Normalisation;
use crate::shape::Shape;
use crate::weights::Tensor;

/// What the nodes at the front of a graph make of the images, a channel at a time: scale · x + shift.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Affine {
    scale: Vec<f64>,
    shift: Vec<f64>,
    /// Whether a division by 255 is among them, so that x is known to be a pixel from 0 to 255.
    divided: bool,
}

impl Affine {
    /// Images as they are.
    pub(super) fn identity(shape: Shape) -> Self {
        let channels = shape.channels();
        Affine { scale: vec![1.0; channels], shift: vec![0.0; channels], divided: false }
    }

    /// Followed by an operation with a number for each channel; `first` where the constant is the
    /// operation's first input.
    pub(super) fn then(
        &self,
        op_type: &str,
        constant: &[f64],
        first: bool,
    ) -> Result<Self, String> {
        let mut next = self.clone();
        let by_255 = |value: &f64| (value * 255.0 - 1.0).abs() < 1e-6;
        match (op_type, first) {
            ("Add", _) => next.add(constant, 1.0),
            ("Sub", false) => next.add(constant, -1.0),
            ("Mul", _) => {
                next.multiply(constant.iter().copied());
                next.divided |= constant.iter().all(by_255);
            }
            ("Div", false) => {
                next.multiply(constant.iter().map(|value| 1.0 / value));
                next.divided |= constant.iter().all(|value| *value == 255.0);
            }
            _ => return Err(format!("{op_type} of a constant and the images is no normalisation")),
        }
        Ok(next)
    }

    fn add(&mut self, constant: &[f64], sign: f64) {
        self.shift.iter_mut().zip(constant).for_each(|(shift, value)| *shift += sign * value);
    }

    fn multiply(&mut self, factors: impl Iterator<Item = f64>) {
        for ((scale, shift), factor) in self.scale.iter_mut().zip(&mut self.shift).zip(factors) {
            *scale *= factor;
            *shift *= factor;
        }
    }

    /// The same as means and deviations of pixels from 0 to 1; nothing where images are left as they
    /// are. The images of a graph are taken for pixels from 0 to 255 where it divides them by 255, or
    /// subtracts a mean above 1, and from 0 to 1 otherwise.
    pub(super) fn normalisation(&self) -> Result<Option<Normalisation>, String> {
        if self.scale.iter().all(|s| *s == 1.0) && self.shift.iter().all(|s| *s == 0.0) {
            return Ok(None);
        }
        let parts = || self.scale.iter().zip(&self.shift);
        let is_bytes = self.divided || parts().any(|(scale, shift)| -shift / scale > 1.0);
        let largest = if is_bytes { 255.0 } else { 1.0 };
        let mean = parts().map(|(scale, shift)| (0.0 - shift / (scale * largest)) as f32).collect();
        let deviation: Vec<f32> =
            self.scale.iter().map(|scale| (1.0 / (scale * largest)) as f32).collect();
        let usable = deviation.iter().all(|value| value.is_finite() && *value > 0.0);
        if usable {
            Ok(Some(Normalisation { mean, deviation }))
        } else {
            Err(format!(
                "expected a normalisation by positive deviations, found {}",
                few(&deviation)
            ))
        }
    }
}

/// A constant as a number for each channel of a value, where broadcasting makes it one.
pub(super) fn per_channel(constant: &Tensor, shape: Shape) -> Option<Vec<f64>> {
    let channels = shape.channels();
    let axes = match shape {
        Shape::Image { .. } => vec![1, channels, 1, 1],
        Shape::Flat { .. } => vec![1, channels],
    };
    let sides = constant.shape();
    let skipped = axes.len().checked_sub(sides.len())?;
    let fits = |(side, axis): (&usize, &usize)| side == axis || *side == 1;
    if !sides.iter().zip(&axes[skipped..]).all(fits) {
        return None;
    }
    let values = constant.iter().map(|value| f64::from(*value));
    match constant.len() {
        1 => Some(values.cycle().take(channels).collect()),
        _ => Some(values.collect()),
    }
}
