#![no_main]
//! A list of groups of a folder of pictures, and the pattern of groups.

use eas_fuzz::{data, files, folder, write};
use libfuzzer_sys::fuzz_target;

fuzz_target!(
    init: {
        for name in ["cat/a_0.png", "cat/a_1.png", "dog/b_0.png", "dog/c_0.png"] {
            write(&format!("pictures/{name}"), b"");
        }
    },
    |bytes: &[u8]| {
        let [list, pattern] = files(bytes);
        write("groups.csv", list);
        let listed = data("folder", "path = \"pictures\"\ngroup_list = \"groups.csv\"");
        let _ = listed.expect("options of a folder").describe(folder());
        let pattern = toml::Value::from(String::from_utf8_lossy(pattern).into_owned());
        let matched = data("folder", &format!("path = \"pictures\"\ngroup = {pattern}"));
        if let Ok(described) = matched.and_then(|matched| matched.describe(folder())) {
            assert_eq!(described.images + described.test_images, 4);
        }
    }
);
