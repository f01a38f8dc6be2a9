//! Plugins: what a crate registers at link time, and how a spec's table becomes one.
//!
//! [`inventory`](https://docs.rs/inventory) gathers the registrations of every linked crate in link
//! order, which differs between builds. A [`Registry`] sorts them by name and refuses duplicates,
//! so nothing depends on that order. Each crate that has plugins wraps [`Plugin`] in a newtype of
//! its own for `inventory::collect!`.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::Location;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// A TOML value that knows where it stands in its file, so that errors can point.
pub type Value<'a> = toml::Spanned<toml::de::DeValue<'a>>;

/// What a plugin makes of its options.
#[derive(Debug)]
pub struct Built<T: ?Sized> {
    /// All options as they were understood, defaults and presets written out: read again, they make
    /// the same implementation.
    pub options: toml::Table,
    /// The implementation.
    pub implementation: Box<T>,
}

type Build<T> = fn(Value<'_>) -> Result<Built<T>, toml::de::Error>;

/// One registered implementation of the trait `T`.
pub struct Plugin<T: ?Sized + 'static> {
    /// The name of its table in a spec.
    pub name: &'static str,
    /// What it does, in half a line.
    pub summary: &'static str,
    /// Its options as TOML: a line `key = default  # meaning` each. What `eas init` writes.
    pub options: &'static str,
    /// Where it was registered.
    pub declared: &'static Location<'static>,
    build: Build<T>,
}

impl<T: ?Sized + 'static> Plugin<T> {
    /// A plugin of this name; `build` makes it from the body of its table, usually by
    /// [`parse_options`] and [`resolved_options`].
    #[track_caller]
    pub const fn new(
        name: &'static str,
        summary: &'static str,
        options: &'static str,
        build: Build<T>,
    ) -> Self {
        Plugin { name, summary, options, declared: Location::caller(), build }
    }

    /// The implementation with these options.
    ///
    /// # Errors
    /// Options that the plugin doesn't take, with the place in the file.
    pub fn build(&self, options: Value<'_>) -> Result<Built<T>, toml::de::Error> {
        (self.build)(options)
    }
}

impl<T: ?Sized> fmt::Debug for Plugin<T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Plugin({} at {})", self.name, self.declared)
    }
}

/// Reads a plugin's options by serde.
///
/// # Errors
/// Whatever serde finds wrong, with the place in the file.
pub fn parse_options<S: DeserializeOwned>(options: Value<'_>) -> Result<S, toml::de::Error> {
    S::deserialize(toml::de::ValueDeserializer::from(options))
}

/// A plugin's options as they were understood, for [`Built::options`].
///
/// # Errors
/// Options that have no TOML form.
pub fn resolved_options<S: Serialize>(options: &S) -> Result<toml::Table, toml::de::Error> {
    toml::Table::try_from(options).map_err(serde::de::Error::custom)
}

/// Two plugins of one name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind} `{name}` is registered twice: at {first} and {second}")]
pub struct DuplicatePlugin {
    kind: &'static str,
    name: &'static str,
    first: String,
    second: String,
}

/// A name that no linked plugin has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct UnknownPlugin {
    /// What kind of plugin was looked for.
    pub kind: &'static str,
    /// The name asked for.
    pub name: String,
    /// The nearest name there is, if one is near.
    pub suggestion: Option<String>,
    /// Every name there is, in order.
    pub linked: Vec<&'static str>,
}

impl fmt::Display for UnknownPlugin {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "no {} named `{}`", self.kind, self.name)?;
        if let Some(suggestion) = &self.suggestion {
            write!(out, "; did you mean `{suggestion}`?")?;
        }
        write!(out, " (linked: {})", self.linked.join(", "))
    }
}

/// The linked plugins of one kind, by name.
#[derive(Debug)]
pub struct Registry<T: ?Sized + 'static> {
    kind: &'static str,
    plugins: BTreeMap<&'static str, &'static Plugin<T>>,
}

impl<T: ?Sized + 'static> Registry<T> {
    /// Gathers plugins; `kind` is what messages call them, such as `transform`.
    ///
    /// # Errors
    /// Two plugins of one name, with both places.
    pub fn collect(
        kind: &'static str,
        linked: impl IntoIterator<Item = &'static Plugin<T>>,
    ) -> Result<Self, DuplicatePlugin> {
        let mut plugins: BTreeMap<&'static str, &'static Plugin<T>> = BTreeMap::new();
        for plugin in linked {
            if let Some(first) = plugins.insert(plugin.name, plugin) {
                let mut places = [first.declared.to_string(), plugin.declared.to_string()];
                places.sort();
                let [first, second] = places;
                return Err(DuplicatePlugin { kind, name: plugin.name, first, second });
            }
        }
        Ok(Registry { kind, plugins })
    }

    /// The plugin of this name.
    ///
    /// # Errors
    /// There is none; the error suggests the nearest.
    pub fn get(&self, name: &str) -> Result<&'static Plugin<T>, UnknownPlugin> {
        self.plugins.get(name).copied().ok_or_else(|| {
            let linked: Vec<&'static str> = self.plugins.keys().copied().collect();
            let suggestion = nearest(name, linked.iter().copied()).map(str::to_owned);
            UnknownPlugin { kind: self.kind, name: name.to_owned(), suggestion, linked }
        })
    }

    /// What messages call these plugins.
    pub fn kind(&self) -> &'static str {
        self.kind
    }

    /// All plugins, by name.
    pub fn iter(&self) -> impl Iterator<Item = &'static Plugin<T>> + '_ {
        self.plugins.values().copied()
    }
}

/// The known word nearest to a misspelt one, if one is near enough to be meant.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let scored = known.into_iter().map(|name| (strsim::damerau_levenshtein(word, name), name));
    let near = scored.filter(|(distance, name)| *distance <= 1 + name.len() / 4);
    near.min().map(|(_, name)| name)
}
