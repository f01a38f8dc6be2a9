//! Sizes of a search that fit a budget, from what the data is and how fast this machine trains.

use std::time::Duration;

/// What the sizes depend on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Facts {
    /// Images to train on.
    pub(crate) images: usize,
    /// Images to compare networks on.
    pub(crate) validation: usize,
    pub(crate) classes: usize,
    pub(crate) budget: Duration,
    /// Training images a second, start network.
    pub(crate) start_rate: f64,
    /// Training images a second, a middling child.
    pub(crate) child_rate: f64,
}

/// A search's sizes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Sizes {
    /// Images to train on; all where nothing is said.
    pub(crate) train: Option<usize>,
    /// Images to compare networks on.
    pub(crate) validation: usize,
    pub(crate) start_epochs: usize,
    pub(crate) child_epochs: usize,
    pub(crate) batches: usize,
    /// Networks of a batch.
    pub(crate) networks: usize,
    pub(crate) final_epochs: usize,
    /// Whether the start network is trained as long, and the best from scratch.
    pub(crate) compare: bool,
    /// When the stages end.
    pub(crate) deadline: Duration,
}

/// Share of the budget that trainings get; what surrounds them, and what the forecast is off by, is the
/// rest.
const TRAINED: f64 = 0.8;
/// Shares of that: the start network, the final training, and what the result is compared with.
const START: f64 = 0.2;
const FINAL: f64 = 0.15;
const COMPARED: f64 = 0.25;
/// Epochs of children below which a search says nothing: four of four epochs, and the rest of it.
const LEAST_EPOCHS: f64 = 30.0;
/// Images of a class below which an epoch says nothing.
const LEAST_IMAGES: usize = 20;
/// How much more a network may compute than the start network.
pub(crate) const GROWTH: u64 = 4;
/// Children that are trained again before one of them is promoted.
pub(crate) const PROMOTED: usize = 2;
/// Children above which it pays to learn what to try.
const MANY: usize = 200;
/// A validation image costs a forward pass alone.
const FORWARD: f64 = 1.0 / 3.0;

impl Facts {
    /// Seconds of an epoch at so many images a second.
    fn epoch(&self, rate: f64) -> f64 {
        (self.images as f64 + FORWARD * self.validation as f64) / rate
    }

    /// Seconds for all trainings.
    fn seconds(&self) -> f64 {
        TRAINED * self.budget.as_secs_f64()
    }

    /// Epochs of a middling child that the budget has time for.
    pub(crate) fn epochs(&self) -> f64 {
        self.seconds() / self.epoch(self.child_rate)
    }

    /// Whether there is time for a search on all of the images.
    pub(crate) fn is_ample(&self) -> bool {
        self.epochs() >= 2.0 * LEAST_EPOCHS
    }
}

/// Images to hold out of this many: a fifth, or a tenth where a tenth is enough to tell networks apart.
pub(crate) fn validation_of(images: usize) -> usize {
    (if images < 5000 { images / 5 } else { (images / 10).max(1000) }).clamp(1, 5000)
}

/// Sizes for a budget; nothing where even the least of them don't fit.
pub(crate) fn choose(facts: &Facts) -> Option<Sizes> {
    let mut facts = *facts;
    let mut train = None;
    if facts.epochs() < LEAST_EPOCHS {
        // No more are held out than trained on.
        let passes = facts.seconds() * facts.child_rate / LEAST_EPOCHS;
        let even = (passes / (1.0 + FORWARD)) as usize;
        let validation = facts.validation.min(even);
        let images = (passes - FORWARD * validation as f64) as usize;
        if images < LEAST_IMAGES * facts.classes {
            return None;
        }
        (facts.images, facts.validation, train) = (images, validation, Some(images));
    }
    let all = facts.seconds();
    let (start, child) = (facts.epoch(facts.start_rate), facts.epoch(facts.child_rate));
    // The best network may have grown as far as it may.
    let grown = (start * GROWTH as f64).max(child);
    let epochs =
        |seconds: f64, epoch: f64, most: usize| ((seconds / epoch) as usize).clamp(2, most);
    let start_epochs = epochs(START * all, start, 30);
    let final_epochs = epochs(FINAL * all, grown, 40);
    let finals = final_epochs as f64 * grown;
    // About half as many epochs of a child as children, up to the paper's 20.
    let child_epochs = |seconds: f64| ((seconds / child / 2.0).sqrt() as usize).clamp(1, 20);
    let stages = all - start_epochs as f64 * start - finals;
    // As long for the start network, and from scratch.
    let compared = |each: usize| {
        let line = (each + final_epochs) as f64;
        line * start + (start_epochs as f64 + line) * grown
    };
    let compared = compared(child_epochs(stages));
    let compare = compared <= COMPARED * all;
    let compared = if compare { compared } else { 0.0 };
    let stages = (stages - compared).max(0.0);
    let each = child_epochs(stages);
    let children = ((stages / child) as usize / each).saturating_sub(PROMOTED).max(2);
    let networks = if children >= 100 { 10 } else { children.min(4) };
    let deadline = (facts.budget.as_secs_f64() * 0.95 - finals - compared).max(1.0);
    Some(Sizes {
        train,
        validation: facts.validation,
        start_epochs,
        child_epochs: each,
        batches: children / networks,
        networks,
        final_epochs,
        compare,
        deadline: Duration::from_secs(deadline as u64),
    })
}

impl Sizes {
    pub(crate) fn children(&self) -> usize {
        self.batches * self.networks
    }

    /// Whether there are children enough for a controller to learn from.
    pub(crate) fn learns(&self) -> bool {
        self.children() >= MANY
    }
}

#[cfg(test)]
mod tests {
    use eas_ir::Rng;

    use super::*;

    #[test]
    fn sizes_fit_any_budget_that_they_are_given_for() {
        let mut rng = Rng::new(4);
        let mut found = 0;
        for case in 0..3000 {
            let images = 10 + rng.below(200_000);
            let start_rate = 10.0f64.powf(1.0 + 4.0 * rng.unit());
            let facts = Facts {
                images,
                validation: validation_of(images),
                classes: 2 + rng.below(100),
                budget: Duration::from_secs_f64(10.0f64.powf(1.0 + 4.0 * rng.unit())),
                start_rate,
                child_rate: start_rate * (0.25 + 0.7 * rng.unit()),
            };
            let Some(sizes) = choose(&facts) else { continue };
            found += 1;
            let why = format!("case {case}: {facts:?}: {sizes:?}");
            let train = sizes.train.unwrap_or(images);
            let trained = train as f64 + sizes.validation as f64 / 3.0;
            let (start, child) = (trained / facts.start_rate, trained / facts.child_rate);
            let stages = (sizes.children() + PROMOTED) * sizes.child_epochs;
            let searched = sizes.start_epochs as f64 * start + stages as f64 * child;
            let finished = sizes.final_epochs as f64 * (start * GROWTH as f64);
            let budget = facts.budget.as_secs_f64();
            assert!(searched + finished <= budget, "{why}: {searched} and {finished} s");
            assert!(sizes.batches >= 1 && sizes.networks >= 2 && sizes.child_epochs >= 1, "{why}");
            assert!(sizes.deadline < facts.budget, "{why}");
            assert!(train <= images && sizes.validation <= train.max(facts.validation), "{why}");
            assert!(sizes.train.is_none_or(|train| sizes.validation <= train), "{why}");
        }
        assert!(found > 1500, "{found}");
    }

    #[test]
    fn more_time_is_never_spent_on_fewer_children_or_epochs() {
        let of = |minutes: u64| {
            let budget = Duration::from_secs(60 * minutes);
            let images = 40_000;
            let (start_rate, child_rate) = (4000.0, 2500.0);
            choose(&Facts { images, validation: 5000, classes: 10, budget, start_rate, child_rate })
        };
        let work =
            |sizes: Sizes| sizes.children() * sizes.child_epochs * sizes.train.unwrap_or(40_000);
        let mut last = 0;
        for minutes in [1, 3, 10, 30, 100, 300, 1000, 3000] {
            let found = work(of(minutes).unwrap());
            assert!(found > last, "{minutes} minutes: {found}");
            last = found;
        }
        assert!(of(3000).unwrap().learns() && !of(10).unwrap().learns());
        assert!(of(3000).unwrap().compare);
    }

    #[test]
    fn too_little_time_is_refused() {
        let facts = Facts {
            images: 40_000,
            validation: 5000,
            classes: 10,
            budget: Duration::from_secs(5),
            start_rate: 1000.0,
            child_rate: 500.0,
        };
        assert_eq!(choose(&facts), None);
    }

    #[test]
    fn a_fifth_is_held_out_of_few_and_a_tenth_of_many() {
        for (images, expected) in [(2, 1), (100, 20), (4000, 800), (8000, 1000), (50_000, 5000)] {
            assert_eq!(validation_of(images), expected, "{images}");
        }
    }
}
