//! Successive halving by epochs (Jamieson and Talwalkar 2016, arXiv 1502.07943): all of a batch are
//! trained a little, and only the best of them to the end.

use std::ops::Range;

use serde::{Deserialize, Serialize};

/// When a batch's children are compared, and how many of them go on.
///
/// A rung is a number of epochs. All that reached it are ranked by validation accuracy, the one
/// proposed first before others that are equal, and as many are trained on as make one in `eta` of those that
/// set out for it. Their schedule of
/// learning rates is that of all epochs from the first on, so that a child that goes on is what it
/// would have been without a comparison.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Halving {
    /// Epochs, rising; without any, all children are trained to the end.
    pub rungs: Vec<usize>,
    /// One in so many goes on, rounded up: the reduction factor, at least 2.
    pub eta: usize,
}

impl Default for Halving {
    fn default() -> Self {
        Halving { rungs: Vec::new(), eta: 2 }
    }
}

impl Halving {
    /// How many of so many networks go on.
    pub(crate) fn survivors(&self, networks: usize) -> usize {
        networks.div_ceil(self.eta.max(1))
    }

    /// The epochs from one comparison to the next, of children that are trained for so many.
    pub fn parts(&self, epochs: usize) -> Vec<Range<usize>> {
        let ends = self.rungs.iter().copied().chain([epochs]);
        let starts = [0].into_iter().chain(self.rungs.iter().copied());
        starts.zip(ends).map(|(start, end)| start..end).collect()
    }

    /// How many of so many networks each of those parts trains, at most.
    fn sizes(&self, networks: usize) -> impl Iterator<Item = usize> {
        let next = |size: &usize| Some(self.survivors(*size));
        std::iter::successors(Some(networks), next).take(self.rungs.len() + 1)
    }

    /// Trials of a batch of so many networks, at most: one for each part of a child's training.
    pub fn trials(&self, networks: usize) -> usize {
        self.sizes(networks).sum()
    }

    /// Epochs of a batch of so many networks that are trained for so many each, at most.
    pub fn epochs(&self, networks: usize, epochs: usize) -> usize {
        self.sizes(networks).zip(self.parts(epochs)).map(|(size, part)| size * part.len()).sum()
    }
}

/// What becomes of a network that a stage has trained before, from the same parent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Repeat {
    /// Its first result is repeated, as in the released code: it costs nothing, and is as lucky or
    /// unlucky for ever as it was then.
    Reuse,
    /// It is trained anew with a fresh seed. A controller learns from the new result; what is chosen
    /// among networks goes by the mean of all results of each.
    #[default]
    Retrain,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_costs_what_its_parts_do() {
        for (rungs, eta, networks, trials, epochs) in [
            (vec![], 2, 10, 10, 200),
            (vec![2], 2, 10, 15, 20 + 5 * 18),
            (vec![2, 6], 3, 10, 16, 20 + 4 * 4 + 2 * 14),
            (vec![1, 2, 3], 2, 1, 4, 20),
        ] {
            let halving = Halving { rungs, eta };
            let found = (halving.trials(networks), halving.epochs(networks, 20));
            assert_eq!(found, (trials, epochs), "{halving:?}");
        }
    }
}
