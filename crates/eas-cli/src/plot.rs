//! Drawings, as SVG.

use anyhow::anyhow;
use eas_ir::Count;
use plotters::coord::Shift;
use plotters::prelude::*;

use crate::comparison::{Comparison, Point};

/// Width and height in pixels.
const SIZE: (u32, u32) = (1200, 500);

const FONT: (&str, u32) = ("sans-serif", 14);

/// Okabe and Ito's colours, which eyes of all kinds tell apart, without the yellow one: it is faint as a
/// line on white.
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(230, 159, 0),
    RGBColor(0, 0, 0),
];

/// The best validation accuracy against what the search has cost, images trained on and multiply-accumulates: a
/// thin line a run, one colour a controller.
pub(crate) fn curves(comparison: &Comparison) -> anyhow::Result<String> {
    let mut text = String::new();
    draw(comparison, &mut text).map_err(|error| anyhow!("can't draw the curves: {error}"))?;
    Ok(text)
}

type Drawn = Result<(), Box<dyn std::error::Error>>;

fn draw(comparison: &Comparison, text: &mut String) -> Drawn {
    let root = SVGBackend::with_string(text, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let (left, right) = root.split_horizontally(SIZE.0 / 2);
    panel(comparison, &left, "images trained on", |point| point.images)?;
    let macs = "multiply-accumulates of these, each once forward";
    panel(comparison, &right, macs, |point| point.macs)?;
    root.present()?;
    Ok(())
}

fn panel(
    comparison: &Comparison,
    area: &DrawingArea<SVGBackend<'_>, Shift>,
    description: &str,
    cost: fn(&Point) -> f64,
) -> Drawn {
    let points = || comparison.curves.iter().flat_map(|curve| &curve.points);
    let most = points().map(cost).fold(0.0, f64::max);
    let low = points().map(|point| point.accuracy).fold(1.0, f64::min);
    let high = points().map(|point| point.accuracy).fold(low, f64::max);
    let margin = (0.05 * (high - low)).max(0.005);
    let mut chart = ChartBuilder::on(area)
        .margin(16)
        .x_label_area_size(40)
        .y_label_area_size(60)
        .build_cartesian_2d(
        0.0..if most > 0.0 { most } else { 1.0 },
        100.0 * (low - margin)..100.0 * (high + margin),
    )?;
    chart
        .configure_mesh()
        .x_desc(description)
        .x_labels(6)
        .x_label_formatter(&|cost| Count(*cost as u64).to_string())
        .y_desc("best validation accuracy so far, %")
        .label_style(FONT)
        .axis_desc_style(FONT)
        .light_line_style(TRANSPARENT)
        .draw()?;
    for (number, controller) in comparison.controllers.iter().enumerate() {
        let colour = COLOURS[number % COLOURS.len()];
        let own = comparison.curves.iter().filter(|curve| &curve.controller == controller);
        for (place, curve) in own.enumerate() {
            let corners: Vec<(f64, f64)> =
                curve.points.iter().map(|point| (cost(point), 100.0 * point.accuracy)).collect();
            let drawn = chart.draw_series(LineSeries::new(steps(&corners), &colour))?;
            if place == 0 {
                drawn.label(controller).legend(move |(x, y)| {
                    PathElement::new(vec![(x, y), (x + 16, y)], colour.stroke_width(2))
                });
            }
        }
    }
    chart
        .configure_series_labels()
        .label_font(FONT)
        .background_style(WHITE)
        .border_style(BLACK)
        .draw()?;
    Ok(())
}

/// The corners of a line that stays until the next point.
fn steps(points: &[(f64, f64)]) -> impl Iterator<Item = (f64, f64)> {
    let before = points.first().into_iter().chain(points);
    points.iter().zip(before).flat_map(|(point, before)| [(point.0, before.1), *point])
}
