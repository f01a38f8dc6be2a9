//! A spec for data and a time budget, where a person has written none: what the data is, which start
//! network and how long, and why.

mod choose;
mod detect;
mod layout;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use eas_ir::{Network, Shape, cost};
use eas_train::TrainingData;

use crate::commands::bad_input;
use crate::commands::search::{start_network, training_data};
use crate::forecast::Rates;
use crate::plan::Plan;
use crate::print::{self, legible};
use crate::spec::read_plan;

use choose::{Facts, PROMOTED, Sizes, choose, validation_of};
use detect::Detected;
pub(crate) use detect::detect;
use layout::Layout;

/// Filters of the first convolution, the widest first.
const STARTS: [usize; 3] = [32, 16, 8];

/// A spec, and why it is what it is.
#[derive(Clone, Debug)]
pub(crate) struct Automatic {
    /// A file's name for it, for messages.
    pub(crate) name: String,
    /// The spec, with comments.
    pub(crate) spec: String,
    /// A line for each choice.
    pub(crate) why: Vec<String>,
}

/// How fast a plan's networks train on this machine.
pub(crate) type Measure<'a> =
    dyn FnMut(&Plan, &Network, &TrainingData) -> anyhow::Result<Rates> + 'a;

/// Writes a spec for this data, `NAME`, `NAME=PATH` or a path, that takes about this long.
///
/// # Errors
/// Data that aren't there or aren't known; too little time.
pub(crate) fn specify(
    text: &str,
    budget: Duration,
    measure: &mut Measure<'_>,
) -> anyhow::Result<Automatic> {
    let detected = detect(text)?;
    let name = format!("{}.toml", detected.title);
    let read = |spec: &str| Ok::<_, anyhow::Error>(read_plan(&name, spec, &[], Path::new(""))?);
    // How many images there are is known once there is a plan for some of them.
    let first = Layout { width: STARTS[0], pools: 0, left: 0 };
    let known = {
        let plan = read(&draft(&detected, 1, &first, None))?;
        plan.data.implementation.describe(&plan.directory).map_err(bad_input)?
    };
    let validation = validation_of(known.images);
    let plan = read(&draft(&detected, validation, &first, None))?;
    let data = training_data(&plan)?;
    let mut widths = STARTS.into_iter();
    let (layout, macs, facts) = loop {
        let width = widths.next().context("expected a start network")?;
        let layout = Layout::new(known.shape, width);
        let (start, _) = start_network(&read(&draft(&detected, validation, &layout, None))?)?;
        let start = start.network();
        let macs = cost(start, &start.verify()?, 1).macs;
        let plan = read(&draft(&detected, validation, &layout, Some(macs)))?;
        let rates = measure(&plan, start, &data)?;
        let facts = Facts {
            images: data.train.len(),
            validation: data.validation.len(),
            classes: known.classes.len(),
            budget,
            start_rate: rates.start,
            child_rate: rates.child,
        };
        if facts.is_ample() || widths.len() == 0 {
            break (layout, macs, facts);
        }
    };
    let sizes = choose(&facts).ok_or_else(|| {
        bad_input(format!(
            "--budget {}: a search of these images takes longer on this machine, which trains {:.0} a \
             second of the smallest start network; expected more time, or smaller images",
            humantime::format_duration(budget),
            facts.start_rate
        ))
    })?;
    let why = explain(&detected, known.shape, &layout, &facts, &sizes);
    let spec = spec_of(text, &detected, &layout, macs, &facts, &sizes, &why);
    Ok(Automatic { name, spec, why })
}

/// A spec to measure by.
fn draft(detected: &Detected, validation: usize, layout: &Layout, macs: Option<u64>) -> String {
    format!(
        "schema = 1\n{detected}\nvalidation = {validation}\n{}{}",
        layout.table(macs),
        "[transform.widen]\n[transform.deepen]\nkernels = [1, 3]\n[controller.random]\n\
         [start]\nrecipe = \"quick\"\n[child]\nrecipe = \"quick\"\n\
         [[stage]]\nactions = [\"widen x2\", \"deepen x2\"]\n"
    )
}

/// Why, a line each.
fn explain(
    detected: &Detected,
    shape: Shape,
    layout: &Layout,
    facts: &Facts,
    sizes: &Sizes,
) -> Vec<String> {
    let Facts { images, classes, budget, start_rate, child_rate, .. } = *facts;
    let seconds = |time: Duration| print::seconds(time.as_secs_f64());
    let width = match STARTS.iter().position(|width| *width == layout.width) {
        Some(0) | None => "the widest of 32, 16 and 8, since there is time enough".to_owned(),
        Some(place) => format!("since {} would leave too few epochs", STARTS[place - 1]),
    };
    let few = sizes.train.map_or(String::new(), |train| {
        format!("; {train} are trained on, since all of them would leave too few epochs")
    });
    let controller = match sizes.learns() {
        true => "reinforce, which learns what to try",
        false => "random, since so few children teach little, each batch from the best so far",
    };
    let compare = match sizes.compare {
        true => "the start network is trained as long, and the best from scratch, to compare",
        false => {
            "nothing is trained to compare it with: final.compare = true does, and takes longer"
        }
    };
    let Sizes { validation, start_epochs, child_epochs, final_epochs, .. } = *sizes;
    let (name, why, all, children) =
        (&detected.name, &detected.why, images + facts.validation, sizes.children());
    let (layers, pools, left) = (layout.layers().join(", "), layout.pools, layout.left);
    let (deadline, end) = (seconds(sizes.deadline), seconds(budget));
    vec![
        format!("data       {name}, {all} images of {shape} in {classes} classes: {why}"),
        format!(
            "held out   {validation} to compare networks on{few}; the test images are opened by the report \
             alone"
        ),
        format!(
            "network    {layers}: {pools} poolings leave {left} pixels of a side; {} filters, {width}",
            layout.width
        ),
        format!(
            "speed      {start_rate:.0} images/s of the start network and {child_rate:.0} of a middling \
             child, on this machine"
        ),
        format!(
            "search     {start_epochs} epochs of the start network, then {children} children of \
             {child_epochs} epochs; it ends after {deadline} at the latest"
        ),
        format!("controller {controller}"),
        format!(
            "final      {final_epochs} epochs of the best network, to end after about {end}; {compare}"
        ),
    ]
}

fn spec_of(
    text: &str,
    detected: &Detected,
    layout: &Layout,
    macs: u64,
    facts: &Facts,
    sizes: &Sizes,
    why: &[String],
) -> String {
    let budget = humantime::format_duration(facts.budget);
    // Names of files may be anything.
    let (text, why) = (legible(text), why.iter().map(|line| legible(line)));
    let why: String = why.map(|line| format!("# {line}\n")).collect();
    let train = match sizes.train {
        Some(train) => format!(
            "train = {train}  # of each class in proportion, to have time for more epochs\n"
        ),
        None => String::new(),
    };
    let controller = if sizes.learns() { "reinforce" } else { "random" };
    let Sizes { start_epochs, child_epochs, batches, networks, final_epochs, compare, .. } = *sizes;
    format!(
        "# Chosen for --data {text} --budget {budget}:\n\
         #\n\
         {why}\
         #\n\
         # What every key means, and the others: eas init. Run it again: eas search SPEC.\n\
         schema = 1\n\
         name = \"{}\"\n\
         seed = 1\n\
         \n\
         {detected}\n\
         validation = {}  # held out of the training images, of each class in proportion\n\
         {train}\
         \n\
         {}\
         \n\
         [transform.widen]\n\
         filters = \"fresh\"  # initialised anew, and what reads them starts at 0\n\
         [transform.deepen]  # Net2DeeperNet\n\
         kernels = [1, 3]\n\
         noise = 1e-3\n\
         \n\
         [controller.{controller}]\n\
         \n\
         [start]\n\
         recipe = \"quick\"\n\
         epochs = {start_epochs}\n\
         \n\
         [child]\n\
         recipe = \"inherited\"  # a warm restart that goes on with the parent's momentum\n\
         epochs = {child_epochs}\n\
         \n\
         [[stage]]\n\
         batches = {batches}\n\
         networks = {networks}\n\
         actions = [\"widen x2\", \"deepen x2\"]\n\
         parent = \"frontier\"  # children of the best so far, chosen anew in each batch\n\
         promote = {{ candidates = {PROMOTED}, seeds = 1, epochs = 0 }}  # the best are trained again before \
         one goes on\n\
         \n\
         [final]\n\
         recipe = \"quick\"\n\
         epochs = {final_epochs}\n\
         compare = {compare}  # with the start network trained as long, and the best from scratch\n\
         \n\
         [run]\n\
         deadline = \"{}\"  # the stages end; what they found is then finished\n",
        detected.title,
        sizes.validation,
        layout.table(Some(macs)),
        humantime::format_duration(sizes.deadline),
    )
}
