//! The encoder (Cai et al. 2018, section 3.1): a bidirectional LSTM over a network's tokens.

use candle_core::{Result, Tensor};

use super::lstm::{Lstm, State};
use super::parameters::{Parameters, rows};

/// The sizes of the policy's layers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    /// Of the vectors that stand for tokens and for choices.
    pub(super) embedding: usize,
    /// Units of the encoder in each direction; everything behind it has twice as many.
    pub(super) units: usize,
}

/// What the encoder makes of a batch of networks.
pub(super) struct Encoding {
    /// [batch · positions + batch, 2 units]: the hidden state at each token of each network, then the
    /// last hidden state of each network.
    pub(super) hidden: Tensor,
    /// What is remembered at the ends, both directions joined: [batch, 2 units].
    pub(super) last: State,
    /// Tokens of the longest network.
    positions: usize,
    batch: usize,
}

impl Encoding {
    /// The row of `hidden` for a token of a network, or for the network as a whole.
    pub(super) fn row(&self, network: usize, token: Option<usize>) -> usize {
        match token {
            Some(position) => network * self.positions + position,
            None => self.batch * self.positions + network,
        }
    }
}

/// Reads a batch of networks, each to its real end: a longer neighbour changes nothing.
pub(super) fn encode(
    parameters: &mut Parameters,
    sizes: Sizes,
    vocabulary: usize,
    sequences: &[&[usize]],
) -> Result<Encoding> {
    let table = parameters.embedding("encoder.embedding", vocabulary, sizes.embedding)?;
    let batch = sequences.len();
    let positions = sequences.iter().map(|tokens| tokens.len()).max().unwrap_or(0);
    let mut hidden = Vec::new();
    let mut last = Vec::new();
    for (direction, backwards) in [("forward", false), ("backward", true)] {
        let name = format!("encoder.{direction}");
        let lstm = Lstm::new(parameters, &name, sizes.embedding, sizes.units)?;
        let mut state = State::zeros(batch, sizes.units)?;
        let mut outputs = Vec::with_capacity(positions);
        for step in 0..positions {
            let position = if backwards { positions - 1 - step } else { step };
            let active: Vec<bool> = sequences.iter().map(|s| position < s.len()).collect();
            let tokens = sequences.iter().map(|s| s.get(position).copied().unwrap_or(0));
            let next = lstm.step(&rows(&table, tokens)?, &state)?;
            state = state.advance(next, &active)?;
            outputs.push(state.hidden.clone());
        }
        if backwards {
            outputs.reverse();
        }
        if positions > 0 {
            let all = Tensor::stack(&outputs, 1)?;
            hidden.push(all.reshape((batch * positions, sizes.units))?);
        }
        last.push(state);
    }
    let cells = Tensor::cat(&[&last[0].cell, &last[1].cell], 1)?;
    let ends = Tensor::cat(&[&last[0].hidden, &last[1].hidden], 1)?;
    let hidden = match hidden.as_slice() {
        [] => ends.clone(),
        both => Tensor::cat(&[&Tensor::cat(both, 1)?, &ends], 0)?,
    };
    Ok(Encoding { hidden, last: State { cell: cells, hidden: ends }, positions, batch })
}

#[cfg(test)]
mod tests {
    use eas_ir::Rng;

    use super::*;

    #[test]
    fn a_longer_neighbour_changes_nothing() {
        let sizes = Sizes { embedding: 3, units: 4 };
        let sequences: [&[usize]; 4] = [&[1, 2], &[], &[3, 0, 4, 4, 1], &[2]];
        let parameters = &mut Parameters::new(Rng::new(1));
        let together = encode(parameters, sizes, 5, &sequences).unwrap();
        let values = |encoding: &Encoding, network, token| -> Vec<f64> {
            let row = encoding.row(network, token);
            encoding.hidden.get(row).unwrap().to_vec1().unwrap()
        };
        for (place, tokens) in sequences.iter().enumerate() {
            let alone = encode(parameters, sizes, 5, &[tokens]).unwrap();
            for token in (0..tokens.len()).map(Some).chain([None]) {
                let (with, without) = (values(&together, place, token), values(&alone, 0, token));
                let near = with.iter().zip(&without).all(|(a, b)| (a - b).abs() < 1e-12);
                assert!(near, "sequence {place}, token {token:?}: {with:?} and {without:?}");
            }
            let cells = [together.last.cell.get(place), alone.last.cell.get(0)];
            let [with, without] = cells.map(|row| row.unwrap().to_vec1::<f64>().unwrap());
            let near = with.iter().zip(&without).all(|(a, b)| (a - b).abs() < 1e-12);
            assert!(near, "sequence {place}: {with:?} and {without:?}");
        }
    }
}
