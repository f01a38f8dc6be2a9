//! The store of a search under way, kept within its size.

use eas_ir::Bytes;

use crate::plan::Storage;
use crate::print::Bar;
use crate::reach::Reach;
use crate::runs::{Run, TrialResult};

/// Watches over the size of a store.
pub(crate) struct Keeper<'a> {
    run: &'a Run,
    limits: Storage,
    /// Bytes in the store, about: what equal models share counts twice.
    used: u64,
    /// Beyond so many it is worth looking for what isn't needed.
    due: u64,
    bar: Bar,
}

impl<'a> Keeper<'a> {
    /// Before the first result is there, or is met again.
    pub(crate) fn new(run: &'a Run, limits: Storage, bar: Bar) -> Self {
        Keeper { run, limits, used: 0, due: limits.size, bar }
    }

    /// A result is there, whose objects are its own where it repeats no other.
    pub(crate) fn add(&mut self, result: &TrialResult) {
        if result.same_as.is_none() {
            self.used += self.run.bytes_of(result);
        }
    }

    /// Removes what the search doesn't need where the store has outgrown its size; says so where what is
    /// needed is larger.
    pub(crate) fn tidy(&mut self, reach: &Reach) -> anyhow::Result<()> {
        if self.used <= self.due {
            return Ok(());
        }
        let Some(collected) = self.run.collect(reach, self.limits.keep_best, true)? else {
            return Ok(());
        };
        let (removed, kept, size) = (collected.removed, collected.kept.bytes, self.limits.size);
        tracing::info!(removed = removed.objects, freed = removed.bytes, kept, "collected");
        self.used = kept;
        if kept > size {
            let (kept, size) = (Bytes(kept), Bytes(size));
            self.bar.line(&format!(
                "The store takes {kept}, beyond store.size = {size}: what the search may go on from \
                 and the {} best need that much.",
                self.limits.keep_best
            ));
        }
        // Looked for again when there is a tenth more, and not in vain after each batch.
        self.due = size.max(kept + kept / 10);
        Ok(())
    }
}
