//! The law over as many random networks of each built-in space as one likes, and the largest gap found:
//! `cargo run --release -p eas-transform --example law 1000`.

use std::fmt::Write;

use anyhow::{Context, anyhow};
use eas_ir::Value;
use eas_transform::{Transforms, law, spaces, transforms};
use toml::de::{DeTable, DeValue};

const PLAIN: &[&str] = &["widen", "deepen", "grow_kernel", "skip"];
const DENSE: &[&str] = &["widen_growth", "replicate", "deepen_dense", "widen_transition"];
const RESIDUAL: &[&str] = &["widen", "deepen", "add_block", "grow_kernel", "skip"];

/// Spaces with their options, and the transformations that are made to their networks.
/// A preset's widths and depth are not among them: the law draws its own, small ones.
const SPACES: [(&str, &str, &[&str]); 5] = [
    ("convnet", "preset = 'small'", PLAIN),
    ("densenet", "preset = 'small'", DENSE),
    ("densenet", "preset = 'small'\nbottleneck = 0\ncompression = 1.0", DENSE),
    ("densenet", "preset = 'small'\npre_activation = false", DENSE),
    ("residual", "preset = 'resnet20'", RESIDUAL),
];

#[expect(clippy::print_stdout, reason = "an example says what it found")]
fn main() -> anyhow::Result<()> {
    let networks = match std::env::args().nth(1) {
        Some(count) => count.parse().context("expected a number of networks")?,
        None => 1000,
    };
    let run = |(space, options, names): (&str, &str, &[&str])| -> anyhow::Result<String> {
        let space = spaces()?.get(space)?.build(table(options)?)?.implementation;
        let mut built = Vec::new();
        for name in names {
            let transform = transforms()?.get(name)?.build(table("")?)?.implementation;
            built.push(((*name).to_owned(), transform));
        }
        let report = law::check_preserves(&Transforms::new(built), space.as_ref(), 0..networks);
        let report = report.map_err(|broken| anyhow!("{broken}"))?;
        let mut line = String::new();
        let law::Report { networks, edits, not_testable, worst } = report;
        write!(line, "{networks} networks, {edits} edits, {not_testable} not testable, ")?;
        write!(line, "largest gap {worst:.1e} deviations of the logits")?;
        Ok(line)
    };
    std::thread::scope(|scope| {
        let runs: Vec<_> = SPACES.iter().map(|space| scope.spawn(|| run(*space))).collect();
        for ((space, options, _), found) in SPACES.iter().zip(runs) {
            let found = found.join().map_err(|_| anyhow!("{space}: a thread panicked"))??;
            println!("{space} {}: {found}", options.replace('\n', ", "));
        }
        Ok(())
    })
}

fn table(options: &str) -> anyhow::Result<Value<'_>> {
    let table = DeTable::parse(options)?;
    let (span, table) = (table.span(), table.into_inner());
    Ok(toml::Spanned::new(span, DeValue::Table(table)))
}
