//! A picture as text: a line a block.

use eas_ir::{Bytes, Count, Op};

use super::{Block, Chain, Part, Picture, Repeat};
use crate::print::table;

/// Columns of a terminal.
pub(crate) const COLUMNS: usize = 100;

/// A table of the blocks, then what they come to.
pub(crate) fn text(picture: &Picture) -> String {
    let cells = |block: &Block| {
        let Block { name, output, cost, .. } = block;
        let [parameters, macs] = [cost.parameters, cost.macs].map(|count| Count(count).to_string());
        [name.clone(), output.to_string(), parameters, macs]
    };
    let mut rows = vec![["block", "output", "parameters", "MACs"].map(str::to_owned)];
    rows.push(["input".to_owned(), picture.input.to_string(), String::new(), String::new()]);
    rows.extend(picture.blocks.iter().map(cells));
    let widest = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    // Columns are two spaces apart.
    let left = COLUMNS.saturating_sub((0..4).map(|column| widest(column) + 2).sum());
    let mut layers = vec![vec!["layers".to_owned()], vec![String::new()]];
    layers.extend(picture.blocks.iter().map(|block| wrapped(&chain_words(&block.chain), left)));
    let mut lines = Vec::new();
    for ([name, output, parameters, macs], layers) in rows.into_iter().zip(layers) {
        let mut layers = layers.into_iter();
        let first = layers.next().unwrap_or_default();
        lines.push(vec![name, first, output, parameters, macs]);
        lines.extend(layers.map(|more| vec![String::new(), more]));
    }
    let cost = picture.cost;
    let mut text = format!(
        "{}\n\ndepth {}, {} parameters, {} MACs, {} to train batches of 64\n",
        table(&lines),
        picture.depth,
        Count(cost.parameters),
        Count(cost.macs),
        Bytes(cost.memory),
    );
    if !picture.undrawn.is_empty() {
        let counts = picture.undrawn.iter().map(|(name, count)| format!("{count} {name}"));
        text += &format!("not drawn: {}\n", counts.collect::<Vec<_>>().join(", "));
    }
    text
}

/// Lines of at most `width` characters, where commas allow it.
pub(crate) fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for part in text.split_inclusive(", ") {
        let line = lines.last_mut().expect("there is a line");
        if !line.trim().is_empty() && line.len() + part.trim_end().len() > width {
            lines.push(format!("  {part}"));
        } else {
            line.push_str(part);
        }
    }
    lines.iter().map(|line| line.trim_end().to_owned()).collect()
}

/// A chain in a line: `2 x conv 3x3 16, max_pool 2x2`.
pub(crate) fn chain_words(chain: &Chain) -> String {
    chain.iter().map(repeat_words).collect::<Vec<_>>().join(", ")
}

fn repeat_words(Repeat { times, parts }: &Repeat) -> String {
    let words = parts.iter().map(part_words).collect::<Vec<_>>().join(", ");
    match (times, parts.len()) {
        (1, _) => words,
        (times, 1) => format!("{times} x {words}"),
        (times, _) => format!("{times} x [{words}]"),
    }
}

fn part_words(part: &Part) -> String {
    match part {
        Part::Layer(op) => words(op),
        Part::Join { op, branches } => {
            let own: Vec<&Chain> = branches.iter().filter(|branch| !branch.is_empty()).collect();
            // The usual shortcut goes without saying.
            let shown =
                if (own.len(), branches.len()) == (1, 2) { own } else { branches.iter().collect() };
            let shown = shown.into_iter().map(|branch| match branch.as_slice() {
                [] => "input".to_owned(),
                _ => chain_words(branch),
            });
            format!("{} [{}]", words(op), shown.collect::<Vec<_>>().join(" | "))
        }
        Part::Web(ops) => {
            format!("web [{}]", ops.iter().map(words).collect::<Vec<_>>().join(", "))
        }
    }
}

/// An operation with the sizes that tell what it does, those with their usual values left out: `conv 3x3 64 stride 2`.
pub(crate) fn words(op: &Op) -> String {
    let mut words = op.name().to_owned();
    match *op {
        Op::Conv { filters, kernel, stride, padding, groups, bias: _ } => {
            words += &format!(" {kernel}x{kernel} {filters}");
            if stride != 1 {
                words += &format!(" stride {stride}");
            }
            if padding != kernel / 2 {
                words += &format!(" padding {padding}");
            }
            if groups != 1 {
                words += &format!(" groups {groups}");
            }
        }
        Op::MaxPool { size, stride, padding } => {
            words += &format!(" {size}x{size}");
            if stride != size {
                words += &format!(" stride {stride}");
            }
            if padding != 0 {
                words += &format!(" padding {padding}");
            }
        }
        Op::AveragePool { size, stride } => {
            words += &format!(" {size}x{size}");
            if stride != size {
                words += &format!(" stride {stride}");
            }
        }
        Op::Linear { units, .. } => words += &format!(" {units}"),
        Op::Dropout { rate } => words += &format!(" {rate}"),
        Op::Input { shape } => words += &format!(" {shape}"),
        Op::BatchNorm { .. } | Op::Relu | Op::GlobalPool | Op::Flatten | Op::Add | Op::Concat => {}
    }
    words
}
