use super::*;
use crate::forecast::seconds;

/// A machine that does so many multiply-accumulates a second, forward and backward.
fn at(macs_per_second: f64) -> impl FnMut(&Plan, &Network, &TrainingData) -> anyhow::Result<Rates> {
    move |_, start, _| {
        let macs = cost(start, &start.verify()?, 1).macs;
        let start = macs_per_second / macs as f64;
        Ok(Rates { start, child: 0.6 * start, child_parameters: 0, child_macs: 2 * macs })
    }
}

fn automatic(text: &str, minutes: f64, macs_per_second: f64) -> anyhow::Result<Automatic> {
    specify(text, Duration::from_secs_f64(60.0 * minutes), &mut at(macs_per_second))
}

#[test]
fn a_spec_for_data_and_a_budget_says_what_was_chosen_and_why() {
    let automatic = automatic("fashion_mnist_subset", 30.0, 2e9).unwrap();
    insta::assert_snapshot!(automatic.spec);
}

#[test]
fn the_spec_is_one_that_is_forecast_to_keep_its_budget() {
    for (minutes, macs) in [(0.5, 1e10), (1.0, 1e9), (2.0, 2e9), (30.0, 2e9), (600.0, 5e9)] {
        let automatic = automatic("fashion_mnist_subset", minutes, macs).unwrap();
        let plan = read_plan(&automatic.name, &automatic.spec, &[], Path::new("")).unwrap();
        let data = training_data(&plan).unwrap();
        let (start, _) = start_network(&plan).unwrap();
        let rates = at(macs)(&plan, start.network(), &data).unwrap();
        let forecast = seconds(&plan, data.train.len(), &rates, 1);
        let budget = 60.0 * minutes;
        let why = format!("{minutes} minutes at {macs}: {forecast} s\n{}", automatic.spec);
        assert!(forecast <= budget, "{why}");
        // A longer one is used, not saved.
        assert!(forecast >= 0.4 * budget, "{why}");
        assert!(plan.deadline.is_some_and(|deadline| deadline.as_secs_f64() < budget), "{why}");
        assert!(!data.validation.is_empty(), "{why}");
    }
}

#[test]
fn less_time_makes_a_narrower_network_then_fewer_images() {
    let spec = |macs| automatic("fashion_mnist_subset", 2.0, macs).unwrap().spec;
    assert!(spec(1e11).contains("\"conv 32\", \"pool\", \"conv 64\""));
    let slow = spec(5e8);
    assert!(
        slow.contains("start = [\"conv 8\", \"pool\", \"conv 16\"") && slow.contains("\ntrain = ")
    );
    let told = automatic("fashion_mnist_subset", 0.1, 1e7).unwrap_err().to_string();
    assert!(told.starts_with("--budget 6s: a search of these images takes longer"), "{told}");
}
