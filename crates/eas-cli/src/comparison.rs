//! What several runs of several controllers come to, side by side.

use eas_ir::Count;
use serde::Serialize;

use crate::print::{percent, table};
use crate::report::{Report, Row};
use crate::runs::{Purpose, TrialResult};
use crate::statistics::Summary;

/// One controller's run with one seed.
pub(crate) struct Arm {
    pub(crate) controller: String,
    pub(crate) seed: u64,
    /// Training images of an epoch.
    images: u64,
    report: Report,
    pub(crate) results: Vec<TrialResult>,
}

/// Controllers side by side.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Comparison {
    pub(crate) controllers: Vec<String>,
    pub(crate) seeds: Vec<u64>,
    lines: Vec<Line>,
    pub(crate) curves: Vec<Curve>,
    /// Of each run, whether inherited weights and training from scratch rank the best children alike.
    kendall: Vec<Tau>,
}

/// One row: what a controller found, or what that is compared with.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Line {
    controller: String,
    what: &'static str,
    validation: Accuracies,
    test: Accuracies,
}

/// Accuracies on one set of images.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Accuracies {
    /// By seed; nothing where it was not measured.
    of_seeds: Vec<Option<f64>>,
    summary: Option<Summary>,
    /// How much better that is which this row is compared with, paired by seed: a controller's row with the same
    /// row of the first one, the others with their controller's best network.
    behind: Option<Difference>,
}

/// A mean difference of pairs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
struct Difference {
    #[serde(flatten)]
    summary: Summary,
    /// Half the width of its 95 % confidence interval; nothing of fewer than two pairs.
    margin: Option<f64>,
}

/// The best validation accuracy so far, as a search goes on.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Curve {
    pub(crate) controller: String,
    pub(crate) seed: u64,
    pub(crate) points: Vec<Point>,
}

/// What a search has cost so far, and the best that it has found.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Point {
    /// Trainings, of the start network, of children, and of those that promotion asks for.
    trainings: usize,
    /// Images trained on, all epochs counted.
    pub(crate) images: f64,
    /// Multiply-accumulates of these images, each once forward.
    pub(crate) macs: f64,
    pub(crate) accuracy: f64,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct Tau {
    controller: String,
    seed: u64,
    tau: Option<f64>,
}

/// What a row is of.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Subject {
    /// The best network that the search itself trained: a child, one that was promoted, or the start network.
    Child,
    /// The best network of the finals.
    Final,
    /// What that is compared with.
    Compared(Purpose),
}

/// The rows of a controller, its own first.
const ROWS: [(&str, Subject); 6] = [
    ("best of the search", Subject::Child),
    ("best network, final", Subject::Final),
    ("start network, as many epochs", Subject::Compared(Purpose::StartLonger)),
    ("start network, equal compute", Subject::Compared(Purpose::StartCompute)),
    ("from scratch, as many epochs", Subject::Compared(Purpose::Scratch)),
    ("from scratch, equal compute", Subject::Compared(Purpose::ScratchCompute)),
];

impl Arm {
    pub(crate) fn new(
        controller: &str,
        seed: u64,
        images: u64,
        report: Report,
        results: Vec<TrialResult>,
    ) -> Self {
        Arm { controller: controller.to_owned(), seed, images, report, results }
    }

    /// Validation and test accuracy of a row's network.
    fn accuracies(&self, subject: Subject) -> [Option<f64>; 2] {
        let row = |row: Option<&Row>| {
            [row.and_then(|row| row.validation_accuracy), row.map(|row| row.test_accuracy)]
        };
        match subject {
            Subject::Child => [self.curve().points.last().map(|point| point.accuracy), None],
            Subject::Final => row(self.report.rows.first()),
            Subject::Compared(purpose) => {
                row(self.report.rows.iter().find(|row| row.purpose == purpose))
            }
        }
    }

    /// The search alone: the start network, the children, and what was trained to promote them.
    fn curve(&self) -> Curve {
        let mut point = Point { trainings: 0, images: 0.0, macs: 0.0, accuracy: f64::NEG_INFINITY };
        let mut points = Vec::new();
        for result in &self.results {
            let counts = match result.purpose {
                Purpose::Start | Purpose::Child | Purpose::Promoted => true,
                Purpose::Reevaluation => false,
                _ => continue,
            };
            if result.same_as.is_none() {
                let images = (result.epochs as u64 * self.images) as f64;
                point.trainings += 1;
                point.images += images;
                point.macs += images * result.macs as f64;
            }
            if let Some(accuracy) = result.accuracy().filter(|_| counts) {
                point.accuracy = point.accuracy.max(accuracy);
            }
            if point.accuracy.is_finite() {
                points.push(point);
            }
        }
        Curve { controller: self.controller.clone(), seed: self.seed, points }
    }
}

impl Comparison {
    /// Of finished runs: each controller with each seed, the seeds in order.
    pub(crate) fn new(controllers: &[String], arms: &[Arm]) -> Self {
        let of = |controller: &String| -> Vec<&Arm> {
            arms.iter().filter(|arm| &arm.controller == controller).collect()
        };
        let accuracies = |controller: &String, subject| -> Vec<[Option<f64>; 2]> {
            of(controller).iter().map(|arm| arm.accuracies(subject)).collect()
        };
        let mut lines = Vec::new();
        for controller in controllers {
            for (what, subject) in ROWS {
                let reference = match subject {
                    Subject::Compared(_) => accuracies(controller, Subject::Final),
                    own if controller != &controllers[0] => accuracies(&controllers[0], own),
                    Subject::Child | Subject::Final => Vec::new(),
                };
                let own = accuracies(controller, subject);
                let part = |set: usize| Accuracies::new(&own, &reference, set);
                let (validation, test) = (part(0), part(1));
                lines.push(Line { controller: controller.clone(), what, validation, test });
            }
        }
        let tau = |arm: &Arm| Tau {
            controller: arm.controller.clone(),
            seed: arm.seed,
            tau: arm.report.kendall(),
        };
        let first = controllers.first().map(of).unwrap_or_default();
        Comparison {
            controllers: controllers.to_vec(),
            seeds: first.iter().map(|arm| arm.seed).collect(),
            lines,
            curves: arms.iter().map(Arm::curve).collect(),
            kendall: arms.iter().map(tau).collect(),
        }
    }

    /// All but the curves, for people.
    pub(crate) fn text(&self) -> String {
        let header = [
            "controller",
            "network",
            "seeds",
            "validation",
            "it is behind by",
            "test",
            "it is behind by",
        ];
        let mut rows = vec![header.map(str::to_owned).to_vec()];
        for Line { controller, what, validation, test } in &self.lines {
            let seeds = validation.count().max(test.count()).to_string();
            let mut row = vec![controller.clone(), (*what).to_owned(), seeds];
            row.extend([validation, test].into_iter().flat_map(Accuracies::cells));
            rows.push(row);
        }
        let of_controllers = |text: &dyn Fn(&str) -> String| -> String {
            let texts = self.controllers.iter().map(|name| format!("{name} {}", text(name)));
            texts.collect::<Vec<_>>().join("; ")
        };
        let costs = of_controllers(&|name| {
            let ends = || {
                let own = self.curves.iter().filter(|curve| curve.controller == name);
                own.filter_map(|curve| curve.points.last())
            };
            let mean = |value: fn(&Point) -> f64| {
                let values: Vec<f64> = ends().map(value).collect();
                Count(Summary::of(&values).map_or(0.0, |summary| summary.mean) as u64)
            };
            format!(
                "{} trainings, {} images, {} multiply-accumulates",
                mean(|point| point.trainings as f64),
                mean(|point| point.images),
                mean(|point| point.macs),
            )
        });
        let taus = of_controllers(&|name| {
            let own = self.kendall.iter().filter(|tau| tau.controller == name);
            let own: Vec<f64> = own.filter_map(|tau| tau.tau).collect();
            let mean =
                Summary::of(&own).map_or("-".to_owned(), |summary| format!("{:.2}", summary.mean));
            format!("{mean} ({} runs)", own.len())
        });
        format!(
            "{}\n\nMean ± standard deviation over seeds. Behind: points of accuracy, with the paired \
             95 % confidence interval; what a controller found is compared with what {} found, the other \
             rows with their controller's best network. The best of a search is its best single training, \
             luck included. Compute is that of the network's own line: the \
             search's is below.\nThe search, on average: {costs}.\nKendall's tau between inherited and \
             from-scratch validation accuracy of the best children, on average: {taus}",
            table(&rows),
            self.controllers.first().map_or("-", String::as_str),
        )
    }
}

impl Accuracies {
    /// Of one set of images: 0 the validation images, 1 the test images.
    fn new(own: &[[Option<f64>; 2]], reference: &[[Option<f64>; 2]], set: usize) -> Self {
        let of_seeds: Vec<Option<f64>> = own.iter().map(|accuracies| accuracies[set]).collect();
        let known: Vec<f64> = of_seeds.iter().copied().flatten().collect();
        let pairs = reference.iter().zip(own);
        let differences: Vec<f64> =
            pairs.filter_map(|(reference, own)| Some(reference[set]? - own[set]?)).collect();
        let behind = Summary::of(&differences)
            .map(|summary| Difference { summary, margin: summary.margin() });
        Accuracies { of_seeds, summary: Summary::of(&known), behind }
    }

    fn count(&self) -> usize {
        self.summary.map_or(0, |summary| summary.count)
    }

    /// The mean, and how far it is behind, for people.
    fn cells(&self) -> [String; 2] {
        let accuracy = match self.summary {
            None => "-".to_owned(),
            Some(Summary { mean, deviation: None, .. }) => percent(mean),
            Some(Summary { mean, deviation: Some(deviation), .. }) => {
                format!("{} ± {:.2}", percent(mean), 100.0 * deviation)
            }
        };
        let points = |share: f64| format!("{:+.2}", 100.0 * share);
        let behind = match self.behind {
            None => "-".to_owned(),
            Some(Difference { summary: Summary { mean, .. }, margin: None }) => points(mean),
            Some(Difference { summary: Summary { mean, .. }, margin: Some(margin) }) => {
                let (low, high) = (points(mean - margin), points(mean + margin));
                format!("{} [{low}, {high}]", points(mean))
            }
        };
        [accuracy, behind]
    }
}
