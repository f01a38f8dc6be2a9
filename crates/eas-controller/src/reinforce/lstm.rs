//! A long short-term memory cell (Hochreiter and Schmidhuber 1997), for a batch of sequences.

use candle_core::{DType, Device, Result, Tensor};
use candle_nn::ops::sigmoid;

use super::parameters::Parameters;

pub(super) struct Lstm {
    /// [inputs + units, 4 units]: the gates to forget, to take in and to put out, then what is taken in.
    kernel: Tensor,
    /// [4 units]
    bias: Tensor,
}

/// What a cell remembers of each sequence: [batch, units] each.
#[derive(Clone)]
pub(super) struct State {
    pub(super) cell: Tensor,
    pub(super) hidden: Tensor,
}

impl Lstm {
    pub(super) fn new(
        parameters: &mut Parameters,
        name: &str,
        inputs: usize,
        units: usize,
    ) -> Result<Self> {
        let kernel = parameters.matrix(&format!("{name}.kernel"), inputs + units, 4 * units)?;
        // A new cell remembers: its forget gates begin open (Jozefowicz et al. 2015).
        let forget = |place, _: &mut _| if place < units { 1.0 } else { 0.0 };
        let bias = parameters.get(&format!("{name}.bias"), &[4 * units], forget)?;
        Ok(Lstm { kernel, bias })
    }

    /// Reads one symbol of each sequence: [batch, inputs].
    pub(super) fn step(&self, inputs: &Tensor, state: &State) -> Result<State> {
        let units = self.bias.dim(0)? / 4;
        let joined = Tensor::cat(&[inputs, &state.hidden], 1)?;
        let sums = joined.matmul(&self.kernel)?.broadcast_add(&self.bias)?;
        let gates = sigmoid(&sums.narrow(1, 0, 3 * units)?)?;
        let gate = |place| gates.narrow(1, place * units, units);
        let taken_in = sums.narrow(1, 3 * units, units)?.tanh()?;
        let cell = ((gate(0)? * &state.cell)? + (gate(1)? * taken_in)?)?;
        let hidden = (gate(2)? * cell.tanh()?)?;
        Ok(State { cell, hidden })
    }
}

impl State {
    pub(super) fn zeros(batch: usize, units: usize) -> Result<Self> {
        let zeros = Tensor::zeros((batch, units), DType::F64, &Device::Cpu)?;
        Ok(State { cell: zeros.clone(), hidden: zeros })
    }

    /// This state, but `next` for the sequences that are `active`.
    pub(super) fn advance(&self, next: State, active: &[bool]) -> Result<State> {
        if active.iter().all(|active| *active) {
            return Ok(next);
        }
        let mask: Vec<u8> = active.iter().map(|active| u8::from(*active)).collect();
        let mask = Tensor::from_vec(mask, (active.len(), 1), &Device::Cpu)?;
        let mask = mask.broadcast_as(self.cell.shape())?.contiguous()?;
        Ok(State {
            cell: mask.where_cond(&next.cell, &self.cell)?,
            hidden: mask.where_cond(&next.hidden, &self.hidden)?,
        })
    }

    /// The states of some sequences of the batch.
    pub(super) fn rows(&self, places: &[usize]) -> Result<State> {
        let rows = |tensor| super::parameters::rows(tensor, places.iter().copied());
        Ok(State { cell: rows(&self.cell)?, hidden: rows(&self.hidden)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_computes_what_pytorchs_does() {
        // torch.nn.LSTMCell(3, 2) in double precision, its gates reordered, read twice.
        let (inputs, units) = (3, 2);
        let numbers = |count, wave: fn(f64) -> f64| (0..count).map(|n| wave(n as f64)).collect();
        let tensor = |values: Vec<f64>, shape: &[usize]| {
            Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
        };
        let lstm = Lstm {
            kernel: tensor(numbers(5 * 8, f64::sin), &[inputs + units, 4 * units]),
            bias: tensor(numbers(8, f64::cos), &[4 * units]),
        };
        let read = tensor(vec![0.5, -1.0, 2.0, 1.5, 0.25, -0.75], &[2, inputs]);
        let mut state = State::zeros(2, units).unwrap();
        for _ in 0..2 {
            state = lstm.step(&read, &state).unwrap();
        }
        let expected = [
            (&state.hidden, [-0.06438370589, -0.44796293314, 0.04950558321, 0.06585733218]),
            (&state.cell, [-0.07674599018, -0.64617177356, 0.95053578380, 0.46573186915]),
        ];
        for (found, expected) in expected {
            let found: Vec<f64> = found.flatten_all().unwrap().to_vec1().unwrap();
            let near = found.iter().zip(expected).all(|(f, e)| (f - e).abs() < 1e-9);
            assert!(near, "expected {expected:?}, found {found:?}");
        }
    }
}
