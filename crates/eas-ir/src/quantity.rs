//! Quantities as people write them: `"30M"` multiply-accumulates, `"10GiB"` of memory.

use std::fmt;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A count, written as a number or with a decimal suffix: `30000000`, `"30M"`, `"1.5G"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Count(pub u64);

/// Bytes, written as a number or with a binary or decimal suffix: `"10GiB"`, `"500MB"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub u64);

const COUNTS: [(&str, f64); 5] = [("", 1.0), ("k", 1e3), ("M", 1e6), ("G", 1e9), ("T", 1e12)];
const BYTES: [(&str, f64); 9] = [
    ("B", 1.0),
    ("kB", 1e3),
    ("MB", 1e6),
    ("GB", 1e9),
    ("TB", 1e12),
    ("KiB", 1024.0),
    ("MiB", 1_048_576.0),
    ("GiB", 1_073_741_824.0),
    ("TiB", 1_099_511_627_776.0),
];

fn parse(text: &str, suffixes: &[(&str, f64)]) -> Option<u64> {
    let text = text.trim();
    let length = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(length);
    let number: f64 = number.parse().ok()?;
    let (_, scale) = suffixes.iter().find(|(name, _)| *name == suffix.trim())?;
    let value = number * scale;
    (value.is_finite() && (0.0..1e18).contains(&value)).then_some(value.round() as u64)
}

/// The number with the largest suffix that keeps it at least 1, to two decimals below 10 and one
/// below 100.
fn show(value: u64, suffixes: &[(&str, f64)]) -> String {
    let fits = |(_, scale): &&(&str, f64)| value as f64 >= *scale;
    let (suffix, scale) = suffixes.iter().rfind(fits).unwrap_or(&suffixes[0]);
    let number = value as f64 / scale;
    let decimals =
        usize::from(number < 100.0 && *scale > 1.0) + usize::from(number < 10.0 && *scale > 1.0);
    let text = format!("{number:.decimals$}");
    let text = if decimals > 0 { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{suffix}")
}

macro_rules! quantity {
    ($name:ident, $suffixes:expr, $shown:expr, $expected:literal) => {
        impl fmt::Display for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str(&show(self.0, $shown))
            }
        }

        /// Written as a number, so that nothing is rounded.
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_u64(self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Read;
                impl Visitor<'_> for Read {
                    type Value = $name;

                    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                        out.write_str($expected)
                    }

                    fn visit_i64<E: de::Error>(self, value: i64) -> Result<$name, E> {
                        u64::try_from(value)
                            .map($name)
                            .map_err(|_| E::invalid_value(de::Unexpected::Signed(value), &self))
                    }

                    fn visit_u64<E: de::Error>(self, value: u64) -> Result<$name, E> {
                        Ok($name(value))
                    }

                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$name, E> {
                        parse(text, &$suffixes)
                            .map($name)
                            .ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
                    }
                }
                deserializer.deserialize_any(Read)
            }
        }
    };
}

quantity!(Count, COUNTS, &COUNTS, "a count such as 30000000, \"30M\" or \"1.5G\"");
quantity!(
    Bytes,
    BYTES,
    &[BYTES[0], BYTES[5], BYTES[6], BYTES[7], BYTES[8]],
    "a size such as \"500MB\" or \"10GiB\""
);

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    struct Limits {
        macs: Count,
        memory: Bytes,
    }

    #[test]
    fn quantities_are_read_as_people_write_them() {
        let limits: Limits = toml::from_str("macs = \"1.5G\"\nmemory = \"10GiB\"").unwrap();
        assert_eq!((limits.macs.0, limits.memory.0), (1_500_000_000, 10 << 30));
        assert_eq!(
            (limits.macs.to_string(), limits.memory.to_string()),
            ("1.5G".into(), "10GiB".into())
        );
        assert_eq!(Count(133_530).to_string(), "134k");
        assert_eq!(Count(42).to_string(), "42");
        let limits: Limits = toml::from_str("macs = \"1.001k\"\nmemory = 5").unwrap();
        assert_eq!(limits.macs.0, 1_001, "1.001 * 1000 is a little less than 1001 in binary");
    }

    #[test]
    fn wrong_quantities_are_refused_with_an_example() {
        for text in ["macs = \"1.5X\"", "macs = -3", "macs = \"-1M\"", "macs = \"1e99999\""] {
            let text = format!("memory = 1\n{text}");
            let error = toml::from_str::<Limits>(&text).err().expect(&text).to_string();
            assert!(error.contains("1.5G"), "{text}: {error}");
        }
    }
}
