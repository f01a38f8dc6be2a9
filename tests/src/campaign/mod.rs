//! A campaign of faults against real searches.
//!
//! A round is a search of seconds, as real processes, to which some faults happen, one after another, at
//! moments and places that a seed chooses. Then it is resumed until it is done, must verify, and must
//! have come to what the same search comes to when nothing happens to it: every trial, decision and
//! digest of a model. What differs is a loss; the round's folder is kept for it.

mod faults;
mod search;
mod system;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use eas_ir::Rng;
use serde::Serialize;

use faults::{FAULTS, Fault};
use search::{Outcome, SPECS, Search};

/// Faults of a round, at most.
const FAULTS_OF_A_ROUND: usize = 6;

/// What to do.
#[derive(Clone, Debug)]
pub struct Campaign {
    /// The program.
    pub eas: PathBuf,
    /// Faults to inject.
    pub faults: usize,
    /// Chooses faults, moments and bytes.
    pub seed: u64,
    /// Time after which no round begins.
    pub limit: Option<Duration>,
}

/// What was injected, and what was lost.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Table {
    /// As given.
    pub seed: u64,
    /// Searches.
    pub rounds: usize,
    /// How often each fault was injected.
    pub injected: BTreeMap<&'static str, usize>,
    /// Faults that can't be had on this machine, and why.
    pub unavailable: BTreeMap<&'static str, String>,
    /// What was lost.
    pub losses: Vec<Loss>,
    /// Of all of it.
    pub seconds: f64,
}

/// A round that did not come to what it should have.
#[derive(Clone, Debug, Serialize)]
pub struct Loss {
    /// Its number.
    pub round: usize,
    /// What happened, in order.
    pub faults: Vec<String>,
    /// What differs.
    pub what: String,
    /// Where all of it is kept.
    pub folder: PathBuf,
}

impl Campaign {
    /// Runs it, and tells each round and loss as it happens.
    ///
    /// # Errors
    /// What keeps it from being run at all: no fault is an error.
    pub fn run(&self, tell: &mut dyn FnMut(&str)) -> anyhow::Result<Table> {
        let started = Instant::now();
        // A copy: a run goes on with no other program than it began with, and this may be built anew.
        let kept = tempfile::tempdir()?;
        let eas = kept.path().join("eas");
        std::fs::copy(&self.eas, &eas)
            .with_context(|| format!("can't copy {}", self.eas.display()))?;
        let mut table = Table { seed: self.seed, ..Table::default() };
        let mut undisturbed: BTreeMap<&str, Outcome> = BTreeMap::new();
        let faults: Vec<&Fault> = FAULTS
            .iter()
            .filter(|fault| match (fault.available)() {
                Ok(()) => true,
                Err(why) => {
                    tell(&format!("left out: {}: {why:#}", fault.name));
                    table.unavailable.insert(fault.name, format!("{why:#}"));
                    false
                }
            })
            .collect();
        let mut injected = 0;
        while injected < self.faults && self.limit.is_none_or(|limit| started.elapsed() < limit) {
            let mut rng = Rng::new(self.seed).split("round").split_index(table.rounds as u64);
            let (name, spec) = SPECS[rng.below(SPECS.len())];
            let expected = match undisturbed.entry(name) {
                std::collections::btree_map::Entry::Occupied(known) => known.into_mut(),
                std::collections::btree_map::Entry::Vacant(free) => {
                    let mut search = Search::new(&eas, spec)?;
                    search.finish()?;
                    free.insert(search.outcome()?)
                }
            };
            let mut search = Search::new(&eas, spec)?;
            let mut happened = Vec::new();
            let most = FAULTS_OF_A_ROUND.min(self.faults - injected);
            let done = disturb(&mut search, &faults, most, &mut rng, &mut happened)
                .and_then(|()| search.finish())
                .and_then(|()| search.check(expected));
            injected += happened.len();
            for fault in &happened {
                *table.injected.entry(*fault).or_default() += 1;
            }
            let what = happened.join(", ");
            match done {
                Ok(()) => {
                    tell(&format!("{injected} faults: round {} ({name}): {what}", table.rounds))
                }
                Err(error) => {
                    let folder = search.keep();
                    tell(&format!(
                        "LOSS in round {} ({name}) of seed {}: {what}: {error:#}; kept in {}",
                        table.rounds,
                        self.seed,
                        folder.display()
                    ));
                    let faults = happened.iter().map(|&fault| fault.to_owned()).collect();
                    let what = format!("{error:#}");
                    table.losses.push(Loss { round: table.rounds, faults, what, folder });
                }
            }
            table.rounds += 1;
        }
        table.seconds = started.elapsed().as_secs_f64();
        Ok(table)
    }
}

/// Injects faults into a search until it is done, or enough happened.
fn disturb(
    search: &mut Search,
    faults: &[&Fault],
    most: usize,
    rng: &mut Rng,
    happened: &mut Vec<&'static str>,
) -> anyhow::Result<()> {
    let mut tries = 0;
    while happened.len() < most && !search.is_finished() {
        let fault = faults[rng.below(faults.len())];
        let kind = fault.name;
        if (fault.inject)(search, rng).with_context(|| kind.to_owned())? {
            happened.push(kind);
        }
        tries += 1;
        if tries > 20 * most {
            bail!("{} faults in {tries} tries", happened.len());
        }
    }
    Ok(())
}

impl Table {
    /// For people, as a table in Markdown.
    pub fn text(&self) -> String {
        let all: usize = self.injected.values().sum();
        let mut lines = vec!["| fault | injected |".to_owned(), "|---|---|".to_owned()];
        lines.extend(self.injected.iter().map(|(fault, count)| format!("| {fault} | {count} |")));
        lines.extend(
            self.unavailable.iter().map(|(fault, why)| format!("| {fault} | none: {why} |")),
        );
        lines.push(format!(
            "\n{all} faults in {} searches, seed {}, {:.0} s: {} searches lost something",
            self.rounds,
            self.seed,
            self.seconds,
            self.losses.len()
        ));
        for loss in &self.losses {
            let faults = loss.faults.join(", ");
            let (round, folder) = (loss.round, loss.folder.display());
            lines.push(format!("round {round}: {faults}: {}; kept in {folder}", loss.what));
        }
        lines.join("\n")
    }
}
