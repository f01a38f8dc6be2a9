//! Adam (Kingma and Ba 2015), with a state that can be read.

use std::collections::BTreeMap;

use candle_core::{Device, Result, Tensor, Var};

const MEAN_DECAY: f64 = 0.9;
const SQUARE_DECAY: f64 = 0.999;
const EPSILON: f64 = 1e-8;

/// What is remembered of one parameter's gradients.
#[derive(Clone, Debug)]
pub(super) struct Moments {
    pub(super) mean: Vec<f64>,
    pub(super) square: Vec<f64>,
    /// Updates so far: the parameter's own, since an actor may be met later than others.
    pub(super) updates: i32,
}

/// The moments of all parameters, by name.
#[derive(Debug, Default)]
pub(super) struct Adam(pub(super) BTreeMap<String, Moments>);

impl Adam {
    /// One update of one parameter, downhill.
    pub(super) fn update(
        &mut self,
        name: &str,
        variable: &Var,
        gradient: &[f64],
        learning_rate: f64,
    ) -> Result<()> {
        let count = gradient.len();
        let moments = self.0.entry(name.to_owned()).or_insert_with(|| Moments {
            mean: vec![0.0; count],
            square: vec![0.0; count],
            updates: 0,
        });
        moments.updates += 1;
        let mean_scale = 1.0 / (1.0 - MEAN_DECAY.powi(moments.updates));
        let square_scale = 1.0 / (1.0 - SQUARE_DECAY.powi(moments.updates));
        let mut values = variable.flatten_all()?.to_vec1::<f64>()?;
        let both = moments.mean.iter_mut().zip(&mut moments.square);
        for ((value, slope), (mean, square)) in values.iter_mut().zip(gradient).zip(both) {
            *mean = MEAN_DECAY * *mean + (1.0 - MEAN_DECAY) * slope;
            *square = SQUARE_DECAY * *square + (1.0 - SQUARE_DECAY) * slope * slope;
            let size = (*square * square_scale).sqrt() + EPSILON;
            *value -= learning_rate * *mean * mean_scale / size;
        }
        variable.set(&Tensor::from_vec(values, variable.shape(), &Device::Cpu)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn updates_are_those_of_pytorch() {
        // torch.optim.Adam([1, -2, 0.5], lr = 0.1) on the sum of p³ + p².
        let variable = Var::new(&[1.0, -2.0, 0.5], &Device::Cpu).unwrap();
        let mut adam = Adam::default();
        for expected in [
            [0.9000000002, -2.0999999999, 0.4000000006],
            [0.8007796091, -2.2001323240, 0.3019810811],
            [0.7029597176, -2.3004880479, 0.2077712390],
        ] {
            let values: Vec<f64> = variable.to_vec1().unwrap();
            let slopes: Vec<f64> = values.iter().map(|p| 3.0 * p * p + 2.0 * p).collect();
            adam.update("p", &variable, &slopes, 0.1).unwrap();
            let found: Vec<f64> = variable.to_vec1().unwrap();
            let near = found.iter().zip(expected).all(|(f, e)| (f - e).abs() < 1e-9);
            assert!(near, "expected {expected:?}, found {found:?}");
        }
    }
}
