//! Exit codes.

/// Done.
pub const SUCCESS: u8 = 0;
/// Something failed that isn't the input's fault: a disk, a network, a bug.
pub const FAILURE: u8 = 1;
/// The command line, a spec or a file is wrong; the message says where.
pub const BAD_INPUT: u8 = 2;
/// The question was answered, and the answer is no: an edit or an export changed the function.
pub const NO: u8 = 3;
/// A file of a run is not what was written to it.
pub const DAMAGED: u8 = 4;
/// A disk is full; the run goes on once there is room.
pub const NO_ROOM: u8 = 5;
/// A GPU failed a trial, perhaps for want of memory: its coordinator tries again.
pub(crate) const GPU: u8 = 6;
/// Interrupted by Ctrl-C; what was done is kept.
pub const INTERRUPTED: u8 = 130;
