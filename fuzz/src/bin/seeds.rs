//! Seeds of every target, of the files that EAS writes and those of its tests: `seeds FOLDER` fills a
//! folder of each target there.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, ensure};
use eas_fuzz::{SEPARATOR, folder, model};
use eas_ir::onnx::{OnnxOptions, write, write_tensor};
use flate2::read::GzDecoder;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

fn main() -> ExitCode {
    // The search below keeps this program, and starts its trials by it.
    if std::env::args().nth(1).is_some_and(|first| first == "trial") {
        return eas_cli::main();
    }
    match std::env::args().nth(1).context("expected a folder").and_then(|to| seeds(to.as_ref())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The seeds of all targets so far.
struct Seeds<'a> {
    to: &'a Path,
    counts: BTreeMap<&'static str, usize>,
}

impl Seeds<'_> {
    fn add(&mut self, target: &'static str, bytes: &[u8]) -> anyhow::Result<()> {
        let count = self.counts.entry(target).or_default();
        *count += 1;
        let path = self.to.join(target).join(format!("seed-{count}"));
        fs::create_dir_all(path.parent().context("a folder")?)?;
        Ok(fs::write(path, bytes)?)
    }

    /// A seed of several files, behind a byte that says what they are.
    fn join(&mut self, target: &'static str, first: &str, files: &[Vec<u8>]) -> anyhow::Result<()> {
        self.add(target, &[first.as_bytes(), &files.join(SEPARATOR)].concat())
    }
}

fn seeds(to: &Path) -> anyhow::Result<()> {
    let mut seeds = Seeds { to, counts: BTreeMap::new() };
    models(&mut seeds)?;
    data(&mut seeds)?;
    run(&mut seeds)?;
    archive(&mut seeds)
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn file(name: &str) -> anyhow::Result<Vec<u8>> {
    fs::read(root().join(name)).with_context(|| name.to_owned())
}

/// The files of a folder of the repository, and of those in it.
fn all(name: &str) -> anyhow::Result<Vec<Vec<u8>>> {
    let (mut found, mut folders) = (Vec::new(), vec![root().join(name)]);
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder).with_context(|| folder.display().to_string())?;
        for entry in entries {
            let path = entry?.path();
            match path.is_dir() {
                true => folders.push(path),
                false => found.push(fs::read(path)?),
            }
        }
    }
    Ok(found)
}

/// A safetensors file as a target takes it: the header and what follows.
fn parted(bytes: &[u8]) -> anyhow::Result<Vec<u8>> {
    let (length, rest) = bytes.split_first_chunk().context("expected a header")?;
    let (header, values) = rest.split_at(u64::from_le_bytes(*length) as usize);
    Ok([header, values].join(SEPARATOR))
}

fn models(seeds: &mut Seeds<'_>) -> anyhow::Result<()> {
    for text in all("specs")?.into_iter().chain([file("tests/tiny.toml")?]) {
        seeds.add("spec", &text)?;
    }
    seeds.join("spec", "", &[file("tests/tiny.toml")?, b"seed=4\nstage.0.batches=3".to_vec()])?;
    for text in all("benches/networks")?.into_iter().chain(all("tests/networks")?) {
        seeds.add("network", &text)?;
    }
    let saved = model();
    let kept = folder().join("model");
    saved.save(&kept)?;
    let network = fs::read(kept.join("network.toml"))?;
    let weights = fs::read(kept.join("weights.safetensors"))?;
    seeds.add("network", &network)?;
    seeds.join("model", "n", std::slice::from_ref(&network))?;
    seeds.join("model", "w", &[parted(&weights)?])?;
    seeds.join("model", "w=", std::slice::from_ref(&weights))?;
    seeds.join("model", "b", &[network, parted(&weights)?])?;
    seeds.add("checkpoint", &parted(&checkpoint(&weights)?)?)?;
    seeds.join("checkpoint", "=", &[checkpoint(&weights)?])?;
    for fold_normalisation in [false, true] {
        let options = OnnxOptions { fold_normalisation, ..OnnxOptions::default() };
        seeds.add("onnx", &write(&saved, &options)?)?;
    }
    for kind in ["densenet", "resnet", "vgg", "views"] {
        for bytes in all(&format!("tests/onnx/{kind}"))? {
            seeds.add("onnx", &bytes)?;
        }
    }
    let tensors =
        [write_tensor(&[1, 2, 3, 3], &[0.5; 18]), write_tensor(&[1, 3], &[0.5, 0.0, 1.0])];
    seeds.join("onnx_logits", "", &tensors)
}

/// A checkpoint of a model's weights, all of which have momentum.
fn checkpoint(weights: &[u8]) -> anyhow::Result<Vec<u8>> {
    let progress = r#"{"recipe":0,"position":{"epoch":1,"step":2,"loss":0.5,"correct":3,"images":4,"seconds":5.0},"certificate":null,"drift":null,"seconds":6.0,"number":1}"#;
    let file = SafeTensors::deserialize(weights)?;
    let tensors = file.iter().filter(|(name, _)| !name.starts_with("probe"));
    let named = tensors.flat_map(|(name, view)| {
        ["value", "momentum"].map(|part| (format!("{part}.{name}"), view.clone()))
    });
    let views = named.map(|(name, view)| {
        let view = TensorView::new(Dtype::F32, view.shape().to_vec(), view.data())?;
        Ok((name, view))
    });
    let views = views.collect::<Result<Vec<_>, safetensors::SafeTensorError>>()?;
    Ok(safetensors::serialize(views, Some([("eas".to_owned(), progress.to_owned())].into()))?)
}

fn data(seeds: &mut Seeds<'_>) -> anyhow::Result<()> {
    let of = |name: &str| file(&format!("crates/eas-train/tests/data/{name}"));
    for part in ["train", "t10k"] {
        let names = [format!("{part}-images-idx3-ubyte"), format!("{part}-labels-idx1-ubyte")];
        let plain: Vec<_> =
            names.iter().map(|n| of(&format!("idx/{n}"))).collect::<Result<_, _>>()?;
        let packed = names.iter().map(|n| of(&format!("mnist/{n}.gz")));
        let packed: Vec<_> = packed.collect::<Result<_, _>>()?;
        seeds.join("idx", " ", &plain)?;
        seeds.join("idx", "z", &plain)?;
        seeds.join("idx", "=", &packed)?;
    }
    for part in ["train", "test"] {
        let mut records = Vec::new();
        GzDecoder::new(&of(&format!("cifar100/{part}.bin.gz"))?[..]).read_to_end(&mut records)?;
        seeds.join("cifar", "=", &[records])?;
        seeds.join("svhn", " ", &[of(&format!("svhn/{part}_32x32.mat"))?])?;
    }
    seeds.join(
        "cifar",
        " ",
        &[b"\x03\x04\x05".to_vec(), vec![9; 40], vec![0], vec![1], vec![2]],
    )?;
    let images = vec![7; 3 * 32 * 32];
    seeds.join("svhn", " ", &[mat(&[&images])])?;
    let header = mat(&[]);
    let elements = mat(&[&images])[header.len()..].to_vec();
    let labels = elements[elements.len() - 64..].to_vec();
    let images = elements[..elements.len() - 64].to_vec();
    seeds.join("svhn", "z", &[[header, images].concat(), labels])?;
    let archive = of("npz/images.npz")?;
    let mut arrays = Vec::new();
    for name in ["x_train.npy", "y_train.npy"] {
        let mut read = zip::ZipArchive::new(std::io::Cursor::new(&archive))?;
        let mut array = Vec::new();
        read.by_name(name)?.read_to_end(&mut array)?;
        arrays.push(array);
    }
    seeds.join("npz", " ", &arrays)?;
    seeds.join("npz", "=", &[archive])?;
    for folder in ["folder", "jpeg"] {
        for bytes in all(&format!("crates/eas-train/tests/data/{folder}"))? {
            seeds.add("image", &bytes)?;
        }
    }
    let list = b"file,group\ncat/a_0.png,a\n\"cat/a_1.png\",a\ndog/b_0.png,b\n".to_vec();
    seeds.join("groups", "", &[list, b"^([^_]*)_".to_vec()])
}

/// A MAT-file of SVHN with these images, all of which show a 3.
fn mat(images: &[&[u8]]) -> Vec<u8> {
    let mut file = vec![b' '; 124];
    file.extend([0, 1, b'I', b'M']);
    let words = |words: &[u32]| words.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<u8>>();
    if let Some(pixels) = images.first() {
        let values = words(&[2, pixels.len() as u32]);
        let head = words(&[6, 8, 9, 0, 5, 12, 32, 32, 3, 0, 1 | 1 << 16, b'X'.into()]);
        let array = [&head[..], &values, pixels].concat();
        file.extend(words(&[14, array.len() as u32]));
        file.extend(array);
        let head = words(&[6, 8, 9, 0, 5, 8, 1, 1, 1 | 1 << 16, b'y'.into()]);
        let array = [&head[..], &words(&[2, 1, 3, 0])].concat();
        file.extend(words(&[14, array.len() as u32]));
        file.extend(array);
    }
    file
}

fn run(seeds: &mut Seeds<'_>) -> anyhow::Result<()> {
    let place = folder().join("run");
    let spec = root().join("tests/tiny.toml");
    let arguments =
        ["eas".into(), "search".into(), spec.into(), "--run".into(), place.clone().into()];
    ensure!(eas_cli::fuzzing::command(arguments) == 0, "expected a search that ends well");
    let of = |name: &str| fs::read(place.join(name)).with_context(|| name.to_owned());
    let [names @ .., index] = eas_fuzz::RUN_FILES;
    let mut files: Vec<_> = names.iter().map(|name| of(name)).collect::<Result<_, _>>()?;
    for bytes in files.iter().filter(|bytes| !bytes.is_empty()) {
        seeds.add("records", bytes)?;
    }
    seeds.add(
        "records",
        br#"{"event":"extended","first_trial":"0009","batches":2,"deadline":60.0}"#,
    )?;
    seeds.add("spec", &of("plan.toml")?)?;
    seeds.join("run", "", &files)?;
    files.push(of(index)?);
    seeds.join("run", "", &files)
}

fn archive(seeds: &mut Seeds<'_>) -> anyhow::Result<()> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, bytes) in [("data/a", &b"abc"[..]), ("data/b/c", b"abcde")] {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, name, bytes)?;
    }
    let archive = archive.into_inner()?;
    seeds.join("archive", " ", std::slice::from_ref(&archive))?;
    seeds.join("archive", "=", &[eas_fuzz::gz(&archive)])
}
