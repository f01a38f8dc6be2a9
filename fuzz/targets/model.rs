#![no_main]
//! A model's folder, with either file hostile: what is read comes back when it is written.

use eas_fuzz::{files, folder, model, safetensors, write};
use eas_ir::SavedModel;
use libfuzzer_sys::fuzz_target;

fuzz_target!(
    init: model().save(&folder().join("model")).expect("a folder in memory"),
    |bytes: &[u8]| {
        let [first, rest @ ..] = bytes else { return };
        // The other file stays that of a model, or both are the input's.
        match first {
            b'n' => drop(write("model/network.toml", rest)),
            b'b' => {
                let [network, weights] = files(rest);
                write("model/network.toml", network);
                write("model/weights.safetensors", &safetensors(weights));
            }
            _ => drop(write("model/weights.safetensors", &safetensors(rest))),
        }
        if let Ok(found) = SavedModel::load(&folder().join("model")) {
            let path = folder().join("written");
            found.save(&path).expect("a model that was read");
            assert_eq!(SavedModel::load(&path).expect("a model that was written"), found);
        }
        model().save(&folder().join("model")).expect("a folder in memory");
    }
);
