//! Arithmetic on shapes, as exporters write it before a reshape.

use super::tensors::few;

/// A side of a value; that of the batch is known by name alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Size {
    Fixed(i64),
    Batch,
}

/// A list of integers, or one integer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sizes {
    pub(super) values: Vec<Size>,
    /// Whether it is one integer without an axis.
    pub(super) scalar: bool,
}

/// The most integers of a list: no value has more sides.
const LONGEST: usize = 64;

impl Sizes {
    /// The integers of a tensor of these sides.
    pub(super) fn of(sides: &[usize], values: &[i64]) -> Result<Self, String> {
        if sides.len() > 1 || values.len() > LONGEST {
            return Err(format!(
                "expected a list of at most {LONGEST} integers, found {}",
                few(sides)
            ));
        }
        let values = values.iter().map(|value| Size::Fixed(*value)).collect();
        Ok(Sizes { values, scalar: sides.is_empty() })
    }

    /// The integers, where none is the batch's.
    pub(super) fn fixed(&self) -> Result<Vec<i64>, String> {
        let fixed = |size: &Size| match size {
            Size::Fixed(value) => Some(*value),
            Size::Batch => None,
        };
        let values: Option<Vec<i64>> = self.values.iter().map(fixed).collect();
        values.ok_or_else(|| "expected integers that don't depend on the batch".to_owned())
    }

    /// Those at some places, which may count from the end.
    pub(super) fn gather(&self, places: &Sizes) -> Result<Self, String> {
        let count = self.values.len() as i64;
        let pick = |place: i64| {
            let place = if place < 0 { place + count } else { place };
            usize::try_from(place).ok().and_then(|place| self.values.get(place)).copied()
        };
        let found: Option<Vec<Size>> = places.fixed()?.into_iter().map(pick).collect();
        let values = found.ok_or_else(|| format!("expected places below {count}"))?;
        Ok(Sizes { values, scalar: places.scalar })
    }

    /// Those from one place to another, every one.
    pub(super) fn slice(&self, start: i64, end: i64) -> Self {
        let count = self.values.len() as i64;
        let place =
            |at: i64| (if at < 0 { at.saturating_add(count) } else { at }).clamp(0, count) as usize;
        let (start, end) = (place(start), place(end));
        let values = self.values.get(start..end).unwrap_or_default().to_vec();
        Sizes { values, scalar: false }
    }

    /// Lists behind one another.
    pub(super) fn concat(lists: &[Sizes]) -> Result<Self, String> {
        let values: Vec<Size> = lists.iter().flat_map(|list| &list.values).copied().collect();
        if values.len() > LONGEST {
            return Err(format!("expected at most {LONGEST} integers, found {}", values.len()));
        }
        Ok(Sizes { values, scalar: false })
    }

    /// Products of integers at the same places.
    pub(super) fn times(&self, other: &Sizes) -> Result<Self, String> {
        let (mine, others) = (self.fixed()?, other.fixed()?);
        let count = mine.len().max(others.len());
        if [mine.len(), others.len()].iter().any(|length| *length != count && *length != 1) {
            return Err("expected lists of one length".to_owned());
        }
        let pairs = mine.iter().cycle().zip(others.iter().cycle()).take(count);
        let product = |(a, b): (&i64, &i64)| a.checked_mul(*b).map(Size::Fixed);
        let values: Option<Vec<Size>> = pairs.map(product).collect();
        let values = values.ok_or("the product of two sizes is too large")?;
        Ok(Sizes { values, scalar: self.scalar && other.scalar })
    }
}
