//! The final comparison: the best network beside what its search has to beat.

use eas_controller::TrialId;
use eas_ir::Count;
use eas_train::{Engine, Split, TrainingData, accuracy};
use serde::{Deserialize, Serialize};

use crate::devices::ROUNDING;
use crate::print::{Bar, percent, table};
use crate::runs::{Purpose, Run, TrialResult};
use crate::statistics::kendall;

/// The final comparison of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Report {
    /// The number of the first final: another one once the run is made longer.
    pub(crate) finals: TrialId,
    /// The best network, then what it is compared with.
    pub(crate) rows: Vec<Row>,
    /// Images that networks were compared on during the search.
    pub(crate) validation_images: usize,
    /// Images that were opened for this report alone.
    pub(crate) test_images: usize,
    /// How many of them stand among the images that were trained or validated on, pixel by pixel.
    #[serde(default)]
    pub(crate) test_shared: usize,
    /// When they were, in seconds since 1970.
    pub(crate) test_opened: u64,
    /// How often models of the run had been tested on them before, by themselves.
    #[serde(default)]
    pub(crate) tested_before: usize,
    /// Children of the search, those whose result was known among them.
    pub(crate) children: usize,
    /// Children whose result is another's, as their training is the same.
    #[serde(default)]
    pub(crate) cached: usize,
    /// Children that were trained for a part of their epochs, as others of their batch were better.
    #[serde(default)]
    pub(crate) stopped: usize,
    /// Children that were trained again before they were promoted.
    #[serde(default)]
    pub(crate) reevaluated: Vec<Reevaluated>,
    /// The best children, with inherited weights and from scratch.
    #[serde(default)]
    pub(crate) ranks: Vec<Rank>,
    /// Whether trials ran on GPUs.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) on_gpus: bool,
    /// Seconds of work on the run.
    pub(crate) seconds: f64,
}

/// A network's validation accuracy with inherited weights and from scratch.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Rank {
    pub(crate) trial: TrialId,
    pub(crate) inherited: f64,
    pub(crate) scratch: f64,
}

/// A child that was trained again, with fresh seeds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Reevaluated {
    pub(crate) trial: TrialId,
    /// The validation accuracy that it was chosen for.
    pub(crate) accuracy: f64,
    /// Of each training since; 0 where it came to nothing.
    pub(crate) again: Vec<f64>,
}

impl Reevaluated {
    /// What became of a child among these results; nothing where it was trained once.
    pub(crate) fn of(child: &TrialResult, results: &[TrialResult]) -> Option<Self> {
        let again = results.iter().filter(|result| result.reevaluates(child));
        let again: Vec<f64> = again.map(|result| result.accuracy().unwrap_or(0.0)).collect();
        if child.same_as.is_some() || child.accuracy().is_none() || again.is_empty() {
            return None;
        }
        // Where it had been trained several times, the mean of them counted.
        let trained = results.iter().filter(|result| {
            result.purpose == Purpose::Child
                && result.same_as.is_none()
                && result.is_trained()
                && result.trained_alike(child)
        });
        let accuracies: Vec<f64> = trained.filter_map(TrialResult::accuracy).collect();
        let accuracy = accuracies.iter().sum::<f64>() / accuracies.len().max(1) as f64;
        Some(Reevaluated { trial: child.trial, accuracy, again })
    }

    /// For people.
    pub(crate) fn text(&self) -> String {
        let mean = self.again.iter().sum::<f64>() / self.again.len() as f64;
        let each: Vec<String> = self.again.iter().map(|accuracy| percent(*accuracy)).collect();
        format!(
            "trial {} was chosen for {}; trained again with fresh seeds: {} on average ({})",
            self.trial,
            percent(self.accuracy),
            percent(mean),
            each.join(", ")
        )
    }
}

/// One network of the comparison.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) trial: TrialId,
    pub(crate) purpose: Purpose,
    /// Nothing where the validation images were trained on.
    pub(crate) validation_accuracy: Option<f64>,
    pub(crate) test_accuracy: f64,
    pub(crate) parameters: u64,
    pub(crate) macs: u64,
    /// Epochs that the weights have behind them, ancestors' included.
    pub(crate) epochs: usize,
}

impl Report {
    /// Tests models of trials, each with the epochs behind it, on the test images.
    pub(crate) fn test(
        run: &Run,
        compared: &[(TrialResult, usize)],
        data: &TrainingData,
        test: &Split,
        engine: &dyn Engine,
    ) -> anyhow::Result<Vec<Row>> {
        let mut rows = Vec::new();
        let bar = Bar::new((compared.len() * test.len()) as u64);
        bar.message("test images");
        for (result, epochs) in compared {
            let model = run.model_of(result)?.model;
            let tested =
                accuracy(engine, &model, data, test, &mut |images| bar.advance(images as u64))?;
            rows.push(Row {
                trial: result.trial,
                purpose: result.purpose,
                validation_accuracy: result.accuracy(),
                test_accuracy: tested.share(),
                parameters: result.parameters,
                macs: result.macs,
                epochs: *epochs,
            });
        }
        bar.finish();
        Ok(rows)
    }

    /// Whether inherited weights and training from scratch rank the best children alike.
    pub(crate) fn kendall(&self) -> Option<f64> {
        let pairs = self.ranks.iter().map(|rank| (rank.inherited, rank.scratch));
        kendall(&pairs.collect::<Vec<_>>())
    }

    /// The comparison as a table, with how far a figure can be trusted.
    pub(crate) fn text(&self) -> String {
        let header = ["network", "trial", "validation", "test", "parameters", "MACs", "epochs"];
        let mut rows = vec![header.map(str::to_owned).to_vec()];
        for row in &self.rows {
            let name = match row.purpose {
                Purpose::Final | Purpose::Child | Purpose::Promoted => "best network",
                Purpose::StartLonger => "start network, trained as long",
                Purpose::Scratch => "best network, from scratch as long",
                Purpose::StartCompute => "start network, equal compute",
                Purpose::ScratchCompute => "best network, from scratch, equal compute",
                Purpose::Ranked => "a child, from scratch",
                Purpose::Start => "start network",
                Purpose::Reevaluation => "best network, trained again",
            };
            rows.push(vec![
                name.to_owned(),
                row.trial.to_string(),
                row.validation_accuracy.map_or("trained on".to_owned(), percent),
                percent(row.test_accuracy),
                Count(row.parameters).to_string(),
                Count(row.macs).to_string(),
                row.epochs.to_string(),
            ]);
        }
        // Wilson's (1927), of one deviation: few images say little even where all of them are right.
        let error = |images: usize| {
            let share = self.rows.first().map_or(0.0, |row| row.test_accuracy);
            let images = images as f64;
            100.0 * (images * share * (1.0 - share) + 0.25).sqrt() / (images + 1.0)
        };
        let mut again: Vec<String> = Vec::new();
        if self.test_shared > 0 {
            let (shared, images) = (self.test_shared, self.test_images);
            again.push(format!(
                "warning: {shared} of {images} test images stand among those trained or validated on"
            ));
        }
        again.extend(self.reevaluated.iter().map(Reevaluated::text));
        if self.cached > 0 {
            let (cached, children) = (self.cached, self.children);
            again.push(format!("{cached} of {children} children were known networks: cached"));
        }
        if self.stopped > 0 {
            let (stopped, children) = (self.stopped, self.children);
            again.push(format!("{stopped} of {children} children were stopped behind others"));
        }
        if self.tested_before > 0 {
            let times = self.tested_before;
            again.push(format!(
                "the test images weren't new: models of this run had been tested on them before ({times})"
            ));
        }
        let count = self.ranks.len();
        again.extend(self.kendall().map(|tau| {
            format!("Kendall's tau of the {count} best, inherited and from scratch: {tau:.2}")
        }));
        if self.on_gpus {
            again.push(format!("trained on GPUs: {ROUNDING}"));
        }
        let again: String = again.iter().map(|line| format!("\n{line}")).collect();
        format!(
            "{}\n{again}\nOne run with one seed: the standard error of a figure is {:.1} points on the {} \
             validation images and {:.1} on the {} test images.",
            table(&rows),
            error(self.validation_images),
            self.validation_images,
            error(self.test_images),
            self.test_images
        )
    }
}
