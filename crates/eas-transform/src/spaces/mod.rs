//! The built-in search spaces, a file each.

mod convnet;
mod densenet;
mod layers;
mod network_file;
mod residual;
mod tokens;

pub use convnet::ConvNet;
pub use densenet::DenseNet;
pub use network_file::NetworkFile;
pub use residual::Residual;
pub use tokens::{tokens, vocabulary};
