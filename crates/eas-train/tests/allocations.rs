//! A training step of the CPU engine works in buffers that the first step made.

use std::alloc::System;

use eas_ir::{Images, Model, Network, Rng};
use eas_train::{Batch, CpuProgram, FlatParameters, Nesterov, Precision, Program, StepOptions};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

#[test]
fn a_step_behind_the_first_allocates_nothing() {
    // One thread: the pool itself allocates when threads exchange work.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    let paper = include_str!("../../../benches/networks/paper.toml");
    let densenet = include_str!("../../../benches/networks/densenet.toml");
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
        });
    }
}
