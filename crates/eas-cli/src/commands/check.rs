//! `eas check`: what a spec would do.

use eas_ir::{Bytes, Count, cost};
use serde::Serialize;

use super::plan_of;
use super::search::{Prepared, prepare};
use crate::args;
use crate::exit;
use crate::forecast::{Forecast, episodes, forecast};
use crate::plan::FinalWeights;
use crate::print;
use crate::room;

#[derive(Serialize)]
struct Checked {
    name: String,
    plan: String,
    training_images: usize,
    validation_images: usize,
    start_depth: usize,
    start_parameters: u64,
    start_macs: u64,
    start_memory: u64,
    /// Different episodes of the first stage, as a power of ten.
    episodes_log10: f64,
    children: usize,
    forecast: Option<Forecast>,
}

pub(super) fn run(args: &args::Check) -> anyhow::Result<u8> {
    let (_, plan) = plan_of(Some(&args.spec), &args.overrides)?;
    let Prepared { data, start, notes } = prepare(&plan)?;
    notes.iter().for_each(|note| print::note(note));
    let given = start.model().is_some();
    let start = start.network();
    let shapes = start.verify()?;
    let cost = cost(start, &shapes, plan.start.batch);
    let forecast = if args.no_forecast {
        None
    } else {
        let bar = print::Bar::new(1);
        bar.message("measuring a few training steps");
        let measured = forecast(&plan, start, &data);
        bar.finish();
        Some(measured?)
    };
    let checked = Checked {
        name: plan.name.clone(),
        plan: plan.text.clone(),
        training_images: data.train.len(),
        validation_images: data.validation.len(),
        start_depth: start.depth(),
        start_parameters: cost.parameters,
        start_macs: cost.macs,
        start_memory: cost.memory,
        episodes_log10: episodes(&plan, start)?,
        children: plan.children(),
        forecast,
    };
    if args.json {
        print::json(&checked);
        return Ok(exit::SUCCESS);
    }
    let weights = match plan.finals.weights {
        FinalWeights::Inherited => "with what they have learnt",
        FinalWeights::Scratch => "from fresh weights",
    };
    let all = checked.children * plan.child.epochs;
    let batches = plan.stages.iter();
    let most: usize = batches.map(|stage| stage.batches * plan.epochs_of_batch(stage)).sum();
    let halved = match most < all {
        true => format!(" each, {most} of {all} with halving,"),
        false => " each".to_owned(),
    };
    let mut text = format!(
        "{}: the spec is fine.\n\n\
         data         {}: {} training, {} validation images, {} classes\n\
         space        {}; about 10^{:.0} different episodes on the start network, in stage 0\n\
         controller   {}\n\
         start        depth {}, {} parameters, {} MACs, {} to train batches of {}{}\n\
         search       {} children of {} epochs{halved} in {} stages\n\
         final        {} of the best for {} epochs {weights}\n",
        checked.name,
        plan.data.name,
        checked.training_images,
        checked.validation_images,
        data.classes.len(),
        plan.space.name,
        checked.episodes_log10,
        plan.controller.name,
        checked.start_depth,
        Count(cost.parameters),
        Count(cost.macs),
        Bytes(cost.memory),
        plan.start.batch,
        if given { "; its weights come with it" } else { "" },
        checked.children,
        plan.child.epochs,
        plan.stages.len(),
        plan.finals.networks,
        plan.finals.recipe.epochs,
    );
    if let Some(forecast) = &checked.forecast {
        let free = room::free(&std::env::current_dir()?);
        if free.is_some_and(|free| free < forecast.disk) {
            print::note(&format!(
                "warning: {} are free on this disk, and the run may take {}; store.size bounds it",
                Bytes(free.unwrap_or(0)),
                Bytes(forecast.disk)
            ));
        }
        text += &format!(
            "forecast     about {} and {} of disk on this machine ({} of it can't be collected), from \
             {:.0} images/s of the start network and {:.0} of a middling child ({} MACs); may be off by half\n",
            print::seconds(forecast.seconds),
            Bytes(forecast.disk),
            Bytes(forecast.disk_needed),
            forecast.start_rate,
            forecast.child_rate,
            Count(forecast.child_macs),
        );
    }
    text += &format!("\n{start}");
    print::result(&text);
    Ok(exit::SUCCESS)
}
