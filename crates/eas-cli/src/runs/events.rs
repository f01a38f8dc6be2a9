//! What a clock or a person forced upon a run, in order: replayed as inputs when it is resumed.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use anyhow::{Context, ensure};
use eas_controller::TrialId;
use serde::{Deserialize, Serialize};

use super::{check_plain, read_bounded};
use crate::args::TestTimeAugmentation;
use crate::failpoint::writing;

/// Batches that all extensions of a run may add.
const MOST_BATCHES: usize = 1_000_000;

/// One of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum Event {
    /// The deadline came while these trials of a batch had no result; the stages ended there.
    Deadline { given_up: Vec<TrialId> },
    /// The run was made longer; trials from this number on are new.
    Extended {
        first_trial: TrialId,
        /// More batches of the last stage.
        batches: usize,
        /// The new deadline, in seconds of work on the run.
        deadline: Option<f64>,
    },
    /// The run goes on with another program.
    Build { differences: Vec<String> },
    /// The test images were opened for the report, in seconds since 1970.
    TestOpened { at: u64 },
    /// They were opened to test this model of the run by itself.
    Tested {
        at: u64,
        model: String,
        /// What each image was classified together with; nothing for itself alone.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        test_time_augmentation: Option<TestTimeAugmentation>,
    },
}

/// Adds a line that survives a loss of power. A line that was torn when a process died is cut off
/// first.
pub(super) fn append(path: &Path, event: &Event) -> anyhow::Result<()> {
    let line = serde_json::to_string(event)? + "\n";
    let add = || -> std::io::Result<()> {
        writing(path)?;
        check_plain(path)?;
        let mut file =
            OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path)?;
        let mut text = Vec::new();
        file.read_to_end(&mut text)?;
        let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        file.set_len(whole as u64)?;
        file.seek(SeekFrom::End(0))?;
        file.write_all(line.as_bytes())?;
        file.sync_all()?;
        path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
    };
    add().with_context(|| format!("can't write {}", path.display()))
}

/// Every whole line.
pub(super) fn read(path: &Path) -> anyhow::Result<Vec<Event>> {
    if !path.exists() {
        return Ok(Vec::new());
    }
    let mut bytes = read_bounded(path)?;
    // A last line that was torn is none, within a character or between two.
    bytes.truncate(bytes.iter().rposition(|byte| *byte == b'\n').unwrap_or(0));
    let text = String::from_utf8(bytes).with_context(|| format!("{}: damaged", path.display()))?;
    let mut batches = 0usize;
    let lines = text.lines().enumerate();
    lines
        .map(|(number, line)| {
            let place = || format!("{}:{}: damaged", path.display(), number + 1);
            let event = serde_json::from_str(line).with_context(place)?;
            if let Event::Extended { batches: more, .. } = event {
                batches = batches.saturating_add(more);
                ensure!(batches <= MOST_BATCHES, "{}: too many batches", place());
            }
            Ok(event)
        })
        .collect()
}
