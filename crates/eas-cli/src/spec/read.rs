//! From text to a plan.

use std::path::Path;

use anyhow::ensure;
use eas_controller::{Halving, controllers};
use eas_ir::{Built, Bytes, Registry};
use eas_train::{DataSource, Recipe, RecipeSpec, data_sets};
use eas_transform::{
    Problem as StartProblem, Refusal, SearchSpace, Transforms, spaces, transforms,
};
use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::errors::{Problem, Source, SpecErrors, in_words, path_at, place_of, quoted_entry};
use super::tables::{
    DataKey, Duration, FINAL, FinalTable, ParentKey, RunTable, SCHEMA, START, StageTable,
    StoreTable, TOP, WeightsKey, default_start,
};
use crate::fetch;
use crate::plan::{
    FinalWeights, Finals, Named, Plan, Promotion, Running, Saturation, Stage, StageParent, Storage,
};

type Value<'a> = Spanned<DeValue<'a>>;

/// The most trials that one stage may ask for, or the finals.
pub(crate) const MOST_TRIALS: usize = 1_000_000;
/// The most networks that a stage promotes, and fresh seeds of each.
const MOST_PROMOTED: usize = 1000;
/// The most rounds of training a start network.
const MOST_ROUNDS: usize = 1000;
/// The most epochs of one trial: far above any real one, and so few that sums of them are numbers.
const MOST_EPOCHS: usize = 1_000_000;

/// Reads a spec, with `--set KEY=VALUE` arguments laid over it, and resolves it against the linked
/// plugins. `name` is what messages call the file; relative paths start at `directory`. The data set is
/// described and the start network built here, while the places of their keys are known.
///
/// # Errors
/// Everything that is found wrong, each with its place.
pub fn read_plan(
    name: &str,
    text: &str,
    set: &[String],
    directory: &Path,
) -> Result<Plan, SpecErrors> {
    let mut source = Source { name: name.to_owned(), text: text.to_owned(), set: Vec::new() };
    let mut place = text.len() + 1;
    for argument in set {
        source.set.push((place, argument.clone()));
        place += argument.len() + 1;
    }
    let syntax = |error: toml::de::Error| {
        let path = String::new();
        let problem = Problem { span: error.span(), path, message: error.message().to_owned() };
        source.errors(&[problem])
    };
    let mut table = DeTable::parse(text).map_err(syntax)?.into_inner();
    // Each argument is read behind as many spaces as there are characters before it, so that its
    // spans lie behind the file's.
    let padded: Vec<String> =
        source.set.iter().map(|(start, text)| " ".repeat(*start) + &as_toml(text)).collect();
    for (padded, (start, argument)) in padded.iter().zip(&source.set) {
        let laid = DeTable::parse(padded).map_err(|error| {
            let message = format!("expected KEY=VALUE ({})", error.message());
            let span = Some(*start..start + argument.len());
            source.errors(&[Problem { span, path: String::new(), message }])
        })?;
        if let Err(problem) = overlay(&mut table, laid.into_inner(), "") {
            return Err(source.errors(&[problem]));
        }
    }
    let mut reader = Reader { whole: table.clone(), problems: Vec::new() };
    let plan = reader.plan(table, directory);
    match plan {
        Some(plan) if reader.problems.is_empty() => Ok(plan),
        _ => Err(source.errors(&reader.problems)),
    }
}

/// `key=value` as a line of TOML: a value that isn't TOML is a string, as shells take quotes away.
pub(crate) fn as_toml(argument: &str) -> String {
    let Some((key, value)) = argument.split_once('=') else { return argument.to_owned() };
    let parses = DeValue::parse(value.trim()).is_ok();
    if parses { format!("{key}={value}") } else { format!("{key}={}", toml::Value::from(value)) }
}

/// Lays one table over another: values replace values, tables are joined, and a number names an entry
/// of a list.
fn overlay<'a>(below: &mut DeTable<'a>, above: DeTable<'a>, path: &str) -> Result<(), Problem> {
    for (key, value) in above {
        let place = key.span();
        let path = join(path, key.get_ref());
        match below.get_mut(key.get_ref().as_ref()) {
            Some(old) => overlay_value(old, value, &path, place)?,
            None => {
                below.insert(key, value);
            }
        }
    }
    Ok(())
}

fn overlay_value<'a>(
    old: &mut Value<'a>,
    new: Value<'a>,
    path: &str,
    place: std::ops::Range<usize>,
) -> Result<(), Problem> {
    let span = new.span();
    match (old.get_mut(), new.into_inner()) {
        (DeValue::Table(below), DeValue::Table(above)) => overlay(below, above, path),
        (DeValue::Array(list), DeValue::Table(above)) => {
            for (key, value) in above {
                let path = join(path, key.get_ref());
                let length = list.len();
                let index = key.get_ref().parse::<usize>().ok();
                let Some(entry) = index.and_then(|index| list.get_mut(index)) else {
                    let expected = match length {
                        0 => "an empty list has no entries to set".to_owned(),
                        1 => "expected entry 0 of the list".to_owned(),
                        _ => format!("expected an entry from 0 to {} of the list", length - 1),
                    };
                    let message = format!("{expected}, found `{}`", key.get_ref());
                    return Err(Problem { span: Some(key.span()), path, message });
                };
                overlay_value(entry, value, &path, place.clone())?;
            }
            Ok(())
        }
        (_, new) => {
            *old = Spanned::new(span, new);
            Ok(())
        }
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// Reads tables and gathers problems.
struct Reader<'a> {
    /// The whole spec, to find the path of a place.
    whole: DeTable<'a>,
    problems: Vec<Problem>,
}

impl<'a> Reader<'a> {
    fn plan(&mut self, mut table: DeTable<'a>, directory: &Path) -> Option<Plan> {
        self.check_schema(&table)?;
        for (key, _) in &table {
            if !TOP.contains(&key.get_ref().as_ref()) {
                let hint = match eas_ir::nearest(key.get_ref(), TOP) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("there are: {}", TOP.join(", ")),
                };
                let message = format!("unknown key `{}`; {hint}", key.get_ref());
                self.problem(Some(key.span()), key.get_ref(), message);
            }
        }
        let name = self.value::<String>(&mut table, "name").map(|name| name.0);
        if let Some(name) = &name {
            self.check_name(name, &table);
        }
        let seed = match self.value::<u64>(&mut table, "seed") {
            Some((seed, span)) if i64::try_from(seed).is_err() => {
                // TOML has no larger numbers, so the plan could not be written down.
                let message = format!("expected a seed of at most {}, found {seed}", i64::MAX);
                self.problem(Some(span), "seed", message);
                1
            }
            Some((seed, _)) => seed,
            None => 1,
        };
        let registries = (data_sets(), spaces(), transforms(), controllers());
        let (data_sets, spaces, transforms, controllers) = match registries {
            (Ok(data), Ok(spaces), Ok(transforms), Ok(controllers)) => {
                (data, spaces, transforms, controllers)
            }
            (data, spaces, transforms, controllers) => {
                let duplicates = [data.err(), spaces.err(), transforms.err(), controllers.err()];
                for duplicate in duplicates.into_iter().flatten() {
                    self.problem(None, "", duplicate.to_string());
                }
                return None;
            }
        };
        let data_table = table.remove("data");
        let data = self.one(data_table, "data", &data_sets);
        let space_table = table.remove("space");
        let space = self.one(space_table, "space", &spaces);
        let transform_table = table.remove("transform");
        let before = self.problems.len();
        let chosen = self.any(transform_table, "transform", &transforms);
        // One that is misspelt isn't missing, too.
        let sound = self.problems.len() == before;
        let controller_table = table.remove("controller");
        let controller = self.one(controller_table, "controller", &controllers);
        let (saturation, start) = self.start(&mut table);
        let child = self.recipe(&mut table, "child", Recipe::inherited(), &[]);
        let (finals_keys, finals_recipe) = self.finals(&mut table, &child);
        let stages = self.stages(&mut table, sound.then_some(chosen.as_slice()), child.epochs);
        let run =
            self.value::<RunTable>(&mut table, "run").map_or_else(RunTable::default, |run| run.0);
        let store = self.value::<StoreTable>(&mut table, "store");
        let store = store.map_or_else(StoreTable::default, |store| store.0);

        let (data, space, controller) = (data?, space?, controller?);
        self.check_start(&data, &space, child.batch, directory);
        let mut transforms_text = toml::Table::new();
        let mut named = Vec::new();
        for Named { name, options, implementation } in chosen {
            transforms_text.insert(name.clone(), options.into());
            named.push((name, implementation));
        }
        let finals = Finals {
            networks: finals_keys.networks,
            recipe: finals_recipe,
            weights: match finals_keys.weights {
                WeightsKey::Inherited => FinalWeights::Inherited,
                WeightsKey::Scratch => FinalWeights::Scratch,
            },
            with_validation: finals_keys.data == DataKey::TrainAndValidation,
            compare: finals_keys.compare,
            equal_compute: finals_keys.equal_compute,
            ranked: finals_keys.ranked,
        };
        let name = name.unwrap_or_else(|| data.name.clone());
        let text = plan_text(
            &name,
            seed,
            &data,
            &space,
            transforms_text,
            &controller,
            &[
                ("start", joined(&saturation, &start)?),
                ("child", toml::Table::try_from(&child).ok()?),
                ("final", joined(&finals_keys, &finals.recipe)?),
                ("run", toml::Table::try_from(&run).ok()?),
                ("store", toml::Table::try_from(store).ok()?),
            ],
            &stages,
        )?;
        let stages = stages
            .into_iter()
            .map(|stage| Stage {
                batches: stage.batches,
                networks: stage.networks,
                lag: stage.lag,
                actions: stage.actions,
                parent: match stage.parent {
                    ParentKey::Start => StageParent::Start,
                    ParentKey::Best => StageParent::Best,
                    ParentKey::Frontier => StageParent::Frontier,
                },
                halving: stage.halving,
                repeat: stage.repeat,
                promotion: stage.promote,
            })
            .collect();
        Some(Plan {
            name,
            seed,
            directory: directory.to_owned(),
            text,
            data,
            space,
            transforms: Transforms::new(named),
            controller,
            start,
            saturation,
            child,
            stages,
            finals,
            deadline: run.deadline.map(|Duration(limit)| limit),
            running: Running {
                workers: run.workers,
                devices: run.devices.clone(),
                timeout: run.timeout.map(|Duration(limit)| limit),
                silence: run.silence.0,
                checkpoint: run.checkpoint.0,
                retries: run.retries,
                memory: run.memory.map(|Bytes(limit)| limit),
            },
            storage: Storage { keep_best: store.keep_best, size: store.size.0 },
        })
    }

    fn problem(&mut self, span: Option<std::ops::Range<usize>>, path: &str, message: String) {
        self.problems.push(Problem { span, path: path.to_owned(), message });
    }

    fn check_schema(&mut self, table: &DeTable<'a>) -> Option<()> {
        let mut copy = table.clone();
        match self.value::<u32>(&mut copy, "schema") {
            Some((SCHEMA, _)) => Some(()),
            Some((found, span)) => {
                let message = if found > SCHEMA {
                    format!(
                        "expected {SCHEMA}, found {found}: the spec is for a newer version of EAS"
                    )
                } else {
                    format!("expected {SCHEMA}, found {found}")
                };
                self.problem(Some(span), "schema", message);
                None
            }
            None if table.contains_key("schema") => None,
            None => {
                let message = format!("expected `schema = {SCHEMA}` at the top");
                self.problem(None, "schema", message);
                Some(())
            }
        }
    }

    fn check_name(&mut self, name: &str, table: &DeTable<'a>) {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let usable = !name.is_empty() && name.len() <= 64 && name.chars().all(plain);
        if !usable || name.starts_with('.') {
            let span = table.get("name").map(Spanned::span).or_else(|| self.span_of("name"));
            let message = format!(
                "expected up to 64 letters, digits, `-`, `_` and `.`, not beginning with `.`, found \
                 {name:?}: it becomes a folder's name"
            );
            self.problem(span, "name", message);
        }
    }

    fn span_of(&self, key: &str) -> Option<std::ops::Range<usize>> {
        self.whole.get(key).map(Spanned::span)
    }

    /// serde's error with its place in the spec.
    fn serde_problem(&mut self, error: &toml::de::Error, within: &str) {
        self.serde_problem_among(error, within, &[]);
    }

    /// serde's error about a table that has keys which serde wasn't shown.
    fn serde_problem_among(&mut self, error: &toml::de::Error, within: &str, keys: &[&str]) {
        let Some(span) = error.span() else { return self.complaint(within, error.message()) };
        let span = quoted_entry(&self.whole, &span, error.message()).unwrap_or(span);
        let path = path_at(&self.whole, span.start).join(".");
        let path = if path.is_empty() { within.to_owned() } else { path };
        // What serde says of a value is no list of keys.
        let keys = if error.message().starts_with("unknown field") { keys } else { &[] };
        let keys: String = keys.iter().map(|key| format!("`{key}`, ")).collect();
        let expected = format!("expected one of {keys}");
        let message = in_words(&error.message().replacen("expected one of ", &expected, 1));
        self.problems.push(Problem { span: Some(span), path, message });
    }

    /// What a plugin says of its options: it points at the key that the message begins with, where the
    /// spec has it, else at the plugin's table.
    fn complaint(&mut self, table: &str, message: &str) {
        let key = message.split([':', ' ']).next().unwrap_or_default();
        let keys: Vec<&str> = table.split('.').chain(key.split('.')).collect();
        let span = place_of(&self.whole, &keys);
        let written = span.as_ref().map(|span| path_at(&self.whole, span.start).join("."));
        let path = written.unwrap_or_else(|| table.to_owned());
        // `key = 3: expected 1 to 2` says what the line beneath it shows.
        let message = match message.split_once(": ") {
            Some((_, rest)) if path != table && rest.starts_with("expected") => rest,
            _ => message,
        };
        self.problems.push(Problem { span, path, message: message.to_owned() });
    }

    /// Whether the data is there, and the space has a network for it.
    fn check_start(
        &mut self,
        data: &Named<dyn DataSource>,
        space: &Named<dyn SearchSpace>,
        batch: usize,
        directory: &Path,
    ) {
        let (data_table, space_table) = (join("data", &data.name), join("space", &space.name));
        let source = &data.implementation;
        let known = source.describe(directory).and_then(|known| {
            let options = source.options();
            options.check(&known)?;
            ensure!(
                options.validation > 0,
                "validation: expected at least 1 image to compare networks on, found 0"
            );
            ensure!(
                known.classes.len() > 1,
                "expected two classes or more to tell apart, found {}",
                known.classes.join(", ")
            );
            ensure!(
                known.test_images > 0,
                "expected images to test on too, found none; the report compares the best network with \
                 others on them"
            );
            Ok(known)
        });
        let known = match known {
            Ok(known) => known,
            Err(error) => return self.complaint(&data_table, &format!("{error:#}")),
        };
        let (input, classes) = (known.shape, known.classes.len());
        let problem = StartProblem { input, classes, directory: directory.to_owned() };
        match space.implementation.start(&problem) {
            Err(error) => self.complaint(&space_table, &format!("{error:#}")),
            Ok(start) => match space.implementation.admits(&start, batch) {
                Err(Refusal::Limit { what, limit, found }) => {
                    let message = format!(
                        "limits.{what}: expected at least the {found} of the start network, found {limit}"
                    );
                    self.complaint(&space_table, &message);
                }
                Err(Refusal::Rules(rules)) => self.complaint(&space_table, &rules.to_string()),
                Ok(_) => {}
            },
        }
    }

    fn value<T: DeserializeOwned>(
        &mut self,
        table: &mut DeTable<'a>,
        key: &str,
    ) -> Option<(T, std::ops::Range<usize>)> {
        let value = table.remove(key)?;
        let span = value.span();
        match eas_ir::parse_options::<T>(value) {
            Ok(value) => Some((value, span)),
            Err(error) => {
                self.serde_problem(&error, key);
                None
            }
        }
    }

    /// The plugins of a table of plugins, in the order of their names.
    fn any<T: ?Sized>(
        &mut self,
        table: Option<Value<'a>>,
        kind: &str,
        registry: &Registry<T>,
    ) -> Vec<Named<T>> {
        let Some(value) = table else { return Vec::new() };
        let span = value.span();
        let DeValue::Table(chosen) = value.into_inner() else {
            let message = format!("expected a table `[{kind}.NAME]`");
            self.problem(Some(span), kind, message);
            return Vec::new();
        };
        let mut built = Vec::new();
        for (key, options) in chosen {
            let path = join(kind, key.get_ref());
            let plugin = match registry.get(key.get_ref()) {
                Ok(plugin) => plugin,
                Err(unknown) => {
                    let mut message = unknown.to_string();
                    if unknown.suggestion.is_none() {
                        message +=
                            "; a plugin's crate must be named in the binary: `use my_plugin as _;`";
                    }
                    self.problem(Some(key.span()), &path, message);
                    continue;
                }
            };
            if !options.get_ref().is_table() {
                let message = format!("expected a table `[{path}]`");
                self.problem(Some(options.span()), &path, message);
                continue;
            }
            match plugin.build(with_default_path(options, plugin.name, plugin.options)) {
                Ok(Built { options, implementation }) => {
                    let name = key.get_ref().to_string();
                    built.push(Named { name, options, implementation });
                }
                Err(error) => {
                    let needs_path = error.message().contains("missing field `path`");
                    if needs_path {
                        let message = fetch::advice(plugin.name);
                        self.problem(Some(key.span()), &path, message);
                    } else {
                        self.serde_problem(&error, &path);
                    }
                }
            }
        }
        built
    }

    /// The one plugin of a table that must have one.
    fn one<T: ?Sized>(
        &mut self,
        table: Option<Value<'a>>,
        kind: &str,
        registry: &Registry<T>,
    ) -> Option<Named<T>> {
        let names = || registry.iter().map(|plugin| plugin.name).collect::<Vec<_>>().join(", ");
        let Some(value) = table else {
            let message = format!("expected a table `[{kind}.NAME]` (linked: {})", names());
            self.problem(None, kind, message);
            return None;
        };
        if let DeValue::Table(chosen) = value.get_ref()
            && chosen.len() != 1
        {
            let found: Vec<String> = chosen.keys().map(|key| key.get_ref().to_string()).collect();
            let found = if found.is_empty() { "none".to_owned() } else { found.join(", ") };
            let message = format!("expected one table `[{kind}.NAME]`, found {found}");
            let second = chosen.keys().nth(1).map_or_else(|| value.span(), Spanned::span);
            self.problem(Some(second), kind, message);
            return None;
        }
        self.any(Some(value), kind, registry).pop()
    }

    /// The recipe of a table, which has `others` among its keys.
    fn recipe(
        &mut self,
        table: &mut DeTable<'a>,
        key: &str,
        default: Recipe,
        others: &[&str],
    ) -> Recipe {
        let Some(value) = table.remove(key) else { return default };
        let keys = value.get_ref().as_table().cloned();
        match eas_ir::parse_options::<RecipeSpec>(value) {
            Ok(spec) => {
                let recipe = spec.resolve(default);
                let checked = recipe.check().and_then(|()| match recipe.epochs {
                    0..=MOST_EPOCHS => Ok(()),
                    epochs => {
                        Err(("epochs", format!("expected at most {MOST_EPOCHS}, found {epochs}")))
                    }
                });
                if let Err((wrong, message)) = checked {
                    let span = keys.as_ref().and_then(|keys| keys.get(wrong)).map(Spanned::span);
                    self.problem(span, &join(key, wrong), message);
                }
                recipe
            }
            Err(error) => {
                self.serde_problem_among(&error, key, others);
                default
            }
        }
    }

    /// A table that holds keys of its own, `names`, among those of a recipe.
    fn own_and_recipe<T: Default + DeserializeOwned>(
        &mut self,
        table: &mut DeTable<'a>,
        key: &str,
        names: &[&str],
        default: Recipe,
    ) -> (T, Recipe) {
        let mut own = DeTable::new();
        if let Some(DeValue::Table(keys)) = table.get_mut(key).map(Spanned::get_mut) {
            for name in names {
                if let Some((key, value)) = keys.remove_entry(*name) {
                    own.insert(key, value);
                }
            }
        }
        let recipe = self.recipe(table, key, default, names);
        let place = own.values().next().map_or(0..0, Spanned::span);
        let own = Spanned::new(place, DeValue::Table(own));
        let own = eas_ir::parse_options::<T>(own).unwrap_or_else(|error| {
            self.serde_problem(&error, key);
            T::default()
        });
        (own, recipe)
    }

    fn start(&mut self, table: &mut DeTable<'a>) -> (Saturation, Recipe) {
        let (own, recipe) =
            self.own_and_recipe::<Saturation>(table, "start", &START, default_start());
        if own.rounds > MOST_ROUNDS {
            let message = format!("expected at most {MOST_ROUNDS} rounds, found {}", own.rounds);
            self.problem(place_of(&self.whole, &["start", "rounds"]), "start.rounds", message);
        }
        if !(0.0..1.0).contains(&own.gain) {
            let message = format!("expected at least 0 and less than 1, found {}", own.gain);
            self.problem(place_of(&self.whole, &["start", "gain"]), "start.gain", message);
        }
        (own, recipe)
    }

    fn finals(&mut self, table: &mut DeTable<'a>, child: &Recipe) -> (FinalTable, Recipe) {
        let (own, recipe) =
            self.own_and_recipe::<FinalTable>(table, "final", &FINAL, child.clone());
        if !(1..=MOST_TRIALS).contains(&own.networks) {
            let message = format!("expected 1 to {MOST_TRIALS} networks, found {}", own.networks);
            self.problem(place_of(&self.whole, &["final", "networks"]), "final.networks", message);
        }
        if own.ranked > MOST_PROMOTED {
            let message = format!("expected at most {MOST_PROMOTED}, found {}", own.ranked);
            self.problem(place_of(&self.whole, &["final", "ranked"]), "final.ranked", message);
        }
        (own, recipe)
    }

    fn stages(
        &mut self,
        table: &mut DeTable<'a>,
        transforms: Option<&[Named<dyn eas_transform::Transform>]>,
        epochs: usize,
    ) -> Vec<StageTable> {
        let Some(value) = table.remove("stage") else {
            let message = "expected at least one `[[stage]]`".to_owned();
            self.problem(None, "stage", message);
            return Vec::new();
        };
        let span = value.span();
        let list = match value.into_inner() {
            DeValue::Array(list) if !list.is_empty() => list,
            _ => {
                let message = "expected tables, each headed `[[stage]]`".to_owned();
                self.problem(Some(span), "stage", message);
                return Vec::new();
            }
        };
        let mut stages = Vec::new();
        for (index, value) in list.into_iter().enumerate() {
            let path = format!("stage.{index}");
            let keys = value.get_ref().as_table().cloned().unwrap_or_default();
            let place = |key: &str| keys.get(key).map_or_else(|| value.span(), Spanned::span);
            let stage = match eas_ir::parse_options::<StageTable>(value.clone()) {
                Ok(stage) => stage,
                Err(error) => {
                    self.serde_problem(&error, &path);
                    continue;
                }
            };
            let Halving { rungs, eta } = &stage.halving;
            let rises = [0].iter().chain(rungs).zip(rungs).all(|(before, rung)| before < rung);
            let wrong = if !rises || rungs.last().is_some_and(|last| *last >= epochs) {
                let found = format!("found {rungs:?}");
                Some(("rungs", format!("expected rising epochs below a child's {epochs}, {found}")))
            } else if !(2..=MOST_TRIALS).contains(eta) {
                Some(("eta", format!("expected 2 to {MOST_TRIALS}, found {eta}")))
            } else {
                None
            };
            if let Some((key, message)) = wrong {
                let written = keys
                    .get("halving")
                    .and_then(|table| table.get_ref().as_table()?.get(key).map(Spanned::span));
                let span = written.unwrap_or_else(|| place("halving"));
                self.problem(Some(span), &join(&path, &format!("halving.{key}")), message);
                continue;
            }
            if stage.lag > 0 && stage.parent == ParentKey::Frontier {
                let message = format!(
                    "expected 0 with parent = \"frontier\", whose batches each wait for the best of those \
                     before, found {}",
                    stage.lag
                );
                self.problem(Some(place("lag")), &join(&path, "lag"), message);
            }
            let trials = stage.batches.saturating_mul(stage.halving.trials(stage.networks));
            for (key, number) in [("batches", stage.batches), ("networks", stage.networks)] {
                if number == 0 || trials > MOST_TRIALS {
                    let message =
                        format!("expected 1 to {MOST_TRIALS} trials in a stage, found {trials}");
                    self.problem(Some(place(key)), &join(&path, key), message);
                    break;
                }
            }
            let Promotion { candidates, seeds, epochs } = stage.promote;
            for (key, number, most) in [
                ("candidates", candidates, MOST_PROMOTED),
                ("seeds", seeds, MOST_PROMOTED),
                ("epochs", epochs, MOST_EPOCHS),
            ] {
                if number > most || (number == 0 && key == "candidates") {
                    let least = usize::from(key == "candidates");
                    let message = format!("expected {least} to {most}, found {number}");
                    let written = keys
                        .get("promote")
                        .and_then(|table| table.get_ref().as_table()?.get(key).map(Spanned::span));
                    let span = written.unwrap_or_else(|| place("promote"));
                    self.problem(Some(span), &join(&path, &format!("promote.{key}")), message);
                }
            }
            if stage.actions.is_empty() {
                let message = "expected at least one action, such as \"widen x4\"".to_owned();
                self.problem(Some(place("actions")), &join(&path, "actions"), message);
            }
            let entries = keys.get("actions").and_then(|list| list.get_ref().as_array());
            for (entry, action) in stage.actions.iter().enumerate() {
                let Some(transforms) = transforms else { break };
                let names = || transforms.iter().map(|named| named.name.as_str());
                if !names().any(|name| name == action.transform) {
                    let hint = match eas_ir::nearest(&action.transform, names()) {
                        Some(near) => format!("did you mean `{near}`?"),
                        None => format!("add a table `[transform.{}]`", action.transform),
                    };
                    let message =
                        format!("the spec has no transform named `{}`; {hint}", action.transform);
                    let written = entries.and_then(|list| list.get(entry)).map(Spanned::span);
                    let span = written.unwrap_or_else(|| place("actions"));
                    self.problem(Some(span), &join(&path, &format!("actions.{entry}")), message);
                }
            }
            stages.push(stage);
        }
        stages
    }
}

/// The options with the path where data sets are, if a plugin takes one and the spec has none.
fn with_default_path<'a>(options: Value<'a>, name: &str, known: &str) -> Value<'a> {
    let span = options.span();
    let takes_path = known.lines().any(|line| line.starts_with("path ="));
    let mut options = options;
    if let (true, DeValue::Table(table)) = (takes_path, options.get_mut())
        && !table.contains_key("path")
        && let Some(path) = fetch::default_path(name)
        && let Some(path) = path.to_str()
    {
        let value = Spanned::new(span.clone(), DeValue::String(path.to_owned().into()));
        table.insert(Spanned::new(span, "path".into()), value);
    }
    options
}

/// A table of its own keys and a recipe's.
fn joined(keys: &impl serde::Serialize, recipe: &Recipe) -> Option<toml::Table> {
    let mut text = toml::Table::try_from(keys).ok()?;
    text.extend(toml::Table::try_from(recipe).ok()?);
    Some(text)
}

/// The plan as a spec in which every default is visible.
#[expect(clippy::too_many_arguments, reason = "a plan's text has this many parts")]
fn plan_text(
    name: &str,
    seed: u64,
    data: &Named<dyn eas_train::DataSource>,
    space: &Named<dyn eas_transform::SearchSpace>,
    transforms: toml::Table,
    controller: &Named<dyn eas_controller::Controller>,
    tables: &[(&str, toml::Table)],
    stages: &[StageTable],
) -> Option<String> {
    let one = |name: &str, options: &toml::Table| {
        toml::Value::Table(toml::Table::from_iter([(name.to_owned(), options.clone().into())]))
    };
    let mut text = toml::Table::new();
    text.insert("schema".into(), i64::from(SCHEMA).into());
    text.insert("name".into(), name.into());
    text.insert("seed".into(), i64::try_from(seed).ok()?.into());
    text.insert("data".into(), one(&data.name, &data.options));
    text.insert("space".into(), one(&space.name, &space.options));
    text.insert("transform".into(), transforms.into());
    text.insert("controller".into(), one(&controller.name, &controller.options));
    for (key, table) in tables {
        text.insert((*key).into(), table.clone().into());
    }
    let stages: Result<Vec<toml::Value>, _> = stages.iter().map(toml::Value::try_from).collect();
    text.insert("stage".into(), stages.ok()?.into());
    toml::to_string(&text).ok()
}
