//! Groups of images in files: those of one group stay on one side of a split.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Component, Path};

use anyhow::{Context, ensure};
use regex::Regex;

use super::files::open;

/// The most bytes of a list of groups.
const MOST_BYTES: u64 = 256 << 20;

/// What says to which group an image belongs.
#[derive(Debug)]
pub(super) enum Groups {
    /// Nothing: each is one of its own.
    Own,
    /// The first group of a pattern of files' names.
    Pattern(Regex),
    /// A list of files and their groups.
    List(List),
}

/// A list of groups, by the files' paths within the folder of the data.
#[derive(Debug)]
pub(super) struct List {
    shown: String,
    groups: BTreeMap<String, Listed>,
}

#[derive(Debug)]
struct Listed {
    group: String,
    line: u64,
}

impl Groups {
    /// The group of a file in a folder of the data, where one is said. `within` is that folder, empty for
    /// the folder of the data itself.
    ///
    /// # Errors
    /// A name that the pattern doesn't match: its images would be on both sides of a split unnoticed.
    pub(super) fn of(&self, within: &str, file: &Path) -> anyhow::Result<Option<String>> {
        Ok(match self {
            Groups::Own => None,
            Groups::Pattern(pattern) => {
                let name = file.file_name().unwrap_or_default().to_string_lossy();
                let group = pattern.captures(&name).and_then(|found| found.get(1));
                let group = group.with_context(|| {
                    format!("expected a name that group = '{pattern}' matches, found `{name}`")
                })?;
                Some(group.as_str().to_owned())
            }
            Groups::List(list) => {
                let path = Path::new(within).join(file);
                let listed = path.to_str().and_then(|path| list.groups.get(path));
                listed.map(|listed| listed.group.clone())
            }
        })
    }

    /// Whether all files of a list are images of the data.
    ///
    /// # Errors
    /// The first that isn't among those which `is_image` knows.
    pub(super) fn check(&self, is_image: impl Fn(&Path) -> bool) -> anyhow::Result<()> {
        let Groups::List(List { shown, groups }) = self else { return Ok(()) };
        let missing = groups.iter().filter(|(path, _)| !is_image(Path::new(path)));
        if let Some((path, listed)) = missing.min_by_key(|(_, listed)| listed.line) {
            anyhow::bail!(
                "{shown}: line {}: expected the path of an image within the folder of the data, found \
                 `{path}`",
                listed.line
            );
        }
        Ok(())
    }
}

/// The pattern of an option, with a group in parentheses.
pub(super) fn pattern(text: &str) -> Result<Regex, String> {
    let pattern = Regex::new(text)
        .map_err(|error| format!("group: expected a regular expression: {error}"))?;
    match pattern.captures_len() {
        1 => Err(format!("group: expected a group in parentheses, found none in `{text}`")),
        _ => Ok(pattern),
    }
}

impl List {
    /// Reads a list: a line `PATH,GROUP` for each file, below a header or none (`file,group`).
    ///
    /// # Errors
    /// A file that can't be read or is too large; a line of other than two fields, or without one; a file
    /// that stands in two groups.
    pub(super) fn read(path: &Path) -> anyhow::Result<Self> {
        let shown = path.display().to_string();
        let file = open(path, "a list of files and their groups")?;
        let bytes = file.get_ref().metadata()?.len();
        ensure!(bytes <= MOST_BYTES, "{shown}: expected at most {MOST_BYTES} bytes, found {bytes}");
        let mut reader = csv::ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .from_reader(file.take(MOST_BYTES));
        let mut groups: BTreeMap<String, Listed> = BTreeMap::new();
        for record in reader.records() {
            let record = record.with_context(|| format!("{shown}: expected text in UTF-8"))?;
            let line = record.position().map_or(0, csv::Position::line);
            let place = || format!("{shown}: line {line}");
            ensure!(
                record.len() == 2 && !record[0].is_empty() && !record[1].is_empty(),
                "{}: expected a file and its group, `PATH,GROUP`, found `{}`",
                place(),
                record.iter().collect::<Vec<_>>().join(",")
            );
            let (file, group) = (record[0].to_owned(), record[1].to_owned());
            if line == 1 && (file.as_str(), group.as_str()) == ("file", "group") {
                continue;
            }
            let file = plain(&file).with_context(|| {
                format!(
                    "{}: expected a path within the folder of the data, found `{file}`",
                    place()
                )
            })?;
            if let Some(before) = groups.get(&file).filter(|before| before.group != group) {
                anyhow::bail!(
                    "{}: expected `{file}` in group `{}`, as in line {}, found `{group}`",
                    place(),
                    before.group,
                    before.line
                );
            }
            groups.insert(file, Listed { group, line });
        }
        Ok(List { shown, groups })
    }
}

/// A path within a folder, with one `/` between its parts and nothing else; nothing where it leads out.
fn plain(path: &str) -> Option<String> {
    let parts = Path::new(path).components().filter(|part| *part != Component::CurDir);
    let names = parts.map(|part| match part {
        Component::Normal(name) => name.to_str(),
        _ => None,
    });
    Some(names.collect::<Option<Vec<_>>>()?.join("/"))
}

/// Which groups are held out, each whole, in their order: those that bring the numbers of its classes'
/// images no further from their shares in sum, and leave images of each. A group is the classes of its
/// images.
pub(super) fn held_out(groups: &[Vec<usize>], shares: &[usize]) -> Vec<bool> {
    let mut left = vec![0; shares.len()];
    groups.iter().flatten().for_each(|class| left[*class] += 1);
    let mut taken = vec![0usize; shares.len()];
    let is_held_out = |group: &Vec<usize>| {
        let mut counts: BTreeMap<usize, usize> = BTreeMap::new();
        group.iter().for_each(|class| *counts.entry(*class).or_default() += 1);
        let off = |of: &dyn Fn(usize, usize) -> usize| -> usize {
            counts.iter().map(|(class, count)| of(*class, *count).abs_diff(shares[*class])).sum()
        };
        let leaves_some = counts.iter().all(|(class, count)| *count < left[*class]);
        let fits = off(&|class, count| taken[class] + count) <= off(&|class, _| taken[class]);
        if leaves_some && fits {
            for (class, count) in counts {
                taken[class] += count;
                left[class] -= count;
            }
        }
        leaves_some && fits
    };
    groups.iter().map(is_held_out).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use image::GrayImage;
    use tempfile::TempDir;

    use super::super::laws::build;

    /// A folder of two classes, of ten films of three frames each, and the data set with an option.
    fn films() -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        for class in ["cat", "dog"] {
            fs::create_dir_all(folder.path().join("train").join(class)).unwrap();
            for (film, frame) in (0..10).flat_map(|film| (0..3).map(move |frame| (film, frame))) {
                let name = format!("train/{class}/{class}{film}_{frame}.png");
                let value = (film * 3 + frame) as u8 + if class == "cat" { 0 } else { 100 };
                let picture = GrayImage::from_pixel(4, 4, image::Luma([value]));
                picture.save(folder.path().join(name)).unwrap();
            }
        }
        folder
    }

    fn parts(folder: &TempDir, option: &str) -> anyhow::Result<[super::super::Labelled; 2]> {
        let options = format!("path = '.'\nsize = 4\ncache = false\n{option}");
        let source = build("folder", &options)?;
        Ok([source.train(folder.path())?, source.test(folder.path())?])
    }

    #[test]
    fn a_list_makes_the_groups_that_a_pattern_makes() {
        let folder = films();
        let mut list = "file,group\n".to_owned();
        for class in ["dog", "cat"] {
            for (film, frame) in (0..10).flat_map(|film| (0..3).map(move |frame| (film, frame))) {
                list += &format!("\"train/{class}/{class}{film}_{frame}.png\",{class}{film}\n");
            }
        }
        fs::write(folder.path().join("groups.csv"), &list).unwrap();
        let listed = parts(&folder, "group_list = 'groups.csv'").unwrap();
        let matched = parts(&folder, "group = '^([^_]*)_'").unwrap();
        assert_eq!(listed, matched);
        assert_eq!(listed[1].len(), 12);
        assert_ne!(listed, parts(&folder, "").unwrap());
        // However a path is written.
        let longer = list.replace("\"train/", "\"./train//").replace("/cat/", "/./cat/");
        fs::write(folder.path().join("groups.csv"), longer).unwrap();
        assert_eq!(parts(&folder, "group_list = 'groups.csv'").unwrap(), listed);
        // One that isn't listed is a group of its own.
        let short = list.replace("\"train/cat/cat3_1.png\",cat3\n", "");
        fs::write(folder.path().join("groups.csv"), short).unwrap();
        let [train, test] = parts(&folder, "group_list = 'groups.csv'").unwrap();
        let number = |images: &super::super::Labelled| {
            let groups = images.groups().unwrap().iter();
            groups.collect::<std::collections::BTreeSet<_>>().len()
        };
        assert_eq!(number(&train) + number(&test), 21);
    }

    #[test]
    fn groups_that_cannot_stay_on_one_side_are_refused() {
        let folder = films();
        let told = |option| format!("{:#}", parts(&folder, option).unwrap_err());
        let partly = told("group = '^(cat[^_]*)_'");
        assert!(
            partly.ends_with(
                "_0.png: expected a name that group = '^(cat[^_]*)_' matches, found `dog0_0.png`"
            ),
            "{partly}"
        );
        fs::create_dir_all(folder.path().join("test/cat")).unwrap();
        let from = folder.path().join("train/cat/cat3_1.png");
        fs::rename(from, folder.path().join("test/cat/cat3_1.png")).unwrap();
        let straddling = told("group = '^([^_]*)_'");
        assert!(
            straddling
                .contains("cat3_0.png: expected the images of group `cat3` on one side, found ")
                && straddling.ends_with("test/cat/cat3_1.png too"),
            "{straddling}"
        );
        assert_eq!(parts(&folder, "").unwrap()[1].len(), 1);
    }

    #[test]
    fn a_list_that_does_not_fit_is_refused_by_its_line() {
        let folder = films();
        let path = folder.path().join("groups.csv");
        let refusal = |list: &[u8]| {
            fs::write(&path, list).unwrap();
            let told = parts(&folder, "group_list = 'groups.csv'").unwrap_err();
            format!("{told:#}").replace(&path.display().to_string(), "LIST")
        };
        assert_eq!(
            refusal(b"train/cat/cat0_0.png,a\ntrain/cat/cat0_7.png,a\n"),
            "LIST: line 2: expected the path of an image within the folder of the data, found \
             `train/cat/cat0_7.png`"
        );
        assert_eq!(
            refusal(b"train/cat/cat0_0.png,a\ntrain/cat/cat0_0.png,b\n"),
            "LIST: line 2: expected `train/cat/cat0_0.png` in group `a`, as in line 1, found `b`"
        );
        for wrong in ["/train/cat/cat0_0.png", "train/../train/cat/cat0_0.png"] {
            let expected = format!(
                "LIST: line 1: expected a path within the folder of the data, found `{wrong}`"
            );
            assert_eq!(refusal(format!("{wrong},a\n").as_bytes()), expected);
        }
        for wrong in ["train/cat/cat0_0.png", "train/cat/cat0_0.png,", ",a", "a,b,c"] {
            let expected = format!(
                "LIST: line 1: expected a file and its group, `PATH,GROUP`, found `{wrong}`"
            );
            assert_eq!(refusal(wrong.as_bytes()), expected);
        }
        assert!(refusal(b"\xff,a\n").starts_with("LIST: expected text in UTF-8"));
        fs::remove_file(&path).unwrap();
        let told = parts(&folder, "group_list = 'groups.csv'").unwrap_err();
        assert!(format!("{told:#}").contains("groups.csv: expected a list of files"), "{told:#}");
        let both = "group = '(a)'\ngroup_list = 'groups.csv'";
        let told = parts(&folder, both).unwrap_err();
        assert!(
            told.to_string().contains("expected `group` or `group_list`, found both"),
            "{told}"
        );
    }
}
