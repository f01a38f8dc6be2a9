//! Nothing but tests lives in this package, and the campaign, which anyone can run for as long as they
//! like.

pub mod campaign;
