//! Made-up images, for trying the tool and for tests that need no data.

use std::path::Path;

use eas_ir::{Built, Plugin, Rng, Shape, parse_options, resolved_options};
use serde::{Deserialize, Serialize};

use super::{Augment, DataOptions, DataPlugin, DataSource, Labelled};

/// Stripes whose direction and spacing depend on the class, in noise. Accuracy on them says nothing
/// about real images.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Synthetic {
    images: usize,
    classes: usize,
    channels: usize,
    size: usize,
    noise: f64,
    validation: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    train: Option<usize>,
    augment: Augment,
}

impl Default for Synthetic {
    fn default() -> Self {
        Synthetic {
            images: 1000,
            classes: 4,
            channels: 1,
            size: 16,
            noise: 0.3,
            validation: 200,
            train: None,
            augment: Augment { pad_crop: 0, mirror: false },
        }
    }
}

inventory::submit! {
    DataPlugin(Plugin::new(
        "synthetic",
        "made-up stripes in noise, for trying things out",
        r#"images = 1000  # for training and validation; as many again are for testing
classes = 4  # 2 to 8
channels = 1  # colours, 1 to 4
size = 16  # rows and columns, 4 to 64
noise = 0.3  # deviation of the noise; the stripes go from 0 to 1
validation = 200  # images held out to compare networks on
# train = 800  # training images used; all that are left if not given
augment = { pad_crop = 0, mirror = false }  # shift by up to so many pixels, mirror
"#,
        |options| {
            let data = parse_options::<Synthetic>(options)?;
            data.check().map_err(serde::de::Error::custom)?;
            Ok(Built { options: resolved_options(&data)?, implementation: Box::new(data) })
        },
    ))
}

impl Synthetic {
    fn check(&self) -> Result<(), String> {
        let within = |key: &str, value: usize, low: usize, high: usize| {
            if (low..=high).contains(&value) {
                Ok(())
            } else {
                Err(format!("{key}: expected {low} to {high}, found {value}"))
            }
        };
        within("images", self.images, 10, 100_000)?;
        within("classes", self.classes, 2, 8)?;
        within("channels", self.channels, 1, 4)?;
        within("size", self.size, 4, 64)
    }

    fn draw(&self, rng: &Rng) -> anyhow::Result<Labelled> {
        let Synthetic { images, classes, channels, size, noise, .. } = *self;
        let (mut pixels, mut labels) = (Vec::new(), Vec::new());
        for index in 0..images {
            let class = index % classes;
            let mut rng = rng.split_index(index as u64);
            let angle = std::f64::consts::PI * class as f64 / classes as f64;
            let spacing = 3.0 + (class % 3) as f64;
            let phase = std::f64::consts::TAU * rng.unit();
            for channel in 0..channels {
                for row in 0..size {
                    for column in 0..size {
                        let along = row as f64 * angle.cos() + column as f64 * angle.sin();
                        let turn = along / spacing * std::f64::consts::TAU / 2.0;
                        let stripe = 0.5 + 0.5 * (turn + phase + channel as f64).sin();
                        let value = stripe + noise * rng.normal();
                        pixels.push((value.clamp(0.0, 1.0) * 255.0) as u8);
                    }
                }
            }
            labels.push(class as u8);
        }
        Labelled::new(pixels, labels, (channels, size, size))
    }
}

impl DataSource for Synthetic {
    fn shape(&self) -> Shape {
        Shape::Image { channels: self.channels, height: self.size, width: self.size }
    }

    fn classes(&self) -> Vec<String> {
        (0..self.classes).map(|class| format!("stripes_{class}")).collect()
    }

    fn options(&self) -> DataOptions {
        DataOptions { validation: self.validation, train: self.train, augment: self.augment }
    }

    fn path(&self) -> Option<&Path> {
        None
    }

    fn train(&self, _: &Path) -> anyhow::Result<Labelled> {
        self.draw(&Rng::new(1))
    }

    fn test(&self, _: &Path) -> anyhow::Result<Labelled> {
        self.draw(&Rng::new(2))
    }
}
