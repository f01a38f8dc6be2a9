//! Drawings, as SVG.

use anyhow::anyhow;
use plotters::prelude::*;

use crate::comparison::Comparison;

/// Width and height in pixels.
const SIZE: (u32, u32) = (800, 500);

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

/// The best validation accuracy against images trained on: a thin line a run, one colour a controller.
pub(crate) fn curves(comparison: &Comparison) -> anyhow::Result<String> {
    let mut text = String::new();
    draw(comparison, &mut text).map_err(|error| anyhow!("can't draw the curves: {error}"))?;
    Ok(text)
}

fn draw(comparison: &Comparison, text: &mut String) -> Result<(), Box<dyn std::error::Error>> {
    let points = || comparison.curves.iter().flat_map(|curve| &curve.points);
    let most = points().map(|point| point.0).fold(1.0, f64::max);
    let low = points().map(|point| point.1).fold(1.0, f64::min);
    let high = points().map(|point| point.1).fold(low, f64::max);
    let margin = (0.05 * (high - low)).max(0.005);
    let root = SVGBackend::with_string(text, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .margin(16)
        .x_label_area_size(40)
        .y_label_area_size(60)
        .build_cartesian_2d(0.0..most / 1e6, 100.0 * (low - margin)..100.0 * (high + margin))?;
    chart
        .configure_mesh()
        .x_desc("images trained on, millions")
        .y_desc("best validation accuracy so far, %")
        .light_line_style(TRANSPARENT)
        .draw()?;
    for (number, controller) in comparison.controllers.iter().enumerate() {
        let colour = COLOURS[number % COLOURS.len()];
        let own = comparison.curves.iter().filter(|curve| &curve.controller == controller);
        for (place, curve) in own.enumerate() {
            let steps = steps(&curve.points).map(|(images, best)| (images / 1e6, 100.0 * best));
            let drawn = chart.draw_series(LineSeries::new(steps, &colour))?;
            if place == 0 {
                drawn.label(controller).legend(move |(x, y)| {
                    PathElement::new(vec![(x, y), (x + 16, y)], colour.stroke_width(2))
                });
            }
        }
    }
    chart.configure_series_labels().background_style(WHITE).border_style(BLACK).draw()?;
    root.present()?;
    Ok(())
}

/// The corners of a line that stays until the next point.
fn steps(points: &[(f64, f64)]) -> impl Iterator<Item = (f64, f64)> {
    let before = points.first().into_iter().chain(points);
    points.iter().zip(before).flat_map(|(point, before)| [(point.0, before.1), *point])
}
