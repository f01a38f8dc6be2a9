//! `eas data`: what a data set holds, and fetching published ones.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::Context;
use eas_ir::Bytes;
use eas_train::{Labelled, Split, contact_sheet, normalisation_of, shared_images};
use serde::Serialize;

use super::{bad_input, data_of};
use crate::args;
use crate::exit;
use crate::fetch;
use crate::print;

/// Images of a class on a contact sheet.
const COLUMNS: usize = 16;

#[derive(Serialize)]
struct Inspected {
    data_set: String,
    shape: String,
    classes: Vec<String>,
    parts: Vec<Part>,
    /// Test images that stand among the training images too, pixel by pixel.
    shared: Option<usize>,
}

#[derive(Serialize)]
struct Part {
    name: &'static str,
    images: usize,
    /// Groups of images that stay on one side of a split, where there are any.
    groups: Option<usize>,
    /// Images of each class.
    counts: Vec<usize>,
    /// Of each channel, of values from 0 to 1.
    mean: Vec<f32>,
    deviation: Vec<f32>,
}

pub(super) fn run(args: &args::Data) -> anyhow::Result<u8> {
    match &args.command {
        args::DataCommand::Inspect(args) => inspect(args),
        args::DataCommand::Fetch(args) => fetch(args),
    }
}

fn fetch(args: &args::Fetch) -> anyhow::Result<u8> {
    let files = fetch::files_of(&args.name).context("expected a data set that can be fetched")?;
    if args.extra && files.extra.is_empty() {
        return Err(bad_input(format!("--extra: {} has no extra images", files.name)));
    }
    let to = args.to.clone().or_else(fetch::data_folder);
    let to = to.ok_or_else(|| bad_input("expected --to, since HOME names no folder"))?;
    let wishes =
        fetch::Wishes { mirror: args.mirror.clone(), extra: args.extra, ..Default::default() };
    let bar = print::Bar::new(0);
    let fetched = fetch::fetch(files, &to, &wishes, &bar);
    bar.finish();
    let (name, shown) = (files.name, to.display());
    let fetched = match fetched? {
        0 => "it was there already".to_owned(),
        bytes => format!("{} fetched", Bytes(bytes)),
    };
    let found = fetch::default_path(name) == std::path::absolute(&to).ok();
    let path = if found { String::new() } else { format!("={shown}") };
    print::result(&format!("{name} is in {shown}: {fetched}. Next: eas data inspect {name}{path}"));
    Ok(exit::SUCCESS)
}

fn inspect(args: &args::Inspect) -> anyhow::Result<u8> {
    let source = data_of(&args.data, &args.set)?;
    let directory = Path::new("");
    let train = source.implementation.train(directory).map_err(bad_input)?;
    let is_tested = source.implementation.describe(directory).map_err(bad_input)?.test_images > 0;
    let test = is_tested.then(|| source.implementation.test(directory).map_err(bad_input));
    let test = test.transpose()?;
    if test.is_none() {
        print::note("note: no images to test on");
    }
    if let Some(path) = &args.sheet {
        let sheet = contact_sheet(&train, COLUMNS)?;
        std::fs::write(path, sheet).with_context(|| format!("can't write {}", path.display()))?;
    }
    let part = |name, images: &Labelled| {
        let normalisation = normalisation_of(&Split::all(images.clone()));
        let (mean, deviation) = (normalisation.mean, normalisation.deviation);
        let groups = images.groups().map(|of| of.iter().collect::<BTreeSet<_>>().len());
        let counts = images.class_counts();
        Part { name, images: images.len(), groups, counts, mean, deviation }
    };
    let mut parts = vec![part("train", &train)];
    parts.extend(test.as_ref().map(|test| part("test", test)));
    let all = |images: &Labelled| Split::all(images.clone());
    let inspected = Inspected {
        data_set: source.name,
        shape: train.shape().to_string(),
        classes: train.classes().to_vec(),
        parts,
        shared: test.map(|test| shared_images(&all(&train), &all(&test)).len()),
    };
    if args.json {
        print::json(&inspected);
    } else {
        print::result(&as_text(&inspected));
    }
    Ok(exit::SUCCESS)
}

fn as_text(inspected: &Inspected) -> String {
    let Inspected { data_set, shape, classes, parts, shared } = inspected;
    let mut text = format!("{data_set}: images of {shape}, {} classes\n\n", classes.len());
    let mut rows = vec![vec!["part".to_owned(), "images".to_owned(), "of a class".to_owned()]];
    rows[0].extend(["mean", "deviation"].map(str::to_owned));
    let numbers = |values: &[f32]| {
        values.iter().map(|value| format!("{value:.4}")).collect::<Vec<_>>().join(" ")
    };
    for part in parts {
        let least = part.counts.iter().min().copied().unwrap_or(0);
        let most = part.counts.iter().max().copied().unwrap_or(0);
        let balance = if least == most { least.to_string() } else { format!("{least} to {most}") };
        let groups = part.groups.map_or(String::new(), |groups| format!(" in {groups} groups"));
        rows.push(vec![
            part.name.to_owned(),
            format!("{}{groups}", part.images),
            balance,
            numbers(&part.mean),
            numbers(&part.deviation),
        ]);
    }
    text += &print::table(&rows);
    let mut rows = vec![vec!["class".to_owned()]];
    rows[0].extend(parts.iter().map(|part| part.name.to_owned()));
    for (class, name) in classes.iter().enumerate() {
        let mut row = vec![name.clone()];
        // A data set may know fewer classes in its test part.
        let count = |part: &Part| part.counts.get(class).copied().unwrap_or(0).to_string();
        row.extend(parts.iter().map(count));
        rows.push(row);
    }
    text += &format!("\n\n{}\n", print::table(&rows));
    match shared {
        None => {}
        Some(0) => text += "\nno test image stands among the training images\n",
        Some(shared) => {
            text +=
                &format!("\nwarning: {shared} test images stand among the training images too\n");
        }
    }
    text
}
