//! `eas init`: a spec to begin with.

use std::fs::OpenOptions;
use std::io::Write;

use clap::ValueEnum;

use super::{QUICKSTART, bad_input};
use crate::args::{self, Template};
use crate::exit;
use crate::print;

fn text(template: Template) -> &'static str {
    match template {
        Template::Quickstart => QUICKSTART,
        Template::C10Plain => include_str!("../../../../specs/c10-plain.toml"),
        Template::C10Small => include_str!("../../../../specs/c10-small.toml"),
        Template::C10Quick => include_str!("../../../../specs/c10-quick.toml"),
        Template::C10ResidualQuick => {
            include_str!("../../../../specs/c10-residual-quick.toml")
        }
        Template::C10Densenet => include_str!("../../../../specs/c10-densenet.toml"),
        Template::C10DensenetQuick => include_str!("../../../../specs/c10-densenet-quick.toml"),
    }
}

pub(super) fn run(args: &args::Init) -> anyhow::Result<u8> {
    if args.list {
        let mut rows = vec![["template", "what it is"].map(str::to_owned).to_vec()];
        for template in Template::value_variants() {
            if let Some(value) = template.to_possible_value() {
                let help = value.get_help().map(ToString::to_string).unwrap_or_default();
                rows.push(vec![value.get_name().to_owned(), help]);
            }
        }
        print::result(&print::table(&rows));
        return Ok(exit::SUCCESS);
    }
    let path = args.path.display();
    let mut options = OpenOptions::new();
    if args.force {
        options.create(true).truncate(true);
    } else {
        options.create_new(true);
    }
    let mut file = options.write(true).open(&args.path).map_err(|error| {
        let hint = match error.kind() {
            std::io::ErrorKind::AlreadyExists => "; --force overwrites it",
            _ => "",
        };
        bad_input(format!("can't write {path}: {error}{hint}"))
    })?;
    file.write_all(text(args.template).as_bytes())?;
    print::result(&format!("Wrote {path}. Next: eas check {path}, then eas search {path}"));
    Ok(exit::SUCCESS)
}
