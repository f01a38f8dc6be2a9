#![no_main]
//! `network.toml`: what is read comes back when it is written, and has a cost and a fingerprint.

use eas_ir::{Network, cost};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = str::from_utf8(bytes) else { return };
    let Ok(network) = Network::from_toml(text) else { return };
    let again = Network::from_toml(&network.to_toml()).expect("a network that was written");
    assert_eq!(again, network);
    assert_eq!(again.fingerprint(), network.fingerprint());
    let shapes = network.verify().expect("a network that was read");
    cost(&network, &shapes, 128);
    network.to_string();
});
