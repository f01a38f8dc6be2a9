//! `eas transform`: edits on a model, each certified.

use eas_ir::{Forward, Images, Metadata, Mode, Model, Probe, Rng, SavedModel};
use eas_transform::{
    Certificate, Edit, Noise, Transforms, Verdict, apply, certify, law, transforms,
};
use serde::Serialize;

use super::{bad_input, given};
use crate::args;
use crate::engine::ENGINE;
use crate::exit;
use crate::print;

/// Images of noise that a model without a probe is certified on, and that are added to a short probe.
const NOISE_IMAGES: usize = 32;

#[derive(Serialize)]
struct Edited {
    edit: Edit,
    certificate: Certificate,
}

pub(super) fn run(args: &args::Transform) -> anyhow::Result<u8> {
    let SavedModel { model, metadata } = given::model(&args.model)?.saved;
    let edits = args
        .apply
        .iter()
        .map(|text| text.parse::<Edit>().map_err(bad_input))
        .collect::<anyhow::Result<Vec<_>>>()?;
    if args.out.exists() {
        return Err(bad_input(format!("{}: this already exists", args.out.display())));
    }
    let transforms = all_transforms()?;
    let rng = Rng::new(args.seed);
    let probe = probe(&model, &metadata, &rng);
    let (mut exact, mut noisy) = (model.clone(), model);
    let mut edited = Vec::new();
    for (place, edit) in edits.into_iter().enumerate() {
        let stream = rng.split("edit").split_index(place as u64);
        let patch = transforms
            .patch(exact.network(), &edit, &mut stream.split("choices"))
            .map_err(bad_input)?;
        let child = apply(&exact, &patch, Noise::Off)
            .map_err(|error| bad_input(format!("can't {edit}: {error:#}")))?;
        let certificate = certify(&exact, &child, &probe, &ENGINE)?;
        let noise = if args.no_noise { Noise::Off } else { Noise::On(&stream) };
        noisy = apply(&noisy, &patch, noise)?;
        exact = child;
        if !args.json {
            print::result(&format!("{edit}: {certificate}"));
        }
        let broken = certificate.verdict == Verdict::Broken;
        edited.push(Edited { edit, certificate });
        if broken {
            if args.json {
                print::json(&edited);
            }
            print::note("error: the last edit changed the function; nothing was written");
            return Ok(exit::NO);
        }
    }
    let metadata = with_new_logits(&noisy, metadata)?;
    SavedModel { model: noisy, metadata }.save(&args.out)?;
    if args.json {
        print::json(&edited);
    } else {
        print::result(&format!("Wrote {}", args.out.display()));
    }
    Ok(exit::SUCCESS)
}

/// Every linked transform with its default options.
fn all_transforms() -> anyhow::Result<Transforms> {
    let mut named = Vec::new();
    for plugin in transforms()?.iter() {
        let empty = toml::de::DeValue::parse("{}")?;
        match plugin.build(empty) {
            Ok(built) => named.push((plugin.name.to_owned(), built.implementation)),
            // A plugin without defaults can't be used without a spec.
            Err(error) => {
                print::note(&format!("note: `{}` is left out: {}", plugin.name, error.message()))
            }
        }
    }
    Ok(Transforms::new(named))
}

/// The model's own probe, and noise.
fn probe(model: &Model, metadata: &Metadata, rng: &Rng) -> Images {
    let noise = law::random_images(model.input_shape(), NOISE_IMAGES, rng);
    match normalised_probe(metadata) {
        Some(images) => {
            ndarray::concatenate(ndarray::Axis(0), &[images.view(), noise.view()]).unwrap_or(noise)
        }
        None => noise,
    }
}

fn normalised_probe(metadata: &Metadata) -> Option<Images> {
    let (probe, normalisation) = (metadata.probe.as_ref()?, metadata.normalisation.as_ref()?);
    let mut images = probe.images.mapv(|value| f32::from(value) / 255.0);
    for (channel, mut plane) in images.axis_iter_mut(ndarray::Axis(1)).enumerate() {
        let (mean, deviation) = (normalisation.mean[channel], normalisation.deviation[channel]);
        plane.mapv_inplace(|value| (value - mean) / deviation);
    }
    Some(images)
}

/// The probe's logits anew: noise changes them a little.
fn with_new_logits(model: &Model, metadata: Metadata) -> anyhow::Result<Metadata> {
    let Some(images) = normalised_probe(&metadata) else { return Ok(metadata) };
    let logits = ENGINE.logits(model, &images, Mode::Evaluation)?.mapv(|logit| logit as f32);
    let probe = metadata.probe.map(|probe| Probe { logits, ..probe });
    Ok(Metadata { probe, ..metadata })
}
