//! What holds of training, whatever the network: gradients, determinism, learning.

mod accuracy;
mod engines;
mod gradients;
mod learning;
mod pytorch;
mod random;
mod training;
