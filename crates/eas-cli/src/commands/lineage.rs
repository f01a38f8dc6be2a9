//! `eas lineage`: how a network came about.

use super::{bad_input, given};
use crate::args;
use crate::exit;
use crate::lineage::{ancestors, text};
use crate::print;
use crate::runs::{Run, TrialResult};

pub(super) fn run(args: &args::Lineage) -> anyhow::Result<u8> {
    let run = Run::open(&args.run).map_err(bad_input)?;
    let trial = given::trial(&run, args.trial)?;
    let line = ancestors(&run, trial)?;
    if args.dot {
        print::result(&dot(&run.listing()?.results()?, &line));
    } else if args.json {
        print::json(&line);
    } else {
        print::result(&text(&line));
    }
    Ok(exit::SUCCESS)
}

/// All trials as a graph in the language of Graphviz, this line drawn thick.
fn dot(results: &[TrialResult], line: &[TrialResult]) -> String {
    let thick = |result: &TrialResult| {
        if line.iter().any(|known| known.trial == result.trial) { ", penwidth=3" } else { "" }
    };
    let mut text = "digraph lineage {\n    node [shape=box];\n".to_owned();
    for result in results {
        let trial = result.trial;
        let label = format!("{trial} {}\\n{}", result.purpose.words(), result.ending_words());
        text += &format!("    \"{trial}\" [label=\"{label}\"{}];\n", thick(result));
        if let Some(parent) = result.parent {
            let edits: Vec<String> =
                result.steps.iter().flatten().map(ToString::to_string).collect();
            let label = edits.join("\\n");
            text +=
                &format!("    \"{parent}\" -> \"{trial}\" [label=\"{label}\"{}];\n", thick(result));
        }
    }
    text + "}\n"
}
