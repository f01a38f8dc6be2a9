//! Made-up images, for trying the tool on any shape and for tests that need no data.

use std::path::Path;

use eas_ir::{Built, Plugin, Rng, Shape, parse_options, resolved_options};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{Augment, DataOptions, DataPlugin, DataSource, Description, Labelled};

/// Directions that stripes run in; more classes differ in spacing.
const DIRECTIONS: usize = 8;

/// Stripes whose direction and spacing are the class's, at a random place, in noise. They are far
/// easier than real images: accuracy on them says that the tool works, nothing about an architecture.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Synthetic {
    images: usize,
    classes: usize,
    channels: usize,
    height: usize,
    width: usize,
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
            height: 16,
            width: 16,
            noise: 0.3,
            validation: 200,
            train: None,
            augment: Augment::NONE,
        }
    }
}

inventory::submit! {
    DataPlugin(Plugin::new(
        "synthetic",
        "made-up stripes in noise, easy, for trying things out",
        r#"images = 1000  # to train and validate on; as many others are for testing
classes = 4  # directions and spacings of the stripes, 2 to 32
channels = 1  # 1 to 16
height = 16  # rows, 4 to 256
width = 16  # columns, 4 to 256
noise = 0.3  # deviation of the noise, where stripes go from 0 to 1
validation = 200  # images held out to compare networks on
# train = 800  # training images used; all that are left if not given
augment = { pad_crop = 0, mirror = false }  # shift by up to so many pixels; mirror (it swaps classes)
"#,
        |options| {
            let data = parse_options::<Synthetic>(options)?;
            data.check().map_err(serde::de::Error::custom)?;
            Ok(Built { options: resolved_options(&data)?, implementation: Box::new(data) })
        },
    ))
}

impl Synthetic {
    /// The most pixel values of all images: 256 MiB.
    const MOST_VALUES: usize = 1 << 28;

    fn check(&self) -> Result<(), String> {
        let ranges = [
            ("images", self.images, 10, 1_000_000),
            ("classes", self.classes, 2, 32),
            ("channels", self.channels, 1, 16),
            ("height", self.height, 4, 256),
            ("width", self.width, 4, 256),
        ];
        for (key, value, low, high) in ranges {
            if !(low..=high).contains(&value) {
                return Err(format!("{key}: expected {low} to {high}, found {value}"));
            }
        }
        let values = self.images * self.channels * self.height * self.width;
        if values > Self::MOST_VALUES {
            let most = Self::MOST_VALUES;
            return Err(format!(
                "images: expected at most {most} pixel values in all, found {values}"
            ));
        }
        if !(0.0..=10.0).contains(&self.noise) {
            return Err(format!("noise: expected 0 to 10, found {}", self.noise));
        }
        Ok(())
    }

    fn shape(&self) -> Shape {
        Shape::Image { channels: self.channels, height: self.height, width: self.width }
    }

    fn classes(&self) -> Vec<String> {
        (0..self.classes).map(|class| format!("stripes_{class}")).collect()
    }

    /// All images; classes take turns.
    fn draw(&self, rng: &Rng) -> anyhow::Result<Labelled> {
        let size = self.channels * self.height * self.width;
        let mut pixels = vec![0; self.images * size];
        pixels.par_chunks_mut(size).enumerate().for_each(|(index, image)| {
            self.stripes(index % self.classes, &mut rng.split_index(index as u64), image);
        });
        let labels = (0..self.images).map(|index| (index % self.classes) as u8).collect();
        Labelled::new(self.shape(), self.classes(), pixels, labels)
    }

    fn stripes(&self, class: usize, rng: &mut Rng, image: &mut [u8]) {
        use std::f64::consts::{PI, TAU};
        let directions = self.classes.min(DIRECTIONS);
        let (down, right) = (PI * (class % directions) as f64 / directions as f64).sin_cos();
        // Pixels from stripe to stripe: 5, 7.5, 11.25, 16.875.
        let spacing = 5.0 * 1.5f64.powi((class / directions) as i32);
        let phase = TAU * rng.unit();
        for (at, pixel) in image.iter_mut().enumerate() {
            let (row, column) = (at / self.width % self.height, at % self.width);
            let channel = at / (self.height * self.width);
            let along = row as f64 * down + column as f64 * right;
            let stripe = 0.5 + 0.5 * (TAU * along / spacing + phase + channel as f64).sin();
            let value = stripe + self.noise * rng.normal();
            *pixel = (value.clamp(0.0, 1.0) * 255.0) as u8;
        }
    }
}

impl DataSource for Synthetic {
    fn licence(&self) -> &str {
        "none needed: EAS makes the images up"
    }

    fn options(&self) -> DataOptions {
        DataOptions { validation: self.validation, train: self.train, augment: self.augment }
    }

    fn path(&self) -> Option<&Path> {
        None
    }

    fn describe(&self, _: &Path) -> anyhow::Result<Description> {
        let (shape, classes) = (self.shape(), self.classes());
        Ok(Description { shape, classes, images: self.images, test_images: self.images })
    }

    fn train(&self, _: &Path) -> anyhow::Result<Labelled> {
        self.draw(&Rng::new(1))
    }

    fn test(&self, _: &Path) -> anyhow::Result<Labelled> {
        self.draw(&Rng::new(2))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stripes_of_one_class_look_alike_and_others_differ() {
        // The strength of each class's wave in an image, whatever its phase: without noise, that of
        // its own class is the highest.
        let data = Synthetic {
            images: 160,
            classes: 32,
            channels: 2,
            height: 40,
            width: 32,
            noise: 0.0,
            ..Synthetic::default()
        };
        let images = data.draw(&Rng::new(1)).unwrap();
        let wave = |class: usize, image: &[u8]| {
            let (down, right) =
                (std::f64::consts::PI * (class % DIRECTIONS) as f64 / DIRECTIONS as f64).sin_cos();
            let turn = std::f64::consts::TAU / (5.0 * 1.5f64.powi((class / DIRECTIONS) as i32));
            let (mut sine, mut cosine) = (0.0, 0.0);
            for (at, pixel) in image[..40 * 32].iter().enumerate() {
                let along = ((at / 32) as f64 * down + (at % 32) as f64 * right) * turn;
                sine += (f64::from(*pixel) - 127.5) * along.sin();
                cosine += (f64::from(*pixel) - 127.5) * along.cos();
            }
            sine.hypot(cosine)
        };
        for index in 0..images.len() {
            let image = images.image(index);
            let strongest = (0..32).max_by(|a, b| wave(*a, image).total_cmp(&wave(*b, image)));
            assert_eq!(strongest, Some(images.label(index)), "image {index}");
        }
    }

    #[test]
    fn options_out_of_range_are_refused() {
        let check = |text: &str| toml::from_str::<Synthetic>(text).unwrap().check().unwrap_err();
        assert_eq!(check("classes = 33"), "classes: expected 2 to 32, found 33");
        assert_eq!(check("height = 3"), "height: expected 4 to 256, found 3");
        assert_eq!(check("noise = nan"), "noise: expected 0 to 10, found NaN");
        let huge = "images = 1000000\nchannels = 16\nheight = 256\nwidth = 256";
        assert_eq!(
            check(huge),
            "images: expected at most 268435456 pixel values in all, found 1048576000000"
        );
    }
}
