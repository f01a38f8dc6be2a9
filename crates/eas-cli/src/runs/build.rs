//! Which program made a run: resuming with another one may not give the same results.

use std::collections::BTreeMap;

use anyhow::Context;
use eas_controller::controllers;
use eas_ir::Registry;
use eas_train::data_sets;
use eas_transform::{spaces, transforms};
use serde::{Deserialize, Serialize};

use super::Digest;

/// A program.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Build {
    pub(crate) version: String,
    pub(crate) executable: Digest,
    /// Where each linked plugin is declared, by kind and name.
    pub(crate) plugins: BTreeMap<String, String>,
}

impl Build {
    /// This program.
    pub(crate) fn current() -> anyhow::Result<Self> {
        let path = std::env::current_exe().context("can't tell where this program is")?;
        let executable = Digest::of_file(&path)?;
        let mut plugins = BTreeMap::new();
        declared(&transforms()?, &mut plugins);
        declared(&spaces()?, &mut plugins);
        declared(&controllers()?, &mut plugins);
        declared(&data_sets()?, &mut plugins);
        let version = env!("CARGO_PKG_VERSION").to_owned();
        Ok(Build { version, executable, plugins })
    }

    /// What is different in another program, in words; nothing where it is the same.
    pub(crate) fn differences(&self, other: &Build) -> Vec<String> {
        let mut found = Vec::new();
        if self.version != other.version {
            found.push(format!("version {} instead of {}", other.version, self.version));
        }
        for (name, place) in &self.plugins {
            match other.plugins.get(name) {
                None => found.push(format!("no {name}, which was declared at {place}")),
                Some(now) if now != place => {
                    found.push(format!("{name} is declared at {now} instead of {place}"));
                }
                Some(_) => {}
            }
        }
        let added = other.plugins.keys().filter(|name| !self.plugins.contains_key(*name));
        found.extend(added.map(|name| format!("{name} is new")));
        if self.executable != other.executable {
            found.push("the executable was built anew".to_owned());
        }
        found
    }
}

fn declared<T: ?Sized>(registry: &Registry<T>, plugins: &mut BTreeMap<String, String>) {
    for plugin in registry.iter() {
        let place = format!("{}:{}", plugin.declared.file(), plugin.declared.line());
        plugins.insert(format!("{} `{}`", registry.kind(), plugin.name), place);
    }
}
