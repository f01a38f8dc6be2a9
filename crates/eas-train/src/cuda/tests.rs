//! What a program takes of a GPU.

use std::io::Write;

use eas_ir::{Mode, Model, Network, Rng, Shape, cost};

use super::cudnn::WORKSPACE;
use super::gpu::Gpu;
use super::program::CudaProgram;
use crate::data::{Augment, DataOptions, Labelled, split};
use crate::device::survey_cuda;
use crate::engine::Program;
use crate::parameters::FlatParameters;
use crate::recipe::{Precision, Recipe};
use crate::train::steps_of_epoch;

/// The networks that engines are measured on.
const NETWORKS: [(&str, &str); 3] = [
    ("paper", include_str!("../../../../benches/networks/paper.toml")),
    ("found", include_str!("../../../../benches/networks/found.toml")),
    ("densenet", include_str!("../../../../benches/networks/densenet.toml")),
];

#[test]
fn a_training_takes_no_more_memory_than_its_cost_says_and_a_workspace() {
    let missing = survey_cuda().missing;
    if !missing.is_empty() {
        let text = format!("memory of trainings: SKIPPED: {}\n", missing.join("; "));
        std::io::stderr().write_all(text.as_bytes()).unwrap();
        return;
    }
    let gpu = Gpu::open(0).unwrap();
    let shape = Shape::Image { channels: 3, height: 32, width: 32 };
    let classes = (0..10).map(|class| class.to_string()).collect();
    let labels = (0..512).map(|image| (image % 10) as u8).collect();
    let source = Labelled::new(shape, classes, vec![7; 512 * 3072], labels).unwrap();
    let options = DataOptions { validation: 0, train: None, augment: Augment::NONE };
    let data = split(source, options, &Rng::new(1)).unwrap();
    for (name, text) in NETWORKS {
        let network = Network::from_toml(text).unwrap();
        let shapes = network.verify().unwrap();
        let model = Model::initialise(network.clone(), &Rng::new(1)).unwrap();
        for precision in [Precision::F32, Precision::Bf16] {
            for batch in [64, 256] {
                let recipe = Recipe { batch, precision, ..Recipe::quick() };
                let mut program = CudaProgram::new(&gpu, &network).unwrap();
                let mut parameters = FlatParameters::new(&model, None).unwrap();
                let mut steps = steps_of_epoch(&data, &recipe, &Rng::new(1), 0, 0);
                program.steps(&mut parameters, &mut steps).unwrap();
                let images = data.images(&data.train, &data.train.indices()[..300]);
                program.logits(&parameters, &images, Mode::Evaluation).unwrap();
                let predicted = cost(&network, &shapes, batch).memory as usize;
                // Besides, sums in parts, winners of pools, and two copies more of parameters.
                let most = predicted + predicted / 4 + WORKSPACE;
                let found = program.bytes();
                let why = format!("{name}, {precision:?}, batch {batch}: {found} of {predicted}");
                assert!(found <= most && found > WORKSPACE, "{why}");
            }
        }
    }
}
