//! The campaign in short: a dozen faults. For more, run the program.

use std::io::Write;
use std::time::Duration;

use eas_tests::campaign::Campaign;

use crate::harness::EAS;

#[test]
fn a_short_campaign_loses_nothing() {
    let limit = Some(Duration::from_secs(60));
    let campaign = Campaign { eas: EAS.clone(), faults: 12, seed: 4, limit };
    let table = campaign.run(&mut |_| ()).unwrap();
    for (fault, why) in &table.unavailable {
        // Past the capture of tests that pass, which would hide it.
        writeln!(std::io::stderr(), "the short campaign leaves out {fault}: {why}").unwrap();
    }
    assert!(table.losses.is_empty(), "{}", table.text());
    assert!(table.rounds > 0 && table.injected.values().sum::<usize>() > 0, "{}", table.text());
}
