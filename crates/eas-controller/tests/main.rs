//! What controllers and the search loop promise, in one binary.

mod climbers;
mod densenet;
mod halving;
mod landscape;
mod reinforce;
mod search;
mod settings;
mod test_bed;
