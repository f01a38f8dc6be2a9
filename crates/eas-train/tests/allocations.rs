//! A training step of the CPU engine works in buffers that the first step made, and so does one of a batch
//! that is drawn.

use std::alloc::System;

use eas_ir::{Images, Model, Network, Rng, Shape};
use eas_train::{
    Augment, Batch, CpuProgram, DataOptions, FlatParameters, Labelled, Mirror, Nesterov, Precision,
    Program, Recipe, StepOptions, TrainingData, split, steps_of_epoch,
};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

#[test]
fn a_step_behind_the_first_allocates_nothing() {
    // One thread: the pool itself allocates when threads exchange work.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    let paper = include_str!("../../../benches/networks/paper.toml");
    let densenet = include_str!("../../../benches/networks/densenet.toml");
    let data = data();
    for (name, text, precision) in [
        ("paper", paper, Precision::F32),
        ("densenet", densenet, Precision::F32),
        ("paper", paper, Precision::Bf16),
        ("densenet", densenet, Precision::Bf16),
    ] {
        let network = Network::from_toml(text).unwrap();
        let model = Model::initialise(network, &Rng::new(1)).unwrap();
        let mut parameters = FlatParameters::new(&model, None).unwrap();
        let mut program = CpuProgram::new(model.network()).unwrap();
        let batch = Batch::new(Images::ones((4, 3, 32, 32)), vec![0, 1, 2, 3]);
        let update = Nesterov { learning_rate: 0.1, momentum: 0.9, ..Nesterov::default() };
        let options = StepOptions { update, label_smoothing: 0.0, precision, dropout: None };
        pool.install(|| {
            program.step(&mut parameters, &batch, &options).unwrap();
            let region = Region::new(ALLOCATOR);
            program.step(&mut parameters, &batch, &options).unwrap();
            assert_eq!(region.change().allocations, 0, "{name}, {precision:?}");
            let recipe = Recipe { batch: 4, precision, ..Recipe::paper_child() };
            let mut drawn = steps_of_epoch(&data, &recipe, &Rng::new(2), 0, 0);
            let mut step = drawn.next().into_iter();
            let region = Region::new(ALLOCATOR);
            program.steps(&mut parameters, &mut step).unwrap();
            let allocated = region.change().allocations;
            assert_eq!(allocated, 1, "{name}, {precision:?}: the list of reports alone");
        });
    }
}

/// Images that every kind of augmentation is done to.
fn data() -> TrainingData {
    let shape = Shape::Image { channels: 3, height: 32, width: 32 };
    let classes = vec!["one".to_owned(), "another".to_owned()];
    let images = Labelled::new(shape, classes, vec![7; 8 * 3072], vec![0, 1, 0, 1, 0, 1, 0, 1]);
    let augment = Augment { pad_crop: 4, mirror: Mirror::Random, cutout: 8, mixup: 0.4 };
    let options = DataOptions { validation: 0, train: None, augment };
    split(images.unwrap(), options, &Rng::new(1)).unwrap()
}
