//! Does terrible things to searches, and says what was lost.
//!
//! `cargo run -p eas-tests --bin campaign -- --kills 1000 --seed 1 --minutes 30`

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "the table is what it is for")]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use eas_tests::campaign::Campaign;

/// Does terrible things to searches, and says what was lost.
#[derive(Parser)]
struct Args {
    /// Faults to inject
    #[arg(long, default_value_t = 100)]
    kills: usize,
    /// Chooses faults, moments and bytes
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Stop after so many minutes, if not all faults were injected by then
    #[arg(long)]
    minutes: Option<u64>,
    /// The program, built without --release [default: this workspace's, built first]
    #[arg(long, value_name = "FILE")]
    eas: Option<PathBuf>,
    /// Print the table as JSON
    #[arg(long)]
    json: bool,
}

fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    let limit = args.minutes.map(|minutes| Duration::from_secs(60 * minutes));
    let eas = args.eas.map_or_else(eas_tests::eas, Ok)?;
    let table = Campaign { eas, faults: args.kills, seed: args.seed, limit }
        .run(&mut |line| eprintln!("{line}"))?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&table)?);
    } else {
        println!("{}", table.text());
    }
    Ok(if table.losses.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
