//! The normalisation at the front of a graph, read from its arithmetic.

use ndarray::Axis;

use super::tensors::few;
use crate::forward::Images;
use crate::saved::Normalisation;
use crate::shape::Shape;
use crate::weights::Tensor;

/// What the nodes at the front of a graph make of the images, a channel at a time: scale · x + shift. One
/// number stands for all channels: how many there are is only what the file says, at first.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Affine {
    scale: Vec<f64>,
    shift: Vec<f64>,
}

impl Affine {
    /// Images as they are.
    pub(super) fn identity() -> Self {
        Affine { scale: vec![1.0], shift: vec![0.0] }
    }

    /// Followed by an operation with a number for each channel, or one for all; `first` where the constant is the
    /// operation's first input.
    pub(super) fn then(
        &self,
        op_type: &str,
        constant: &[f64],
        first: bool,
    ) -> Result<Self, String> {
        let mut next = self.clone();
        match (op_type, first) {
            ("Add", _) => next.add(constant, 1.0),
            ("Sub", false) => next.add(constant, -1.0),
            ("Mul", _) => next.multiply(constant, |value| value),
            ("Div", false) => next.multiply(constant, |value| 1.0 / value),
            _ => return Err(format!("{op_type} of a constant and the images is no normalisation")),
        }
        Ok(next)
    }

    fn add(&mut self, constant: &[f64], sign: f64) {
        self.widen(constant.len());
        for (shift, value) in self.shift.iter_mut().zip(constant.iter().cycle()) {
            *shift += sign * value;
        }
    }

    fn multiply(&mut self, constant: &[f64], factor: impl Fn(f64) -> f64) {
        self.widen(constant.len());
        let parts = self.scale.iter_mut().zip(&mut self.shift);
        for ((scale, shift), value) in parts.zip(constant.iter().cycle()) {
            *scale *= factor(*value);
            *shift *= factor(*value);
        }
    }

    /// Gives every channel numbers of its own.
    fn widen(&mut self, channels: usize) {
        for numbers in [&mut self.scale, &mut self.shift] {
            if let &[only] = numbers.as_slice() {
                numbers.resize(channels, only);
            }
        }
    }

    /// Does to a batch what the graph does.
    pub(super) fn apply(&self, images: &mut Images) {
        let mut all = self.clone();
        all.widen(images.len_of(Axis(1)));
        let parts = all.scale.into_iter().zip(all.shift);
        for (mut plane, (scale, shift)) in images.axis_iter_mut(Axis(1)).zip(parts) {
            plane.mapv_inplace(|value| (f64::from(value) * scale + shift) as f32);
        }
    }

    /// The same as means and deviations of pixels from 0 to 1; nothing where images are left as they
    /// are. The images of a graph are taken for pixels from 0 to 255 where it subtracts a mean or divides
    /// by a deviation above 1, which those from 0 to 1 can't have, and from 0 to 1 otherwise.
    pub(super) fn normalisation(&self, channels: usize) -> Result<Option<Normalisation>, String> {
        let mut all = self.clone();
        all.widen(channels);
        if self.scale.iter().all(|s| *s == 1.0) && self.shift.iter().all(|s| *s == 0.0) {
            return Ok(None);
        }
        let parts = || all.scale.iter().zip(&all.shift);
        let is_bytes = parts().any(|(scale, shift)| -shift / scale > 1.0 || 1.0 / scale > 1.0);
        let largest = if is_bytes { 255.0 } else { 1.0 };
        let mean = parts().map(|(scale, shift)| (0.0 - shift / (scale * largest)) as f32).collect();
        let deviation: Vec<f32> =
            all.scale.iter().map(|scale| (1.0 / (scale * largest)) as f32).collect();
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

/// A constant as a number for each channel of a value, or one for all, where broadcasting makes it that.
pub(super) fn per_channel(constant: &Tensor, shape: Shape) -> Option<Vec<f64>> {
    let channels = shape.channels();
    let axes = match shape {
        Shape::Image { .. } => vec![1, channels, 1, 1],
        Shape::Flat { .. } => vec![1, channels],
    };
    let sides = constant.shape();
    let skipped = axes.len().checked_sub(sides.len())?;
    let fits = |(side, axis): (&usize, &usize)| side == axis || *side == 1;
    let all_fit = sides.iter().zip(&axes[skipped..]).all(fits);
    all_fit.then(|| constant.iter().map(|value| f64::from(*value)).collect())
}
