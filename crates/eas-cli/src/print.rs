//! The one module that writes to the terminal: results to stdout, progress and errors to stderr.
//!
//! Much of it was read from files that may be a stranger's, so that what people read goes out without
//! what a terminal would obey. What programs read goes out as it is.

use std::borrow::Cow;
use std::io::{IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

/// Writes a result. A reader that has gone (`eas list | head -1`) is no error.
pub(crate) fn result(text: &str) {
    verbatim(&legible_lines(text));
}

/// Writes a result that a program reads, such as JSON, as it is.
pub(crate) fn verbatim(text: &str) {
    let mut stdout = std::io::stdout().lock();
    let ended = if text.ends_with('\n') { "" } else { "\n" };
    // Nobody is left to tell where stdout is closed.
    let _ = write!(stdout, "{text}{ended}").and_then(|()| stdout.flush());
}

/// Writes a result as JSON.
pub(crate) fn json(value: &impl Serialize) {
    match serde_json::to_string_pretty(value) {
        Ok(text) => verbatim(&text),
        Err(error) => note(&format!("error: no JSON for this: {error}")),
    }
}

/// Writes a result as one line of JSON.
pub(crate) fn json_line(value: &impl Serialize) {
    match serde_json::to_string(value) {
        Ok(text) => verbatim(&text),
        Err(error) => note(&format!("error: no JSON for this: {error}")),
    }
}

/// Writes a line of progress.
pub(crate) fn note(text: &str) {
    let mut stderr = std::io::stderr().lock();
    let _ = writeln!(stderr, "{}", legible_lines(text));
}

/// Writes an error and what led to it, on one line unless the message has more.
pub(crate) fn error(error: &anyhow::Error) {
    note(&format!("error: {error:#}"));
}

/// Writes what clap has to say of a command line: help to stdout, errors to stderr, with colours where
/// there is a terminal.
pub(crate) fn usage(error: &clap::Error) {
    // Nobody is left to tell where the stream is closed.
    let _ = error.print();
}

/// A text from elsewhere, such as the name of a class or of a file, without what would move a terminal's
/// cursor or change its colours, and on one line.
pub(crate) fn legible(text: &str) -> String {
    escaped(text, char::is_control).into_owned()
}

/// The same of a text that may have several lines.
fn legible_lines(text: &str) -> Cow<'_, str> {
    escaped(text, |c| c.is_control() && !matches!(c, '\n' | '\t'))
}

/// A text with these characters as Rust writes them.
fn escaped(text: &str, is_meant: fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(is_meant) {
        return text.into();
    }
    let mut legible = String::with_capacity(text.len());
    for c in text.chars() {
        if is_meant(c) { legible.extend(c.escape_default()) } else { legible.push(c) }
    }
    legible.into()
}

/// Rows as aligned columns; the first row is the header.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    if let Some((header, rows)) = rows.split_first() {
        table.set_header(header);
        table.add_rows(rows);
    }
    let lines = table.to_string();
    let trimmed: Vec<&str> =
        lines.lines().map(|line| line.strip_prefix(' ').unwrap_or(line).trim_end()).collect();
    trimmed.join("\n")
}

/// A progress bar with the time left; on a stderr that is no terminal it stays silent, and
/// [`Bar::line`] tells how things go.
#[derive(Clone, Debug)]
pub(crate) struct Bar {
    bar: ProgressBar,
    silent: bool,
}

impl Bar {
    /// A bar of `length` units of work.
    pub(crate) fn new(length: u64) -> Self {
        let bar = ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::stderr());
        let style = ProgressStyle::with_template(
            "{bar:24} {percent:>3}%  {elapsed} elapsed, {eta} left  {msg}",
        );
        if let Ok(style) = style {
            bar.set_style(style.progress_chars("━╸─"));
        }
        bar.enable_steady_tick(Duration::from_millis(250));
        Bar { bar, silent: false }
    }

    /// One that nobody sees, and that keeps quiet.
    pub(crate) fn silent() -> Self {
        Bar { bar: ProgressBar::hidden(), silent: true }
    }

    /// Work done since the last call.
    pub(crate) fn advance(&self, units: u64) {
        self.bar.inc(units);
    }

    /// Work done in all.
    pub(crate) fn set(&self, units: u64) {
        self.bar.set_position(units);
    }

    /// Work that was done before, which says nothing about the time left.
    pub(crate) fn begin_at(&self, units: u64) {
        self.bar.set_position(units);
        self.bar.reset_eta();
    }

    /// Units of work in all, once they are known.
    pub(crate) fn set_length(&self, units: u64) {
        self.bar.set_length(units);
    }

    /// What is being done.
    pub(crate) fn message(&self, text: &str) {
        self.bar.set_message(legible_lines(text).into_owned());
    }

    /// A line that stays.
    pub(crate) fn line(&self, text: &str) {
        if self.silent {
            return;
        }
        if self.bar.is_hidden() || !std::io::stderr().is_terminal() {
            note(text);
        } else {
            self.bar.println(legible_lines(text));
        }
    }

    /// Takes the bar away.
    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

/// A part of the terminal that is drawn over and over.
#[derive(Debug)]
pub(crate) struct Screen(ProgressBar);

impl Screen {
    /// Of stdout, if that is a terminal.
    pub(crate) fn new() -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stdout());
        if let Ok(style) = ProgressStyle::with_template("{msg}") {
            bar.set_style(style);
        }
        Screen(bar)
    }

    /// Whether anything is drawn at all.
    pub(crate) fn is_drawn(&self) -> bool {
        !self.0.is_hidden()
    }

    /// Draws a text in place of the last one.
    pub(crate) fn draw(&self, text: &str) {
        self.0.set_message(legible_lines(text).into_owned());
        self.0.tick();
    }

    /// Leaves the last text where it is.
    pub(crate) fn keep(&self) {
        self.0.abandon();
    }
}

/// A share as a percentage with two digits.
pub(crate) fn percent(share: f64) -> String {
    format!("{:.2} %", 100.0 * share)
}

/// Seconds as people say them: `45 s`, `3 min 20 s`, `2 h 5 min`, `3 d 4 h`.
pub(crate) fn seconds(seconds: f64) -> String {
    let whole = seconds.max(0.0).round() as u64;
    match whole {
        0..60 if seconds < 10.0 => format!("{seconds:.1} s"),
        0..60 => format!("{whole} s"),
        60..3600 => format!("{} min {} s", whole / 60, whole % 60),
        3600..86_400 => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
        _ => format!("{} d {} h", whole / 86_400, whole % 86_400 / 3600),
    }
}
