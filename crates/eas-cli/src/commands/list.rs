//! `eas list`: what is linked into this binary.

use eas_controller::controllers;
use eas_ir::Registry;
use eas_train::data_sets;
use eas_transform::{spaces, transforms};
use serde::Serialize;

use crate::args;
use crate::exit;
use crate::print;

/// One plugin, as listed.
#[derive(Serialize)]
struct Listed {
    kind: &'static str,
    name: &'static str,
    summary: &'static str,
    options: &'static str,
    declared: String,
}

fn listed<T: ?Sized>(registry: &Registry<T>) -> Vec<Listed> {
    let kind = registry.kind();
    let entry = |plugin: &eas_ir::Plugin<T>| Listed {
        kind,
        name: plugin.name,
        summary: plugin.summary,
        options: plugin.options,
        declared: format!("{}:{}", plugin.declared.file(), plugin.declared.line()),
    };
    registry.iter().map(entry).collect()
}

pub(super) fn run(args: &args::List) -> anyhow::Result<u8> {
    let mut all = listed(&transforms()?);
    all.extend(listed(&spaces()?));
    all.extend(listed(&controllers()?));
    all.extend(listed(&data_sets()?));
    if args.json {
        print::json(&all);
        return Ok(exit::SUCCESS);
    }
    let mut rows = vec![["kind", "name", "what it is", "declared at"].map(str::to_owned).to_vec()];
    rows.extend(all.into_iter().map(|plugin| {
        vec![
            plugin.kind.to_owned(),
            plugin.name.to_owned(),
            plugin.summary.to_owned(),
            plugin.declared,
        ]
    }));
    print::result(&print::table(&rows));
    print::result(
        "\nA plugin's crate must be named in the binary that links it: `use my_plugin as _;`",
    );
    Ok(exit::SUCCESS)
}
