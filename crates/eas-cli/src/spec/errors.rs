//! What is wrong with a spec, and where.

use std::fmt;
use std::ops::Range;

use toml::de::{DeTable, DeValue};

/// The text of a spec and of the `--set` arguments behind it.
#[derive(Clone, Debug)]
pub(super) struct Source {
    /// How messages call the file.
    pub(super) name: String,
    pub(super) text: String,
    /// Each argument, and where it starts behind the file.
    pub(super) set: Vec<(usize, String)>,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    /// Where, in the source; nothing where it is what is missing.
    pub(super) span: Option<Range<usize>>,
    /// The key's path, `transform.widen.noise`.
    pub(super) path: String,
    pub(super) message: String,
}

/// Everything that is wrong with a spec: file, line and column, the key, what was expected, and a
/// suggestion where there is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpecErrors(Vec<String>);

impl SpecErrors {
    /// One message each.
    pub fn messages(&self) -> &[String] {
        &self.0
    }
}

impl fmt::Display for SpecErrors {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for SpecErrors {}

impl Source {
    pub(super) fn errors(&self, problems: &[Problem]) -> SpecErrors {
        SpecErrors(problems.iter().map(|problem| self.show(problem)).collect())
    }

    /// `file:line:column: key: message`, the line itself, and a mark under the place.
    fn show(&self, problem: &Problem) -> String {
        let key =
            if problem.path.is_empty() { String::new() } else { format!("{}: ", problem.path) };
        let Some(span) = &problem.span else {
            return format!("{}: {key}{}", self.name, problem.message);
        };
        let argument = self.set.iter().rfind(|(start, _)| *start <= span.start);
        let (place, line, column, width) = match argument {
            Some((start, text)) => {
                let column = (span.start - start).min(text.len());
                let width = span.len().min(text.len() - column);
                ("--set".to_owned(), text.as_str(), column, width)
            }
            None => {
                let start = self.text.floor_char_boundary(span.start.min(self.text.len()));
                let begin = self.text[..start].rfind('\n').map_or(0, |newline| newline + 1);
                let number = self.text[..start].matches('\n').count() + 1;
                let line = self.text[begin..].lines().next().unwrap_or("");
                let column = self.text[begin..start].chars().count();
                let place = format!("{}:{number}:{}", self.name, column + 1);
                (place, line, column, span.len().min(line.chars().count().saturating_sub(column)))
            }
        };
        let mark = format!("{}{}", " ".repeat(column), "^".repeat(width.max(1)));
        format!("{place}: {key}{}\n    {line}\n    {mark}", problem.message)
    }
}

/// The path of the innermost key whose key or value holds this place.
pub(super) fn path_at(table: &DeTable<'_>, place: usize) -> Vec<String> {
    for (key, value) in table {
        if key.span().contains(&place) {
            return vec![key.get_ref().to_string()];
        }
        if let Some(mut below) = path_within(value.get_ref(), value.span(), place) {
            below.insert(0, key.get_ref().to_string());
            return below;
        }
    }
    Vec::new()
}

fn path_within(value: &DeValue<'_>, span: Range<usize>, place: usize) -> Option<Vec<String>> {
    match value {
        DeValue::Table(table) => {
            let below = path_at(table, place);
            (!below.is_empty() || span.contains(&place)).then_some(below)
        }
        DeValue::Array(array) => {
            let found = array.iter().enumerate().find_map(|(index, value)| {
                let mut below = path_within(value.get_ref(), value.span(), place)?;
                below.insert(0, index.to_string());
                Some(below)
            });
            found.or_else(|| span.contains(&place).then(Vec::new))
        }
        _ => span.contains(&place).then(Vec::new),
    }
}

/// The place of the value at this path, as far down as the spec has it written out; `None` where not
/// even its first key is there.
pub(super) fn place_of(table: &DeTable<'_>, path: &[&str]) -> Option<Range<usize>> {
    let (first, rest) = path.split_first()?;
    let (key, value) = table.get_key_value(*first)?;
    match value.get_ref() {
        DeValue::Table(below) => place_of(below, rest).or_else(|| Some(key.span())),
        _ => Some(value.span()),
    }
}

/// The entry of a list of texts that a message quotes. serde points at the whole list.
pub(super) fn quoted_entry(
    table: &DeTable<'_>,
    list: &Range<usize>,
    message: &str,
) -> Option<Range<usize>> {
    let path = path_at(table, list.start);
    let (first, rest) = path.split_first()?;
    let mut value = table.get(first.as_str())?.get_ref();
    for key in rest {
        value = match value {
            DeValue::Table(table) => table.get(key.as_str())?.get_ref(),
            DeValue::Array(array) => array.get(key.parse::<usize>().ok()?)?.get_ref(),
            _ => return None,
        };
    }
    let quoted = |entry: &&toml::Spanned<DeValue<'_>>| {
        entry.get_ref().as_str().is_some_and(|text| message.contains(&format!("`{text}`")))
    };
    value.as_array()?.iter().find(quoted).map(toml::Spanned::span)
}

/// What serde calls types, and what people do.
const TYPES: [(&str, &str); 8] = [
    ("a nonzero u16", "a whole number from 1 to 65535"),
    ("u16", "a whole number from 0 to 65535"),
    ("u32", "a whole number from 0"),
    ("u64", "a whole number from 0"),
    ("usize", "a whole number from 0"),
    ("f64", "a number"),
    ("a sequence", "a list"),
    ("a boolean", "true or false"),
];

/// serde's message in the words of a spec, with a suggestion where it names what it would have taken.
pub(super) fn in_words(message: &str) -> String {
    let message = message.trim_end();
    let Some((found, expected)) = message.split_once(", expected ") else {
        return message.to_owned();
    };
    for kind in ["invalid type: ", "invalid value: "] {
        if let Some(found) = found.strip_prefix(kind) {
            let words = TYPES.iter().find(|(name, _)| *name == expected);
            let expected = match words {
                Some((_, words)) => words,
                None if expected.starts_with("struct ") => "a table",
                None => expected,
            };
            let found = found.trim_end_matches(" as i128").replace("map", "a table");
            return format!("expected {expected}, found {found}");
        }
    }
    if !found.starts_with("unknown") {
        return message.to_owned();
    }
    let misspelt = found.split('`').nth(1);
    let known = expected.split('`').skip(1).step_by(2);
    let near = misspelt.and_then(|word| eas_ir::nearest(word, known));
    let hint = near.map_or(String::new(), |near| format!("; did you mean `{near}`?"));
    let found = found.replacen("field", "key", 1).replacen("variant", "value", 1);
    format!("{found}, expected {expected}{hint}")
}
