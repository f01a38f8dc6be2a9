//! Every hyper-parameter of training, once.

use serde::{Deserialize, Serialize};

use crate::optimiser::Nesterov;

/// How a network is trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Passes over the training images.
    pub epochs: usize,
    /// Images of a step.
    pub batch: usize,
    /// Learning rate at its highest.
    pub learning_rate: f64,
    /// How the learning rate falls.
    pub schedule: Schedule,
    /// Epochs over which the learning rate rises to its highest first.
    pub warmup_epochs: usize,
    /// Share of the momentum that a step keeps (Nesterov).
    pub momentum_decay: f64,
    /// What becomes of the parent's momentum.
    pub momentum: Momentum,
    /// L2 decay of the weights.
    pub weight_decay: f64,
    /// Whether batch norms and biases decay too, as in the paper's code.
    pub decay_all: bool,
    /// Share of each target that is spread over all classes.
    pub label_smoothing: f64,
    // What follows is left out where a recipe is written and it is the usual: recipes have one form
    // whether or not they were written before there was a choice.
    /// Whether decay is taken from the weights themselves, rather than through the gradient and its
    /// momentum (Loshchilov and Hutter 2019).
    #[serde(default, skip_serializing_if = "is_usual")]
    pub decoupled_decay: bool,
    /// Steps after which the weights are set to the average of where they are and where they were so
    /// many steps ago (Lookahead, Zhang et al. 2019); 0 for never. In between there is no checkpoint,
    /// and no stop.
    #[serde(default, skip_serializing_if = "is_usual")]
    pub lookahead: usize,
    /// What products are computed in.
    #[serde(default, skip_serializing_if = "is_usual")]
    pub precision: Precision,
}

fn is_usual<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// What a training step's products of layers are computed in; evaluation is in f32.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// Throughout.
    #[default]
    F32,
    /// Factors are rounded to bf16, where the engine is faster so, on a GPU the values between layers too;
    /// sums, weights, statistics and the update are f32. Processors without AVX512-BF16 compute the same
    /// as those with it, more slowly; those with matrix units (AMX) round more layers, and sum in an order of
    /// their own.
    Bf16,
}

/// How the learning rate falls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// Half a cosine, a value an epoch: ½ lr (1 + cos(π e / E)), e from 0 to E − 1 (the paper's
    /// code).
    Cosine,
    /// Half a cosine, a value a step, reaching 0 at the end.
    CosineSteps,
    /// By the same amount with every step, reaching 0 at the end.
    LinearSteps,
    /// None.
    Constant,
}

/// What a child makes of its parent's momentum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Momentum {
    /// It goes on with it, carried over the edits.
    Carry,
    /// It starts at 0, as in the paper's code.
    Reset,
}

/// A recipe as written: a preset's name, and what differs from it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RecipeSpec {
    recipe: Option<Preset>,
    epochs: Option<usize>,
    batch: Option<usize>,
    learning_rate: Option<f64>,
    schedule: Option<Schedule>,
    warmup_epochs: Option<usize>,
    momentum_decay: Option<f64>,
    momentum: Option<Momentum>,
    weight_decay: Option<f64>,
    decay_all: Option<bool>,
    label_smoothing: Option<f64>,
    decoupled_decay: Option<bool>,
    lookahead: Option<usize>,
    precision: Option<Precision>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Preset {
    /// The paper's children: 20 epochs at 0.02.
    PaperChild,
    /// The paper's finals: 300 epochs at 0.1.
    PaperFull,
    /// A few epochs, for data sets of some thousand images.
    Quick,
    /// Ten epochs in small batches, for what the paper's children take twenty for.
    Fast,
    /// Children that go on from what their parents have learnt: twenty epochs from 0.1.
    Inherited,
}

impl Recipe {
    /// The paper's children (its code): 20 epochs, learning rate 0.02, everything decays.
    pub fn paper_child() -> Self {
        Recipe {
            epochs: 20,
            batch: 64,
            learning_rate: 0.02,
            schedule: Schedule::Cosine,
            warmup_epochs: 0,
            momentum_decay: 0.9,
            momentum: Momentum::Reset,
            weight_decay: 1e-4,
            decay_all: true,
            label_smoothing: 0.0,
            decoupled_decay: false,
            lookahead: 0,
            precision: Precision::F32,
        }
    }

    /// The paper's full training: 300 epochs, learning rate 0.1.
    pub fn paper_full() -> Self {
        Recipe { epochs: 300, learning_rate: 0.1, ..Recipe::paper_child() }
    }

    /// A few epochs at a high rate, falling with every step.
    pub fn quick() -> Self {
        Recipe {
            epochs: 4,
            learning_rate: 0.1,
            schedule: Schedule::CosineSteps,
            weight_decay: 5e-4,
            decay_all: false,
            ..Recipe::paper_child()
        }
    }

    /// For a network that was grown from a trained one: a warm restart as high as the start network's
    /// learning rate, which falls by the same amount with every step, with the parent's momentum. What it
    /// comes to beside the paper's 0.02 and others is in `docs/results.md`.
    pub fn inherited() -> Self {
        Recipe {
            epochs: 20,
            schedule: Schedule::LinearSteps,
            warmup_epochs: 1,
            momentum: Momentum::Carry,
            ..Recipe::quick()
        }
    }

    /// Ten epochs of small batches, falling by the same amount with every step, towards smoothed labels. What it
    /// comes to beside the paper's recipes is in `docs/results.md`, with images mirrored in every other epoch
    /// and moved by at most one pixel.
    pub fn fast() -> Self {
        Recipe {
            epochs: 10,
            batch: 16,
            learning_rate: 0.05,
            schedule: Schedule::LinearSteps,
            warmup_epochs: 1,
            weight_decay: 2e-3,
            label_smoothing: 0.1,
            ..Recipe::quick()
        }
    }

    /// The learning rate of a step, of `steps` an epoch has: it rises in equal parts, to its highest
    /// at the last step of warming up, and falls by the schedule over the epochs that are left.
    /// Beyond the recipe's own epochs a cosine stays at 0.
    pub fn rate(&self, epoch: usize, step: usize, steps: usize) -> f64 {
        let done = epoch as f64 + step as f64 / steps.max(1) as f64;
        if epoch < self.warmup_epochs {
            let rise = (done * steps as f64 + 1.0) / (self.warmup_epochs * steps).max(1) as f64;
            return self.learning_rate * rise.min(1.0);
        }
        let begun = self.warmup_epochs as f64;
        let length = (self.epochs as f64 - begun).max(1.0);
        let cosine = |part: f64| 0.5 * (1.0 + (std::f64::consts::PI * part.min(1.0)).cos());
        let share = match self.schedule {
            Schedule::Cosine => cosine((epoch as f64 - begun) / length),
            Schedule::CosineSteps => cosine((done - begun) / length),
            Schedule::LinearSteps => 1.0 - ((done - begun) / length).min(1.0),
            Schedule::Constant => 1.0,
        };
        self.learning_rate * share
    }

    /// The update of a step at this learning rate.
    pub fn update(&self, learning_rate: f64) -> Nesterov {
        Nesterov {
            learning_rate,
            momentum: self.momentum_decay,
            weight_decay: self.weight_decay,
            decay_all: self.decay_all,
            decoupled: self.decoupled_decay,
        }
    }

    /// Checks that each number is in its range.
    ///
    /// # Errors
    /// The key, what was expected and what was found.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        let share = |value: f64| (0.0..1.0).contains(&value);
        let wrong = |expected: &str, found: &dyn std::fmt::Display| {
            format!("expected {expected}, found {found}")
        };
        let positive = self.learning_rate > 0.0 && self.learning_rate.is_finite();
        let checks = [
            ("epochs", self.epochs >= 1, wrong("at least 1 epoch", &self.epochs)),
            ("batch", (2..=65536).contains(&self.batch), wrong("2 to 65536 images", &self.batch)),
            ("learning_rate", positive, wrong("a positive rate", &self.learning_rate)),
            (
                "warmup_epochs",
                self.warmup_epochs < self.epochs,
                wrong("fewer than the recipe's epochs", &self.warmup_epochs),
            ),
            (
                "momentum_decay",
                share(self.momentum_decay),
                wrong("at least 0 and less than 1", &self.momentum_decay),
            ),
            (
                "weight_decay",
                share(self.weight_decay),
                wrong("at least 0 and less than 1", &self.weight_decay),
            ),
            (
                "label_smoothing",
                share(self.label_smoothing),
                wrong("at least 0 and less than 1", &self.label_smoothing),
            ),
            ("lookahead", self.lookahead <= 20, wrong("0 to 20 steps", &self.lookahead)),
        ];
        match checks.into_iter().find(|(_, holds, _)| !holds) {
            Some((key, _, message)) => Err((key, message)),
            None => Ok(()),
        }
    }
}

impl RecipeSpec {
    /// The recipe: the preset named here, or `default`, with what differs. Of fewer epochs a preset's
    /// warm-up has at most all but one.
    pub fn resolve(&self, default: Recipe) -> Recipe {
        let preset = match self.recipe {
            Some(Preset::PaperChild) => Recipe::paper_child(),
            Some(Preset::PaperFull) => Recipe::paper_full(),
            Some(Preset::Quick) => Recipe::quick(),
            Some(Preset::Fast) => Recipe::fast(),
            Some(Preset::Inherited) => Recipe::inherited(),
            None => default,
        };
        let epochs = self.epochs.unwrap_or(preset.epochs);
        let warmup_epochs = preset.warmup_epochs.min(epochs.saturating_sub(1));
        Recipe {
            epochs,
            batch: self.batch.unwrap_or(preset.batch),
            learning_rate: self.learning_rate.unwrap_or(preset.learning_rate),
            schedule: self.schedule.unwrap_or(preset.schedule),
            warmup_epochs: self.warmup_epochs.unwrap_or(warmup_epochs),
            momentum_decay: self.momentum_decay.unwrap_or(preset.momentum_decay),
            momentum: self.momentum.unwrap_or(preset.momentum),
            weight_decay: self.weight_decay.unwrap_or(preset.weight_decay),
            decay_all: self.decay_all.unwrap_or(preset.decay_all),
            label_smoothing: self.label_smoothing.unwrap_or(preset.label_smoothing),
            decoupled_decay: self.decoupled_decay.unwrap_or(preset.decoupled_decay),
            lookahead: self.lookahead.unwrap_or(preset.lookahead),
            precision: self.precision.unwrap_or(preset.precision),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cosine_schedule_is_the_papers() {
        // torch.optim.lr_scheduler.CosineAnnealingLR(lr 0.02, T_max 20), after e epochs.
        let recipe = Recipe::paper_child();
        for (epoch, expected) in
            [(0, 0.02), (5, 0.017_071_067_811_865), (19, 1.231_165_940_486_2e-4)]
        {
            let rate = recipe.rate(epoch, 3, 10);
            assert!((rate - expected).abs() < 1e-12, "epoch {epoch}: {rate}");
        }
    }

    #[test]
    fn warming_up_rises_to_the_full_rate_and_steps_fall_to_nothing() {
        let recipe = Recipe { warmup_epochs: 1, ..Recipe::quick() };
        assert!((recipe.rate(0, 0, 10) - 0.01).abs() < 1e-12);
        assert!((recipe.rate(0, 9, 10) - 0.1).abs() < 1e-12);
        assert!((recipe.rate(1, 0, 10) - 0.1).abs() < 1e-12);
        assert!(recipe.rate(3, 9, 10) < 0.001);
    }

    #[test]
    fn the_linear_schedule_falls_by_the_same_amount_with_every_step() {
        let recipe =
            Recipe { warmup_epochs: 1, schedule: Schedule::LinearSteps, ..Recipe::quick() };
        for (epoch, step, expected) in
            [(0, 4, 0.05), (1, 0, 0.1), (2, 5, 0.05), (3, 9, 0.1 / 30.0), (4, 0, 0.0)]
        {
            let rate = recipe.rate(epoch, step, 10);
            assert!((rate - expected).abs() < 1e-12, "epoch {epoch}, step {step}: {rate}");
        }
    }

    #[test]
    fn a_recipe_is_a_preset_and_what_differs() {
        let spec: RecipeSpec = toml::from_str("recipe = \"paper-full\"\nepochs = 3").unwrap();
        let recipe = spec.resolve(Recipe::quick());
        assert_eq!(recipe, Recipe { epochs: 3, ..Recipe::paper_full() });
        let written = toml::to_string(&recipe).unwrap();
        let read: RecipeSpec = toml::from_str(&written).unwrap();
        assert_eq!(read.resolve(Recipe::quick()), recipe, "{written}");
    }

    #[test]
    fn a_precision_is_written_where_it_is_not_the_usual_one() {
        assert!(!toml::to_string(&Recipe::quick()).unwrap().contains("precision"));
        let recipe = Recipe { precision: Precision::Bf16, ..Recipe::quick() };
        let written = toml::to_string(&recipe).unwrap();
        assert_eq!(toml::from_str::<Recipe>(&written).unwrap(), recipe, "{written}");
        let spec: RecipeSpec = toml::from_str("precision = \"bf16\"").unwrap();
        assert_eq!(spec.resolve(Recipe::quick()), recipe);
        let error = toml::from_str::<RecipeSpec>("precision = \"half\"").unwrap_err();
        let message = error.to_string();
        assert!(message.contains("unknown variant `half`, expected `f32` or `bf16`"), "{message}");
    }

    #[test]
    fn the_warm_up_of_a_preset_fits_the_epochs_that_are_asked_for() {
        let resolved = |text: &str| {
            let spec: RecipeSpec = toml::from_str(text).unwrap();
            spec.resolve(Recipe::inherited())
        };
        assert_eq!(resolved("recipe = 'fast'\nepochs = 1").warmup_epochs, 0);
        assert_eq!(resolved("epochs = 1").warmup_epochs, 0);
        assert_eq!(resolved("epochs = 2").warmup_epochs, 1);
        // What is written is held to.
        let (key, _) = resolved("epochs = 1\nwarmup_epochs = 1").check().unwrap_err();
        assert_eq!(key, "warmup_epochs");
    }

    #[test]
    fn numbers_out_of_range_are_named() {
        let recipe = Recipe { batch: 1, ..Recipe::quick() };
        let (key, message) = recipe.check().unwrap_err();
        assert_eq!((key, message.as_str()), ("batch", "expected 2 to 65536 images, found 1"));
        let paper = [Recipe::paper_child(), Recipe::paper_full()];
        for recipe in
            paper.into_iter().chain([Recipe::quick(), Recipe::fast(), Recipe::inherited()])
        {
            assert_eq!(recipe.check(), Ok(()));
        }
    }
}
