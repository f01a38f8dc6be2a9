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

/// serde's message with a suggestion, where it names what it would have taken.
pub(super) fn with_suggestion(message: &str) -> String {
    let message = message.trim_end();
    let Some((wrong, expected)) = message.split_once(", expected ") else {
        return message.to_owned();
    };
    let misspelt = wrong.split('`').nth(1);
    let known = expected.split('`').skip(1).step_by(2);
    match misspelt.and_then(|word| eas_ir::nearest(word, known)) {
        Some(near) if wrong.starts_with("unknown") => format!("{message}; did you mean `{near}`?"),
        _ => message.to_owned(),
    }
}
