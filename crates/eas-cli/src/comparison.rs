//! What several runs of several controllers come to, side by side.

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
    /// By seed; nothing where it was not trained.
    validation: Vec<Option<f64>>,
    test: Vec<Option<f64>>,
    validation_summary: Option<Summary>,
    test_summary: Option<Summary>,
    /// How much better the test accuracy is of what this row is compared with, paired by seed: a
    /// controller's with the first one's, the others with their controller's.
    better: Option<Summary>,
    /// Half the width of its 95 % confidence interval.
    margin: Option<f64>,
}

/// The best validation accuracy so far, as training goes on.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Curve {
    pub(crate) controller: String,
    pub(crate) seed: u64,
    /// Images trained on, all epochs counted, and the accuracy.
    pub(crate) points: Vec<(f64, f64)>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct Tau {
    controller: String,
    seed: u64,
    tau: Option<f64>,
}

/// The rows of a controller, its own first.
const ROWS: [(&str, Option<Purpose>); 5] = [
    ("best network", None),
    ("start network, as many epochs", Some(Purpose::StartLonger)),
    ("start network, equal compute", Some(Purpose::StartCompute)),
    ("from scratch, as many epochs", Some(Purpose::Scratch)),
    ("from scratch, equal compute", Some(Purpose::ScratchCompute)),
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

    /// A row of the report: that of this purpose, or the best network's.
    fn row(&self, purpose: Option<Purpose>) -> Option<&Row> {
        match purpose {
            None => self.report.rows.first(),
            Some(purpose) => self.report.rows.iter().find(|row| row.purpose == purpose),
        }
    }

    /// The search alone: the start network, the children, and what was trained to promote them.
    fn curve(&self) -> Curve {
        let (mut images, mut best) = (0.0, f64::NEG_INFINITY);
        let mut points = Vec::new();
        for result in &self.results {
            let counts = match result.purpose {
                Purpose::Start | Purpose::Child | Purpose::Promoted => true,
                Purpose::Reevaluation => false,
                _ => continue,
            };
            if result.same_as.is_none() {
                images += (result.epochs as u64 * self.images) as f64;
            }
            if let Some(accuracy) = result.accuracy().filter(|_| counts) {
                best = best.max(accuracy);
            }
            if best.is_finite() {
                points.push((images, best));
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
        let test = |controller: &String| -> Vec<Option<f64>> {
            of(controller).iter().map(|arm| arm.row(None).map(|row| row.test_accuracy)).collect()
        };
        let mut lines = Vec::new();
        for controller in controllers {
            for (what, purpose) in ROWS {
                let rows: Vec<Option<&Row>> =
                    of(controller).iter().map(|arm| arm.row(purpose)).collect();
                let reference = match purpose {
                    None if controller == &controllers[0] => Vec::new(),
                    None => test(&controllers[0]),
                    Some(_) => test(controller),
                };
                lines.push(Line::new(controller, what, &rows, &reference));
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
        let header = ["controller", "network", "seeds", "validation", "test", "it is behind by"];
        let mut rows = vec![header.map(str::to_owned).to_vec()];
        let shown = |summary: Option<Summary>| match summary {
            None => "-".to_owned(),
            Some(Summary { mean, deviation: None, .. }) => percent(mean),
            Some(Summary { mean, deviation: Some(deviation), .. }) => {
                format!("{} ± {:.2}", percent(mean), 100.0 * deviation)
            }
        };
        for line in &self.lines {
            let points = |share: f64| format!("{:+.2}", 100.0 * share);
            let behind = match (line.better, line.margin) {
                (None, _) => "-".to_owned(),
                (Some(Summary { mean, .. }), None) => points(mean),
                (Some(Summary { mean, .. }), Some(margin)) => {
                    format!(
                        "{} [{}, {}]",
                        points(mean),
                        points(mean - margin),
                        points(mean + margin)
                    )
                }
            };
            rows.push(vec![
                line.controller.clone(),
                line.what.to_owned(),
                line.test_summary.map_or(0, |summary| summary.count).to_string(),
                shown(line.validation_summary),
                shown(line.test_summary),
                behind,
            ]);
        }
        let taus: Vec<String> = self
            .controllers
            .iter()
            .map(|controller| {
                let own = self.kendall.iter().filter(|tau| &tau.controller == controller);
                let own: Vec<f64> = own.filter_map(|tau| tau.tau).collect();
                let mean = Summary::of(&own)
                    .map_or("-".to_owned(), |summary| format!("{:.2}", summary.mean));
                format!("{controller} {mean} ({} runs)", own.len())
            })
            .collect();
        format!(
            "{}\n\nMean ± standard deviation over seeds. Behind: points of test accuracy, with the \
             paired 95 % confidence interval; a controller is compared with {}, the other rows with \
             their controller's best network.\nKendall's tau between inherited and from-scratch \
             validation accuracy of the best children, on average: {}",
            table(&rows),
            self.controllers.first().map_or("-", String::as_str),
            taus.join(", ")
        )
    }
}

impl Line {
    fn new(
        controller: &str,
        what: &'static str,
        rows: &[Option<&Row>],
        reference: &[Option<f64>],
    ) -> Self {
        let validation: Vec<_> =
            rows.iter().map(|row| row.and_then(|r| r.validation_accuracy)).collect();
        let test: Vec<_> = rows.iter().map(|row| row.map(|r| r.test_accuracy)).collect();
        let known = |values: &[Option<f64>]| {
            Summary::of(&values.iter().copied().flatten().collect::<Vec<_>>())
        };
        let pairs = reference.iter().zip(&test);
        let differences: Vec<f64> =
            pairs.filter_map(|(reference, own)| Some((*reference)? - (*own)?)).collect();
        let better = Summary::of(&differences);
        Line {
            controller: controller.to_owned(),
            what,
            validation_summary: known(&validation),
            test_summary: known(&test),
            validation,
            test,
            better,
            margin: better.and_then(|summary| summary.margin()),
        }
    }
}
