//! The built-in search spaces, a file each.

mod convnet;
mod densenet;
mod layers;
mod network_file;
mod tokens;

pub use convnet::ConvNet;
pub use densenet::DenseNet;
pub use network_file::NetworkFile;
pub use tokens::{tokens, vocabulary};
