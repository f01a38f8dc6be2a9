//! What the data is, from a look at the files.

use std::fmt;
use std::path::{Path, PathBuf};

use eas_train::{Survey, data_sets, survey};

use crate::commands::bad_input;
use crate::fetch;

/// Sides that images of a folder are brought to.
const SIZES: [usize; 6] = [64, 48, 32, 24, 16, 8];

/// What was found: a data set and its options.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Detected {
    /// The data set's name.
    pub(crate) name: String,
    /// Its options, a line of TOML each, with what they are for.
    pub(crate) options: Vec<String>,
    /// What the run is called, to begin with.
    pub(super) title: String,
    /// Why it is taken for that.
    pub(super) why: String,
}

/// What marks a format: files of which at least one is there, within the folder that is named.
const MARKS: [(&str, &[&str]); 6] = [
    ("cifar10", &["cifar-10-batches-bin/data_batch_1.bin", "data_batch_1.bin"]),
    ("cifar100", &["cifar-100-binary/train.bin", "train.bin"]),
    ("svhn", &["svhn/train_32x32.mat", "train_32x32.mat"]),
    ("mnist", &["mnist/train-images-idx3-ubyte", "MNIST/raw/train-images-idx3-ubyte"]),
    (
        "fashion_mnist",
        &[
            "fashion_mnist/train-images-idx3-ubyte",
            "fashion-mnist/train-images-idx3-ubyte",
            "FashionMNIST/raw/train-images-idx3-ubyte",
        ],
    ),
    ("idx", &["train-images-idx3-ubyte"]),
];

/// Finds out what `text` names: `NAME` or `NAME=PATH` of a data set, or a path to files of some format.
///
/// # Errors
/// A path where no such files are, or several data sets.
pub(crate) fn detect(text: &str) -> anyhow::Result<Detected> {
    let registry = data_sets()?;
    let (name, path) = match text.split_once('=') {
        Some((name, path)) => (name, Some(path)),
        None => (text, None),
    };
    let is_path = path.is_none() && Path::new(text).exists();
    if !is_path && let Ok(plugin) = registry.get(name) {
        let takes_path = plugin.options.lines().any(|line| line.starts_with("path ="));
        let path = match path.map(absolute).transpose()? {
            Some(path) => Some(path),
            None if takes_path => {
                Some(fetch::default_path(name).ok_or_else(|| bad_input(fetch::advice(name)))?)
            }
            None => None,
        };
        return of(name, path, "as it is called");
    }
    let path = absolute(text)?;
    if !path.exists() {
        let near = eas_ir::nearest(name, registry.iter().map(|plugin| plugin.name));
        let hint = near.map_or(String::new(), |near| format!("; did you mean `{near}`?"));
        return Err(bad_input(format!("{text}: expected data or the name of a data set{hint}")));
    }
    if path.extension().is_some_and(|extension| extension == "npz") {
        return of("npz", Some(path), "a NumPy archive");
    }
    // One file of a data set stands for its folder.
    let folder = if path.is_file() { path.parent().unwrap_or(&path).to_owned() } else { path };
    let is_there = |mark: &&str| {
        [folder.join(mark), folder.join(format!("{mark}.gz"))]
            .into_iter()
            .find(|file| file.exists())
    };
    let found: Vec<(&str, PathBuf)> = MARKS
        .iter()
        .filter_map(|(name, marks)| Some((*name, marks.iter().find_map(&is_there)?)))
        .collect();
    match &found[..] {
        [(name, file)] => {
            let file = file.strip_prefix(&folder).unwrap_or(file).display().to_string();
            of(name, Some(folder), &format!("it holds {file}"))
        }
        [] => of("folder", Some(folder), ""),
        _ => {
            let shown = folder.display();
            let names: Vec<String> =
                found.iter().map(|(name, _)| format!("--data {name}={shown}")).collect();
            Err(bad_input(format!("{shown} holds several data sets: say {}", names.join(" or "))))
        }
    }
}

fn absolute(text: &str) -> anyhow::Result<PathBuf> {
    Ok(std::path::absolute(text)?)
}

/// A data set of this name and path.
fn of(name: &str, path: Option<PathBuf>, why: &str) -> anyhow::Result<Detected> {
    let mut detected = Detected {
        name: name.to_owned(),
        options: Vec::new(),
        title: name.to_owned(),
        why: why.to_owned(),
    };
    let Some(path) = path else { return Ok(detected) };
    let shown = path.to_str();
    let shown = shown.ok_or_else(|| bad_input(format!("{}: expected UTF-8", path.display())))?;
    detected.options.push(format!("path = {}", toml::Value::from(shown)));
    if ["folder", "npz", "idx"].contains(&name) {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        detected.title = title_of(&stem).unwrap_or(detected.title);
    }
    if name == "folder" {
        let found = survey(&path).map_err(bad_input)?.ok_or_else(|| {
            bad_input(format!(
                "{shown}: expected the files of CIFAR-10, CIFAR-100, SVHN or the MNIST family, an .npz \
                 file, or a folder for each class with PNG, JPEG or WebP images; found none of them"
            ))
        })?;
        let side = side_of(&found);
        let colour = if found.grey { "grey" } else { "rgb" };
        detected.why = format!(
            "it holds a folder for each class; shorter sides are {} pixels in the middle",
            found.side
        );
        detected.options.push(format!("size = {side}  # sides; the images have {}", found.side));
        detected.options.push(format!("colour = \"{colour}\""));
    }
    Ok(detected)
}

/// The side that images are brought to: none is made larger than it is, and 64 pixels are the most that
/// a search on a processor pays for.
fn side_of(found: &Survey) -> usize {
    SIZES.into_iter().find(|size| *size <= found.side).unwrap_or(SIZES[SIZES.len() - 1])
}

/// A text as the name of a run, where letters of it are left.
fn title_of(text: &str) -> Option<String> {
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' };
    let title: String = text.chars().take(32).map(plain).collect();
    let title = title.trim_matches('-').to_owned();
    (!title.is_empty()).then_some(title)
}

impl fmt::Display for Detected {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "[data.{}]", self.name)?;
        self.options.iter().try_for_each(|option| write!(out, "\n{option}"))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// What is found in a folder of these files, with `DIR` for it; or what is said.
    fn found(files: &[&str], text: &str) -> String {
        let folder = tempfile::tempdir().unwrap();
        for file in files {
            let path = folder.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, []).unwrap();
        }
        let shown = folder.path().to_str().unwrap();
        let told = match detect(&text.replace("DIR", shown)) {
            Ok(detected) => format!("{detected}: {}", detected.why),
            Err(error) => format!("error: {error:#}"),
        };
        told.replace(shown, "DIR")
    }

    #[test]
    fn a_format_is_known_by_its_files() {
        let cifar = "cifar-10-batches-bin/data_batch_1.bin";
        for (files, text, expected) in [
            (vec![cifar], "DIR", "[data.cifar10]\npath = \"DIR\": it holds cifar-10-"),
            (
                vec!["data_batch_1.bin"],
                "DIR",
                "[data.cifar10]\npath = \"DIR\": it holds data_batch",
            ),
            (
                vec!["data_batch_1.bin"],
                "DIR/data_batch_1.bin",
                "[data.cifar10]\npath = \"DIR\": it",
            ),
            (
                vec!["cifar-100-binary/train.bin"],
                "DIR",
                "[data.cifar100]\npath = \"DIR\": it holds",
            ),
            (
                vec!["train_32x32.mat"],
                "DIR",
                "[data.svhn]\npath = \"DIR\": it holds train_32x32.mat",
            ),
            (
                vec!["train-images-idx3-ubyte.gz"],
                "DIR",
                "[data.idx]\npath = \"DIR\": it holds train-images-idx3-ubyte.gz",
            ),
            (
                vec!["FashionMNIST/raw/train-images-idx3-ubyte"],
                "DIR",
                "[data.fashion_mnist]\npath = \"DIR\": it holds FashionMNIST/raw",
            ),
            (vec!["some.npz"], "DIR/some.npz", "[data.npz]\npath = \"DIR/some.npz\": a NumPy"),
            (vec![], "cifar10=DIR", "[data.cifar10]\npath = \"DIR\": as it is called"),
            (vec![], "fashion_mnist_subset", "[data.fashion_mnist_subset]: as it is called"),
            (
                vec![cifar, "mnist/train-images-idx3-ubyte"],
                "DIR",
                "error: DIR holds several data sets: say --data cifar10=DIR or --data mnist=DIR",
            ),
            (
                vec!["notes.txt"],
                "DIR",
                "error: DIR: expected the files of CIFAR-10, CIFAR-100, SVHN",
            ),
            (
                vec!["cat/broken.png"],
                "DIR",
                "error: DIR/cat/broken.png: expected a PNG, JPEG or WebP",
            ),
            (
                vec![],
                "cifar_10",
                "error: cifar_10: expected data or the name of a data set; did you mean `cifar10`?",
            ),
        ] {
            let told = found(&files, text);
            assert!(told.starts_with(expected), "{files:?}, {text}: {told}");
        }
    }

    #[test]
    fn no_image_is_made_larger() {
        for (side, expected) in [(500, 64), (64, 64), (63, 48), (32, 32), (20, 16), (3, 8)] {
            assert_eq!(side_of(&Survey { images: 1, side, grey: false }), expected, "{side}");
        }
    }

    #[test]
    fn a_title_is_the_name_of_a_run() {
        assert_eq!(title_of("my flowers (2)"), Some("my-flowers--2".to_owned()));
        assert_eq!(title_of("..."), None);
        assert_eq!(title_of("größe"), Some("gr--e".to_owned()));
    }
}
