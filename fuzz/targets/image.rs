#![no_main]
//! A picture, cut and stretched to what a network reads.

use eas_ir::{Fit, Shape};
use eas_train::image_of;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    for (fit, channels, height, width) in [(Fit::Crop, 3, 8, 8), (Fit::Stretch, 1, 3, 17)] {
        let shape = Shape::Image { channels, height, width };
        if let Ok(values) = image_of(bytes, shape, fit) {
            assert_eq!(values.len(), channels * height * width);
        }
    }
});
