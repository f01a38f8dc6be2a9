//! A plugin: the transform `branch` and the search space `pyramid`. `src/main.rs` is an `eas` that
//! has both, beside the built-in ones.

mod branch;
mod pyramid;

pub use branch::Branch;
pub use pyramid::Pyramid;

#[cfg(test)]
mod tests {
    use eas_transform::ir::Rng;
    use eas_transform::{Deepen, SearchSpace, Transforms, Widen, law};

    use super::*;

    /// Branches among the edits they have to get on with.
    fn transforms() -> Transforms {
        Transforms::new([
            ("branch".to_owned(), Box::new(Branch::default()) as _),
            ("deepen".to_owned(), Box::new(Deepen::default()) as _),
            ("widen".to_owned(), Box::new(Widen::default()) as _),
        ])
    }

    #[test]
    fn edits_preserve_the_function() {
        let report = law::check_preserves(&transforms(), &Pyramid::default(), 0..40).unwrap();
        assert!(report.edits > 400 && report.not_testable == 0, "{report:?}");
    }

    #[test]
    fn momentum_follows_the_gradient_to_the_last_bit() {
        let branch = Transforms::new([("branch".to_owned(), Box::new(Branch::default()) as _)]);
        for seed in 0..10 {
            let rng = Rng::new(seed);
            let space = Pyramid::default().miniature(&mut rng.split("space")).unwrap();
            let network = space.start(&law::problem()).unwrap();
            let model = law::random_model(network, &rng).unwrap();
            let gaps = law::check_momentum(&branch, space.as_ref(), &model, seed).unwrap();
            assert_eq!(gaps, (0.0, 0.0), "seed {seed}");
        }
    }
}
