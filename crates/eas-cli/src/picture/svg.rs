//! A picture as SVG: a panel a block, from the top down, branches side by side.
//!
//! A network is nearly a chain, so no general layout is needed: every part has its size, a chain stacks
//! them around one vertical line, and what hands its input on is a curve beside the others.

use eas_ir::{Count, Op};

use super::{Block, Chain, Part, Picture, Repeat, words};

/// Between parts of a chain: the length of an arrow.
const GAP: f64 = 22.0;
/// Between branches.
const ASIDE: f64 = 24.0;
/// Width that a curve beside branches takes.
const CURVE: f64 = 34.0;
/// Height of a layer.
const BOX: f64 = 28.0;
/// Height of a join.
const PILL: f64 = 22.0;
/// Where branches part, and where they meet again.
const FORK: f64 = 22.0;
/// Within frames.
const PADDING: f64 = 14.0;
/// Of a frame around what repeats, where it tells how often.
const TIMES: f64 = 40.0;
/// Height of what a panel says of its block.
const HEADER: f64 = 50.0;
/// A line of text, and about the width of a letter.
const LINE: f64 = 17.0;
const LETTER: f64 = 7.2;

/// The picture as a whole SVG file.
pub(crate) fn svg(picture: &Picture) -> String {
    let panel = picture.blocks.iter().map(panel_width).fold(300.0, f64::max);
    let (width, centre) = (panel + 2.0 * PADDING, panel / 2.0 + PADDING);
    let mut canvas = Canvas::default();
    let mut y = PADDING;
    canvas.pill(centre, y, &format!("input {}", picture.input));
    y += PILL;
    for (place, block) in picture.blocks.iter().enumerate() {
        let height = HEADER + chain_size(&block.chain).1 + PADDING;
        canvas.lead(centre, y, y + GAP + HEADER, first(&block.chain));
        y += GAP;
        // Panels lie behind arrows and layers.
        canvas.panels += &format!(
            r##"<rect x="{PADDING}" y="{y}" width="{panel}" height="{height}" rx="8" fill="#f3f5f8" stroke="#d5dbe3"/>
"##
        );
        let (left, right) = (PADDING + 12.0, PADDING + panel - 12.0);
        let [parameters, macs] = headings(block);
        canvas.text(left, y + 20.0, "start", "bold", &block.name);
        canvas.text(left, y + 38.0, "start", "normal", &block.output.to_string());
        canvas.text(right, y + 20.0, "end", "normal", &parameters);
        canvas.text(right, y + 38.0, "end", "normal", &macs);
        let bottom = canvas.chain(&block.chain, centre, y + HEADER);
        y = bottom + PADDING;
        if place + 1 < picture.blocks.len() {
            canvas.line(centre, bottom, y);
        }
    }
    let [parameters, macs] = [picture.cost.parameters, picture.cost.macs].map(Count);
    let total = format!("depth {}, {parameters} parameters, {macs} MACs", picture.depth);
    canvas.text(centre, y + 24.0, "middle", "normal", &total);
    let height = y + 40.0;
    format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" font-family="Helvetica, Arial, 'DejaVu Sans', sans-serif" font-size="13">
<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto"><path d="M0 0.5 L8 4 L0 7.5 z" fill="#5b6675"/></marker></defs>
<rect width="{width}" height="{height}" fill="white"/>
{}{}</svg>
"##,
        canvas.panels, canvas.body
    )
}

/// What a panel says on the right.
fn headings(block: &Block) -> [String; 2] {
    let [parameters, macs] = [block.cost.parameters, block.cost.macs].map(Count);
    [format!("{parameters} parameters"), format!("{macs} MACs")]
}

fn panel_width(block: &Block) -> f64 {
    let longest = |texts: &[String]| texts.iter().map(|text| text_width(text)).fold(0.0, f64::max);
    let left = longest(&[block.name.clone(), block.output.to_string()]);
    let right = longest(&headings(block));
    // The line of layers passes between the headings.
    let header = 2.0 * (left.max(right) + 24.0);
    header.max(chain_size(&block.chain).0 + 2.0 * PADDING)
}

fn text_width(text: &str) -> f64 {
    text.chars().count() as f64 * LETTER
}

/// Width and height of a chain; it lies evenly on both sides of its line.
fn chain_size(chain: &Chain) -> (f64, f64) {
    stacked(chain.iter().map(repeat_size))
}

fn stacked(sizes: impl Iterator<Item = (f64, f64)>) -> (f64, f64) {
    let (width, height) = sizes.fold((0.0, -GAP), |(width, height), size| {
        (f64::max(width, size.0), height + GAP + size.1)
    });
    (width, height.max(0.0))
}

fn repeat_size(Repeat { times, parts }: &Repeat) -> (f64, f64) {
    let (width, height) = stacked(parts.iter().map(part_size));
    match times {
        1 => (width, height),
        _ => (width + 2.0 * TIMES, height + 2.0 * PADDING),
    }
}

fn part_size(part: &Part) -> (f64, f64) {
    match part {
        Part::Layer(op) => (layer_width(op), BOX),
        Part::Join { branches, .. } => {
            let (drawn, curves) = apart(branches);
            let sizes: Vec<_> = drawn.iter().map(|branch| chain_size(branch)).collect();
            let height = sizes.iter().map(|size| size.1).fold(0.0, f64::max);
            let width = row_width(&sizes) + 2.0 * CURVE * curves as f64;
            (width.max(90.0), 2.0 * FORK + height + PILL)
        }
        Part::Web(ops) => {
            let width = ops.iter().map(layer_width).fold(0.0, f64::max);
            (width, PADDING + ops.len() as f64 * LINE)
        }
    }
}

fn layer_width(op: &Op) -> f64 {
    (text_width(&words(op)) + 2.0 * PADDING).max(130.0)
}

fn row_width(sizes: &[(f64, f64)]) -> f64 {
    sizes.iter().map(|size| size.0 + ASIDE).sum::<f64>() - ASIDE
}

/// Branches with something in them, and how many only hand their input on.
fn apart(branches: &[Chain]) -> (Vec<&Chain>, usize) {
    let drawn: Vec<&Chain> = branches.iter().filter(|branch| !branch.is_empty()).collect();
    let curves = branches.len() - drawn.len();
    (drawn, curves)
}

/// The part that a chain begins with, where no frame stands around it.
fn first(chain: &[Repeat]) -> Option<&Part> {
    chain.first().filter(|repeat| repeat.times == 1).and_then(|repeat| repeat.parts.first())
}

/// Fill and border of a layer.
fn colours(op: &Op) -> (&'static str, &'static str) {
    match op {
        Op::Conv { .. } => ("#dbe9fb", "#4a7fc1"),
        Op::Linear { .. } => ("#ddf1e0", "#4d9a5b"),
        Op::MaxPool { .. } | Op::AveragePool { .. } | Op::GlobalPool => ("#fdeccf", "#c98a2b"),
        Op::Input { .. }
        | Op::BatchNorm { .. }
        | Op::Relu
        | Op::Flatten
        | Op::Dropout { .. }
        | Op::Add
        | Op::Concat => ("#ffffff", "#7b8794"),
    }
}

#[derive(Default)]
struct Canvas {
    panels: String,
    body: String,
}

impl Canvas {
    fn text(&mut self, x: f64, y: f64, anchor: &str, weight: &str, text: &str) {
        let text = escaped(text);
        self.body += &format!(
            r##"<text x="{x}" y="{y}" text-anchor="{anchor}" font-weight="{weight}" fill="#1f2933">{text}</text>
"##
        );
    }

    fn path(&mut self, path: &str, arrow: bool) {
        let end = if arrow { r#" marker-end="url(#arrow)""# } else { "" };
        self.body += &format!("<path d=\"{path}\" fill=\"none\" stroke=\"#5b6675\"{end}/>\n");
    }

    fn line(&mut self, x: f64, from: f64, to: f64) {
        self.path(&format!("M{x} {from} V{to}"), false);
    }

    /// What leads down to a part: an arrow where that is a box, a line where there is a fork or frame.
    fn lead(&mut self, x: f64, from: f64, to: f64, part: Option<&Part>) {
        let is_box = matches!(part, Some(Part::Layer(_) | Part::Web(_)));
        self.path(&format!("M{x} {from} V{to}"), is_box);
    }

    /// From the line at one place to that at another, both vertical at their ends.
    fn bend(&mut self, from: (f64, f64), to: (f64, f64), arrow: bool) {
        let middle = (from.1 + to.1) / 2.0;
        let path = format!(
            "M{} {} C{} {middle} {} {middle} {} {}",
            from.0, from.1, from.0, to.0, to.0, to.1
        );
        self.path(&path, arrow);
    }

    fn rectangle(&mut self, x: f64, y: f64, size: (f64, f64), radius: f64, style: &str) {
        let (width, height) = size;
        let left = x - width / 2.0;
        self.body += &format!(
            "<rect x=\"{left}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" rx=\"{radius}\" {style}/>\n"
        );
    }

    fn pill(&mut self, x: f64, y: f64, text: &str) {
        let width = text_width(text) + 2.0 * PADDING;
        let style = r##"fill="#ffffff" stroke="#7b8794""##;
        self.rectangle(x, y, (width, PILL), PILL / 2.0, style);
        self.text(x, y + 15.5, "middle", "normal", text);
    }

    /// Draws a chain around the line at `x` from `y` down; returns where it ends.
    fn chain(&mut self, chain: &Chain, x: f64, mut y: f64) -> f64 {
        for (place, repeat) in chain.iter().enumerate() {
            if place > 0 {
                self.lead(x, y, y + GAP, first(&chain[place..]));
                y += GAP;
            }
            y = self.repeat(repeat, x, y);
        }
        y
    }

    fn repeat(&mut self, repeat: &Repeat, x: f64, mut y: f64) -> f64 {
        let framed = repeat.times > 1;
        if framed {
            let size = repeat_size(repeat);
            let style = r##"fill="none" stroke="#7b8794" stroke-dasharray="5 4""##;
            self.rectangle(x, y, size, 8.0, style);
            let right = x + size.0 / 2.0 - 8.0;
            self.text(right, y + 18.0, "end", "bold", &format!("{}×", repeat.times));
            self.lead(x, y, y + PADDING, repeat.parts.first());
            y += PADDING;
        }
        for (place, part) in repeat.parts.iter().enumerate() {
            if place > 0 {
                self.lead(x, y, y + GAP, Some(part));
                y += GAP;
            }
            y = self.part(part, x, y);
        }
        if framed {
            self.line(x, y, y + PADDING);
            y += PADDING;
        }
        y
    }

    fn part(&mut self, part: &Part, x: f64, y: f64) -> f64 {
        let size @ (_, height) = part_size(part);
        match part {
            Part::Layer(op) => {
                let (fill, border) = colours(op);
                let style = format!("fill=\"{fill}\" stroke=\"{border}\"");
                self.rectangle(x, y, size, 5.0, &style);
                self.text(x, y + 18.5, "middle", "normal", &words(op));
            }
            Part::Join { op, branches } => self.join(op, branches, x, y, height),
            Part::Web(ops) => {
                let style = r##"fill="#ffffff" stroke="#7b8794" stroke-dasharray="2 3""##;
                self.rectangle(x, y, size, 5.0, style);
                for (line, op) in ops.iter().enumerate() {
                    let below = y + LINE * (line as f64 + 1.0) + 2.0;
                    self.text(x, below, "middle", "normal", &words(op));
                }
            }
        }
        y + height
    }

    fn join(&mut self, op: &Op, branches: &[Chain], x: f64, y: f64, height: f64) {
        let (drawn, curves) = apart(branches);
        let sizes: Vec<_> = drawn.iter().map(|branch| chain_size(branch)).collect();
        let (row, pill) = (row_width(&sizes), y + height - PILL);
        let mut left = x - row / 2.0;
        for (branch, (width, _)) in drawn.iter().zip(&sizes) {
            let centre = left + width / 2.0;
            let is_box = matches!(first(branch), Some(Part::Layer(_) | Part::Web(_)));
            self.bend((x, y), (centre, y + FORK), is_box);
            let bottom = self.chain(branch, centre, y + FORK);
            self.line(centre, bottom, pill - FORK);
            self.bend((centre, pill - FORK), (x, pill), true);
            left += width + ASIDE;
        }
        let text = words(op);
        let edge = x + text_width(&text) / 2.0 + PADDING;
        for curve in 0..curves {
            let side = x + row.max(0.0) / 2.0 + CURVE * (curve as f64 + 0.7);
            let (middle, end) = (y + FORK, pill + PILL / 2.0);
            let path = format!(
                "M{x} {y} C{x} {middle} {side} {y} {side} {} V{} C{side} {end} {side} {end} {edge} {end}",
                middle + 8.0,
                pill - FORK,
            );
            self.path(&path, true);
        }
        self.pill(x, pill, &text);
    }
}

/// Text as XML has it.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use eas_ir::{Cost, Shape};

    use super::*;

    #[test]
    fn names_from_strangers_stay_text() {
        let (shape, cost) = (Shape::Flat { features: 1 }, Cost::default());
        let name = "<script>\"&\"</script>".to_owned();
        let block = Block { name, output: shape, chain: Vec::new(), cost };
        let undrawn = BTreeMap::new();
        let picture = Picture { input: shape, blocks: vec![block], depth: 0, cost, undrawn };
        let drawn = svg(&picture);
        assert!(
            drawn.contains(">&lt;script&gt;&quot;&amp;&quot;&lt;/script&gt;</text>"),
            "{drawn}"
        );
        assert!(!drawn.contains("<script>"), "{drawn}");
    }
}
