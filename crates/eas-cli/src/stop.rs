//! Whether a person, or whoever started this process, wants it to stop.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

static INTERRUPTED: AtomicBool = AtomicBool::new(false);
static INPUT_ENDED: AtomicBool = AtomicBool::new(false);
static HANDLER: OnceLock<bool> = OnceLock::new();

/// From now on, Ctrl-C and a termination signal ask for a stop; a second one ends the process.
pub(crate) fn listen() {
    HANDLER.get_or_init(|| {
        ctrlc::set_handler(|| {
            if INTERRUPTED.swap(true, Ordering::SeqCst) {
                std::process::abort();
            }
        })
        .is_ok()
    });
}

/// Whether a stop was asked for.
pub(crate) fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::SeqCst) || INPUT_ENDED.load(Ordering::SeqCst)
}

/// Time to stop in once the input has ended.
const GRACE: Duration = Duration::from_secs(10);

/// From now on, the end of standard input asks for a stop: whoever started this process wants it, or
/// is gone. A process that doesn't stop in time is ended.
pub(crate) fn listen_to_input() {
    std::thread::spawn(|| {
        // An input that can't be read has ended as well.
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        INPUT_ENDED.store(true, Ordering::SeqCst);
        std::thread::sleep(GRACE);
        std::process::abort();
    });
}
