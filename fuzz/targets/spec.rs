#![no_main]
//! The spec of a search and `--set` arguments, a line each: what is resolved is resolved already.

use eas_fuzz::{files, folder};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let [spec, set] = files(bytes);
    let (Ok(spec), Ok(set)) = (str::from_utf8(spec), str::from_utf8(set)) else { return };
    let set: Vec<String> = set.lines().map(str::to_owned).collect();
    if let Ok(plan) = eas_cli::read_plan("spec.toml", spec, &set, folder()) {
        let again = eas_cli::read_plan("plan.toml", &plan.text, &[], folder());
        let again = again.unwrap_or_else(|errors| panic!("{errors}\nin\n{}", plan.text));
        assert_eq!(again.text, plan.text);
    }
});
