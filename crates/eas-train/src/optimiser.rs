//! Stochastic gradient descent with Nesterov momentum, over a flat buffer.

use crate::parameters::FlatParameters;

/// The numbers of an update; by default none.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Nesterov {
    /// Learning rate.
    pub learning_rate: f64,
    /// Share of the momentum that a step keeps.
    pub momentum: f64,
    /// L2 decay, added to the gradient as `weight_decay · weight`.
    pub weight_decay: f64,
    /// Whether `learning_rate · weight_decay · weight` is taken from the weight instead, so that
    /// momentum knows nothing of it (Loshchilov and Hutter 2019).
    pub decoupled: bool,
    /// Whether batch norms and biases decay too, as the paper's code has it.
    pub decay_all: bool,
}

/// One step, as Sutskever et al. 2013 in the form that PyTorch uses: `m ← μ m + g`,
/// `w ← w − lr (g + μ m)`, where g is the gradient with the decay added, unless decay is decoupled.
/// Running statistics are left alone. `gradient` has the layout of the parameters.
#[inline(always)]
pub fn nesterov_step(parameters: &mut FlatParameters, gradient: &[f32], update: Nesterov) {
    let (rate, keep) = (update.learning_rate as f32, update.momentum as f32);
    let FlatParameters { slots, values, momentum } = parameters;
    for slot in slots.iter().filter(|slot| slot.is_trainable()) {
        let decayed = update.decay_all || slot.is_weight();
        let decay = if decayed { update.weight_decay as f32 } else { 0.0 };
        let (coupled, own) = if update.decoupled { (0.0, rate * decay) } else { (decay, 0.0) };
        let range = slot.range();
        let moved = values[range.clone()].iter_mut().zip(&mut momentum[range.clone()]);
        for ((value, momentum), gradient) in moved.zip(&gradient[range]) {
            let slope = gradient + coupled * *value;
            *momentum = keep * *momentum + slope;
            *value -= rate * (slope + keep * *momentum) + own * *value;
        }
    }
}
