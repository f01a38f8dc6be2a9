//! `eas status` and `eas watch`: how far a run has come.

use std::collections::BTreeSet;
use std::time::Duration;

use super::bad_input;
use super::search::plan_of_run;
use crate::args;
use crate::exit;
use crate::print::{self, Screen};
use crate::runs::Run;
use crate::status::{State, Status};
use crate::stop;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(500);

/// `eas status`.
pub(super) fn run(args: &args::Status) -> anyhow::Result<u8> {
    let run = Run::open(&args.run).map_err(bad_input)?;
    let status = Status::of(&run, plan_of_run(&run).ok().as_ref())?;
    if args.json {
        print::json(&status);
    } else {
        print::result(&status.text());
    }
    Ok(exit::SUCCESS)
}

/// `eas watch`: until nobody works on the run. On a terminal the state is drawn anew in place;
/// elsewhere each result is a line.
pub(super) fn watch(args: &args::Status) -> anyhow::Result<u8> {
    stop::listen();
    let run = Run::open(&args.run).map_err(bad_input)?;
    let plan = plan_of_run(&run).ok();
    let screen = Screen::new();
    let mut told = BTreeSet::new();
    loop {
        let status = Status::of(&run, plan.as_ref())?;
        if args.json {
            print::json_line(&status);
        } else if screen.is_drawn() {
            screen.draw(&status.text());
        } else {
            let listing = run.listing()?;
            let known = listing.trials();
            if told.is_empty() {
                listing.results()?.iter().for_each(|result| print::result(&result.line()));
            } else {
                for trial in known.difference(&told) {
                    print::result(&listing.result(*trial)?.line());
                }
            }
            told = known;
        }
        if status.state != State::Running || stop::interrupted() {
            screen.keep();
            if !args.json && !screen.is_drawn() {
                print::result(&status.text());
            }
            return Ok(exit::SUCCESS);
        }
        std::thread::sleep(LOOK);
    }
}
