//! The policy gradient (Williams 1992; Cai et al. 2018, section 4).

use std::collections::BTreeMap;

use super::encoder::Sizes;
use super::parameters::Parameters;
use super::policy::{Decided, judge};

/// An episode to learn from: its decisions, and by how much its reward exceeded the baseline.
pub(super) type Lesson = (Vec<Decided>, f64);

/// The loss of a batch of n episodes, −Σ advantage · log p / n − `entropy` · H, and its gradient by
/// parameter: p is the probability of all of an episode's decisions, H the mean entropy of the
/// batch's steps. Episodes are taken one after another, so that the sums don't depend on threads and
/// one episode's graph is alive at a time.
pub(super) fn loss(
    parameters: &mut Parameters,
    sizes: Sizes,
    vocabulary: usize,
    batch: &[Lesson],
    entropy: f64,
) -> anyhow::Result<(f64, BTreeMap<String, Vec<f64>>)> {
    let steps: usize = batch.iter().map(|(episode, _)| episode.len()).sum();
    let mut total = 0.0;
    let mut gradient: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for (episode, advantage) in batch.iter().filter(|(episode, _)| !episode.is_empty()) {
        let judged = judge(parameters, sizes, vocabulary, episode)?;
        let policy = (judged.log_probability * (-advantage / batch.len() as f64))?;
        let loss = (policy - (judged.entropy * (entropy / steps as f64))?)?;
        total += loss.to_scalar::<f64>()?;
        let slopes = loss.backward()?;
        for (name, variable) in parameters.iter() {
            let Some(slope) = slopes.get(variable) else { continue };
            let slope: Vec<f64> = slope.flatten_all()?.to_vec1()?;
            match gradient.get_mut(name) {
                Some(sum) => sum.iter_mut().zip(slope).for_each(|(sum, slope)| *sum += slope),
                None => {
                    gradient.insert(name.to_owned(), slope);
                }
            }
        }
    }
    Ok((total, gradient))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use candle_core::{Device, Tensor};
    use eas_ir::{Rng, Shape};
    use eas_transform::{ConvNet, Deepen, Problem, SearchSpace, Transforms, Widen};

    use super::*;
    use crate::reinforce::policy::{draw, recall};
    use crate::{Action, Scope};

    #[test]
    fn the_gradient_is_the_slope_of_the_loss() {
        let space = ConvNet::small();
        let input = Shape::Image { channels: 3, height: 32, width: 32 };
        let problem = Problem { input, classes: 10, directory: PathBuf::new() };
        let parent = space.start(&problem).unwrap();
        let transforms = Transforms::new([
            ("widen".to_owned(), Box::new(Widen::default()) as _),
            ("deepen".to_owned(), Box::new(Deepen::default()) as _),
        ]);
        let actions: Vec<Action> = ["widen x1", "deepen x2"].map(|a| a.parse().unwrap()).into();
        let scope = Scope {
            space: &space,
            transforms: &transforms,
            actions: &actions,
            batch: 64,
            parent: &parent,
        };
        let sizes = Sizes { embedding: 3, units: 4 };
        let parameters = &mut Parameters::new(Rng::new(5));
        let episodes = draw(parameters, sizes, &scope, 2, &Rng::new(6)).unwrap();
        let lessons: Vec<Lesson> = episodes
            .iter()
            .zip([1.5, -0.75])
            .map(|(steps, advantage)| (recall(&scope, steps, true).unwrap(), advantage))
            .collect();
        let words = space.vocabulary().len();
        let of =
            |parameters: &mut Parameters| loss(parameters, sizes, words, &lessons, 0.3).unwrap();
        let (_, gradient) = of(parameters);
        let variables: Vec<_> =
            parameters.iter().map(|(name, variable)| (name.to_owned(), variable.clone())).collect();
        assert_eq!(gradient.len(), variables.len(), "every parameter has a part in it");
        for (name, variable) in variables {
            let values: Vec<f64> = variable.flatten_all().unwrap().to_vec1().unwrap();
            let unmoved = variable.as_tensor().copy().unwrap();
            for place in (0..values.len()).step_by(1 + values.len() / 6) {
                let mut at = |shift: f64| {
                    let mut values = values.clone();
                    values[place] += shift;
                    let moved = Tensor::from_vec(values, variable.shape(), &Device::Cpu).unwrap();
                    variable.set(&moved).unwrap();
                    let loss = of(parameters).0;
                    variable.set(&unmoved).unwrap();
                    loss
                };
                let slope = (at(1e-5) - at(-1e-5)) / 2e-5;
                let found = gradient[&name][place];
                assert!((found - slope).abs() < 1e-7, "{name} {place}: {found}, slope {slope}");
            }
        }
    }
}
