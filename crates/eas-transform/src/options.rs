//! Checks that options of several transforms and spaces share: serde refuses what is out of range, and
//! so points at it.

use serde::de::{Error, Unexpected};
use serde::{Deserialize, Deserializer, Serialize};

/// The largest width or kernel that an option may name, and that an edit may widen to.
pub(crate) const LARGEST: usize = 1 << 16;

/// A rising list of widths.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(try_from = "Vec<usize>")]
pub(crate) struct Widths(pub(crate) Vec<usize>);

/// A rising list of odd kernel sizes.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(try_from = "Vec<usize>")]
pub(crate) struct Kernels(pub(crate) Vec<usize>);

/// A number within bounds.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "usize")]
pub(crate) struct Bounded<const LEAST: usize, const MOST: usize>(pub(crate) usize);

impl<const LEAST: usize, const MOST: usize> TryFrom<usize> for Bounded<LEAST, MOST> {
    type Error = String;

    fn try_from(number: usize) -> Result<Self, String> {
        if (LEAST..=MOST).contains(&number) {
            Ok(Bounded(number))
        } else {
            Err(format!("expected a number from {LEAST} to {MOST}, found {number}"))
        }
    }
}

fn rising(list: &[usize]) -> Result<(), String> {
    let bounds = list.iter().all(|width| (1..=LARGEST).contains(width));
    if list.is_empty() || !bounds || list.windows(2).any(|pair| pair[0] >= pair[1]) {
        return Err(format!("expected a rising list of sizes from 1 to {LARGEST}, found {list:?}"));
    }
    Ok(())
}

impl TryFrom<Vec<usize>> for Widths {
    type Error = String;

    fn try_from(list: Vec<usize>) -> Result<Self, String> {
        rising(&list).map(|()| Widths(list))
    }
}

impl TryFrom<Vec<usize>> for Kernels {
    type Error = String;

    fn try_from(list: Vec<usize>) -> Result<Self, String> {
        rising(&list)?;
        match list.iter().find(|kernel| *kernel % 2 == 0) {
            Some(even) => Err(format!("expected odd kernel sizes, found {even}")),
            None => Ok(Kernels(list)),
        }
    }
}

/// Reads a rising list of odd kernel sizes.
pub(crate) fn kernels<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<usize>, D::Error> {
    Kernels::deserialize(deserializer).map(|kernels| kernels.0)
}

/// Reads the deviation of noise, as a ratio of the source weights' deviation: 0 to 1.
pub(crate) fn noise<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    let ratio = f64::deserialize(deserializer)?;
    if (0.0..=1.0).contains(&ratio) {
        Ok(ratio)
    } else {
        Err(D::Error::invalid_value(Unexpected::Float(ratio), &"a ratio from 0 to 1"))
    }
}

/// Reads a dropout rate: at least 0 and less than 1.
pub(crate) fn rate<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    let rate = f64::deserialize(deserializer)?;
    if (0.0..1.0).contains(&rate) {
        Ok(rate)
    } else {
        Err(D::Error::invalid_value(
            Unexpected::Float(rate),
            &"a rate of at least 0 and less than 1",
        ))
    }
}

/// Reads the share of channels that a transition keeps: above 0 and at most 1.
pub(crate) fn compression<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    let share = f64::deserialize(deserializer)?;
    if share > 0.0 && share <= 1.0 {
        Ok(share)
    } else {
        Err(D::Error::invalid_value(Unexpected::Float(share), &"a share above 0 and at most 1"))
    }
}

/// Reads the channels of a first convolution in growth rates: above 0 and at most 64.
pub(crate) fn first_ratio<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    let ratio = f64::deserialize(deserializer)?;
    if ratio > 0.0 && ratio <= 64.0 {
        Ok(ratio)
    } else {
        Err(D::Error::invalid_value(Unexpected::Float(ratio), &"a ratio above 0 and at most 64"))
    }
}
