//! ONNX files: a model written for other programs, and those of other programs read into the IR.

mod affine;
mod axes;
mod call;
mod given;
mod import;
mod labels;
mod messages;
mod operators;
mod read;
mod sizes;
mod tensors;
mod write;

pub use given::Given;
pub use read::{OnnxError, Unsupported, from_bytes, read, read_compared};
pub use write::{OnnxOptions, write, write_tensor};

/// The graph's input.
const IMAGES: &str = "images";
/// The graph's output.
const LOGITS: &str = "logits";

/// Who wrote the file, where that was EAS.
const PRODUCER: &str = "eas";

/// Metadata: the version of EAS that wrote the file.
const VERSION: &str = "eas.version";
/// Metadata: the network's fingerprint, before anything was folded.
const FINGERPRINT: &str = "eas.fingerprint";
/// Metadata: what is to be given as [`IMAGES`], in words.
const INPUT: &str = "eas.input";
/// Metadata: a list of class names as JSON, in the order of the logits.
const CLASSES: &str = "eas.classes";
/// Metadata: mean and deviation of each channel as JSON, of pixels from 0 to 1.
const NORMALISATION: &str = "eas.normalisation";

/// Metadata: how a picture of another size is brought to the input's, as JSON, where that isn't the usual
/// way.
const FIT: &str = "eas.fit";

/// A name of a file as a message may quote it: escaped, and not too long.
fn quoted(name: &str) -> String {
    const LONGEST: usize = 80;
    let mut shown: String = name.chars().take(LONGEST).flat_map(char::escape_debug).collect();
    if name.chars().nth(LONGEST).is_some() {
        shown.push('…');
    }
    format!("`{shown}`")
}
