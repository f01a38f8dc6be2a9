//! What everything here trains and runs networks with.

/// The engine.
pub(crate) const ENGINE: eas_train::Cpu = eas_train::Cpu;
