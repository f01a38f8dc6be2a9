//! `index.sqlite`: the results as a table, for whoever would rather ask in SQL.
//!
//! It is written by the coordinator alone, as results come in, and can be made anew from the trials at
//! any time, so it isn't synced and nothing here reads it but the check that it is right. It uses the
//! rollback journal: on a network file system the other one isn't safe, and one writer gains nothing
//! from it.

use std::path::Path;

use anyhow::{Context, ensure};
use eas_controller::Ending;
use rusqlite::{Connection, params};

use super::{Run, TrialResult};

/// What makes a schema of the next version, from none on.
const MIGRATIONS: [&str; 2] = [
    "
    CREATE TABLE trial (
        trial INTEGER PRIMARY KEY,
        purpose TEXT NOT NULL,
        parent INTEGER,
        same_as INTEGER,
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
        seconds REAL NOT NULL
    ) STRICT;
    CREATE INDEX trial_by_accuracy ON trial (accuracy);
",
    "ALTER TABLE trial ADD COLUMN continues INTEGER;",
];

/// The index of a run.
#[derive(Debug)]
pub(crate) struct Index(Connection);

impl Index {
    /// Opens the index, makes it where there is none, and brings it up to this version's schema.
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        let connection = Connection::open(path)?;
        connection.execute_batch("PRAGMA journal_mode = DELETE; PRAGMA synchronous = OFF;")?;
        let version: u32 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        let version = version as usize;
        ensure!(
            version <= MIGRATIONS.len(),
            "{}: expected schema {} or older, found {version}: a newer version of EAS wrote it",
            path.display(),
            MIGRATIONS.len()
        );
        for (number, migration) in MIGRATIONS.iter().enumerate().skip(version) {
            let next = number + 1;
            connection.execute_batch(&format!(
                "BEGIN; {migration} PRAGMA user_version = {next}; COMMIT;"
            ))?;
        }
        Ok(Index(connection))
    }

    /// Adds a result, in place of what there was of this trial.
    pub(crate) fn put(&self, result: &TrialResult) -> anyhow::Result<()> {
        let (ending, why) = match &result.ending {
            Ending::Trained { .. } => ("trained", None),
            Ending::Stopped { epochs, .. } => ("stopped", Some(format!("after {epochs} epochs"))),
            Ending::Diverged { epoch } => ("diverged", Some(format!("in epoch {epoch}"))),
            Ending::Refused { why } => ("refused", Some(why.clone())),
            Ending::Failed { why } => ("failed", Some(why.clone())),
        };
        let edits: Vec<String> = result.steps.iter().flatten().map(ToString::to_string).collect();
        self.0.execute(
            "INSERT OR REPLACE INTO trial VALUES
             (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16,
              ?17)",
            params![
                result.trial.0,
                result.purpose.words(),
                result.parent.map(|trial| trial.0),
                result.same_as.map(|trial| trial.0),
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
                result.continues.map(|trial| trial.0),
            ],
        )?;
        Ok(())
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

impl Run {
    fn index_path(&self) -> std::path::PathBuf {
        self.root.join("index.sqlite")
    }

    /// The index, to be written to; one that is damaged is made anew.
    pub(crate) fn index(&self) -> anyhow::Result<Index> {
        let path = self.index_path();
        match Index::open(&path) {
            Err(error) if error.is::<rusqlite::Error>() => self
                .rebuild_index()
                .with_context(|| format!("{}: {error}; it can't be made anew", path.display())),
            opened => opened,
        }
    }

    /// Makes the index anew from the trials.
    pub(crate) fn rebuild_index(&self) -> anyhow::Result<Index> {
        let path = self.index_path();
        if path.exists() {
            std::fs::remove_file(&path)
                .with_context(|| format!("can't remove {}", path.display()))?;
        }
        let index = Index::open(&path)?;
        for result in self.results()? {
            index.put(&result)?;
        }
        Ok(index)
    }

    /// Whether the index says what the trials do; nothing where there is none.
    pub(crate) fn index_is_right(&self) -> anyhow::Result<Option<bool>> {
        if !self.index_path().exists() {
            return Ok(None);
        }
        let expected = Index::open(Path::new(":memory:"))?;
        for result in self.results()? {
            expected.put(&result)?;
        }
        Ok(Some(Index::open(&self.index_path())?.rows()? == expected.rows()?))
    }
}
