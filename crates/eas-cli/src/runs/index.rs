//! `index.sqlite`: the results as a table, for whoever would rather ask in SQL, and for whoever looks on.
//!
//! It is written by the coordinator alone, as results come in, and can be made anew from the trials at
//! any time, so it isn't synced, no decision depends on it, and one of another schema is made anew. It
//! uses the rollback journal: on a network file system the other one isn't safe, and one writer gains
//! nothing from it.
//!
//! A stranger's index is data: it is read without following links, and only where its schema is this
//! one to the letter, without triggers or views.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::Path;

use anyhow::Context;
use eas_controller::{Ending, TrialId};
use rusqlite::{Connection, OpenFlags, params};

use super::{Purpose, Run, TrialResult};

const SCHEMA: &str = "
    CREATE TABLE trial (
        trial INTEGER PRIMARY KEY,
        purpose TEXT NOT NULL,
        parent INTEGER,
        same_as INTEGER,
        continues INTEGER,
        ending TEXT NOT NULL,
        why TEXT,
        accuracy REAL,
        epochs INTEGER NOT NULL,
        parameters INTEGER NOT NULL,
        macs INTEGER NOT NULL,
        depth INTEGER NOT NULL,
        fingerprint TEXT NOT NULL,
        model TEXT,
        edits TEXT NOT NULL,
        attempt INTEGER NOT NULL,
        seconds REAL NOT NULL,
        result TEXT NOT NULL
    ) STRICT;
    CREATE INDEX trial_by_accuracy ON trial (accuracy);
    CREATE INDEX trial_by_model ON trial (model);
";

/// The index of a run, as its coordinator keeps it.
#[derive(Debug)]
pub(crate) struct Index<'a> {
    run: &'a Run,
    table: RefCell<Table>,
}

impl Index<'_> {
    /// Adds a result of a trial that it doesn't have. Where that fails, other than for want of room, the index is
    /// made anew, beside whatever is wrong with this one: someone who stopped while reading it keeps it locked.
    pub(crate) fn add(&self, result: &TrialResult) -> anyhow::Result<()> {
        let added = self.table.borrow().add(result);
        match added {
            Err(error) if !crate::room::is_wanting(&error) => {
                tracing::warn!("the index is made anew: {error:#}");
                let table = self.run.rebuild_index(&mut |_, _| ())?;
                self.table.replace(table);
                Ok(())
            }
            added => added,
        }
    }
}

/// The index as a file.
#[derive(Debug)]
pub(crate) struct Table(Connection);

impl Table {
    /// Opens the index to write to it, and makes it where there is none.
    fn open(path: &Path) -> anyhow::Result<Self> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NOFOLLOW;
        let connection = Connection::open_with_flags(path, flags)?;
        connection.execute_batch("PRAGMA journal_mode = DELETE; PRAGMA synchronous = OFF;")?;
        if schema(&connection)?.is_empty() {
            connection.execute_batch(&format!("BEGIN; {SCHEMA} COMMIT;"))?;
        }
        Table(connection).checked(path)
    }

    /// Opens one to read it.
    pub(super) fn read(path: &Path) -> anyhow::Result<Self> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NOFOLLOW;
        Table(Connection::open_with_flags(path, flags)?).checked(path)
    }

    fn memory() -> anyhow::Result<Self> {
        let connection = Connection::open_in_memory()?;
        connection.execute_batch(SCHEMA)?;
        Ok(Table(connection))
    }

    fn checked(self, path: &Path) -> anyhow::Result<Self> {
        let expected = schema(&Table::memory()?.0)?;
        let same = schema(&self.0)? == expected;
        anyhow::ensure!(same, "{}: another schema: another version wrote it", path.display());
        Ok(self)
    }

    /// Adds a result, in place of what there was of this trial.
    fn put(&self, result: &TrialResult) -> anyhow::Result<()> {
        let (ending, why) = match &result.ending {
            Ending::Trained { .. } => ("trained", None),
            Ending::Stopped { epochs, .. } => ("stopped", Some(format!("after {epochs} epochs"))),
            Ending::Diverged { epoch } => ("diverged", Some(format!("in epoch {epoch}"))),
            Ending::Refused { why } => ("refused", Some(why.clone())),
            Ending::Failed { why } => ("failed", Some(why.clone())),
        };
        let edits: Vec<String> = result.steps.iter().flatten().map(ToString::to_string).collect();
        let mut put = self.0.prepare(
            "INSERT OR REPLACE INTO trial VALUES
             (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16,
              ?17, ?18)",
        )?;
        put.execute(params![
            result.trial.0,
            result.purpose.words(),
            result.parent.map(|trial| trial.0),
            result.same_as.map(|trial| trial.0),
            result.continues.map(|trial| trial.0),
            ending,
            why,
            result.accuracy_reached(),
            result.epochs as i64,
            result.parameters as i64,
            result.macs as i64,
            result.depth as i64,
            result.fingerprint,
            result.model.map(|digest| digest.to_string()),
            edits.join(", "),
            result.attempt,
            result.seconds,
            serde_json::to_string(result)?,
        ])?;
        Ok(())
    }

    fn add(&self, result: &TrialResult) -> anyhow::Result<()> {
        let mut select = self.0.prepare("SELECT 1 FROM trial WHERE trial = ?1")?;
        if select.exists([result.trial.0])? { Ok(()) } else { self.put(result) }
    }

    /// The trials that it has.
    pub(super) fn trials(&self) -> anyhow::Result<BTreeSet<TrialId>> {
        let mut select = self.0.prepare("SELECT trial FROM trial")?;
        let trials = select.query_map([], |row| Ok(TrialId(row.get(0)?)))?;
        Ok(trials.collect::<Result<_, _>>()?)
    }

    /// How many came to no trained network.
    pub(super) fn failed(&self) -> anyhow::Result<usize> {
        let select = "SELECT count(*) FROM trial WHERE model IS NULL";
        Ok(self.0.query_row(select, [], |row| row.get::<_, i64>(0))? as usize)
    }

    /// The best by validation accuracy, of those that the search goes on from or hands over.
    pub(super) fn best(&self) -> anyhow::Result<Option<TrialResult>> {
        let mut select = self.0.prepare(
            "SELECT result, purpose FROM trial WHERE ending = 'trained' AND accuracy IS NOT NULL
             ORDER BY accuracy DESC, trial",
        )?;
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            let words: String = row.get(1)?;
            if Purpose::CANDIDATES.iter().any(|purpose| purpose.words() == words) {
                return result_of(row).map(Some);
            }
        }
        Ok(None)
    }

    /// Every result, by trial.
    pub(super) fn results(&self) -> anyhow::Result<Vec<TrialResult>> {
        let mut select = self.0.prepare("SELECT result FROM trial ORDER BY trial")?;
        let mut rows = select.query([])?;
        let mut results = Vec::new();
        while let Some(row) = rows.next()? {
            results.push(result_of(row)?);
        }
        Ok(results)
    }

    /// Every row, as text, by trial.
    fn rows(&self) -> anyhow::Result<Vec<String>> {
        let mut select = self.0.prepare("SELECT * FROM trial ORDER BY trial")?;
        let columns = select.column_count();
        let rows = select.query_map([], |row| {
            let values = (0..columns).map(|column| row.get::<_, rusqlite::types::Value>(column));
            Ok(format!("{:?}", values.collect::<Result<Vec<_>, _>>()?))
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }
}

/// The result that a row begins with.
fn result_of(row: &rusqlite::Row<'_>) -> anyhow::Result<TrialResult> {
    serde_json::from_str(row.get_ref(0)?.as_str()?).context("index.sqlite: damaged")
}

/// All that a database consists of, in the words that made it.
fn schema(connection: &Connection) -> anyhow::Result<Vec<String>> {
    let mut select = connection.prepare(
        "SELECT type || name || coalesce(sql, '') FROM sqlite_schema ORDER BY type, name",
    )?;
    let parts = select.query_map([], |row| row.get(0))?;
    Ok(parts.collect::<Result<_, _>>()?)
}

impl Run {
    pub(super) fn index_path(&self) -> std::path::PathBuf {
        self.root.join("index.sqlite")
    }

    /// The index, to be written to, with all that is published; one that is damaged, or of another
    /// version, is made anew.
    pub(crate) fn index(&self) -> anyhow::Result<Index<'_>> {
        let path = self.index_path();
        let whole = Table::open(&path).and_then(|table| {
            table.fill(self, &mut |_, _| ())?;
            Ok(table)
        });
        let table = match whole {
            Err(error) if !crate::room::is_wanting(&error) => self
                .rebuild_index(&mut |_, _| ())
                .with_context(|| format!("{}: {error}; it can't be made anew", path.display())),
            whole => whole,
        };
        Ok(Index { run: self, table: RefCell::new(table?) })
    }

    /// Makes the index anew from the trials; tells how many of how many are in it.
    pub(crate) fn rebuild_index(
        &self,
        tell: &mut dyn FnMut(usize, usize),
    ) -> anyhow::Result<Table> {
        let path = self.index_path();
        for name in ["index.sqlite", "index.sqlite-journal", "index.sqlite-wal"] {
            match std::fs::remove_file(self.root.join(name)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("can't remove {}", path.display()));
                }
                _ => {}
            }
        }
        let table = Table::open(&path)?;
        table.fill(self, tell)?;
        Ok(table)
    }

    /// Whether the index says what the trials do; nothing where there is none.
    pub(crate) fn index_is_right(&self) -> anyhow::Result<Option<bool>> {
        if !self.index_path().exists() {
            return Ok(None);
        }
        let expected = Table::memory()?;
        expected.fill(self, &mut |_, _| ())?;
        Ok(Some(Table::read(&self.index_path())?.rows()? == expected.rows()?))
    }
}

impl Table {
    /// Adds what is published and isn't in it; tells how many of how many trials were looked at.
    fn fill(&self, run: &Run, tell: &mut dyn FnMut(usize, usize)) -> anyhow::Result<()> {
        let (trials, known) = (run.begun()?, self.trials()?);
        self.0.execute_batch("BEGIN")?;
        for (place, trial) in trials.iter().enumerate() {
            if !known.contains(trial)
                && let Some(result) = run.published(*trial)?
            {
                self.put(&result)?;
            }
            tell(place + 1, trials.len());
        }
        Ok(self.0.execute_batch("COMMIT")?)
    }
}
