//! ONNX files: a model written for other programs, and those of other programs read into the IR.

mod messages;
mod write;

pub use write::{OnnxOptions, write};

/// The graph's input.
const IMAGES: &str = "images";
/// The graph's output.
const LOGITS: &str = "logits";

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
