//! A node of a file: its inputs, its attributes, and the square window that it may slide.

use super::messages::{Attribute, Node as FileNode, Tensor as FileTensor};
use super::quoted;
use super::tensors::few;

/// The most that a size in a file may be, far above any that an operation takes.
const LARGEST: i64 = 1 << 24;

/// A node of a file.
#[derive(Clone, Copy)]
pub(super) struct Call<'a> {
    pub(super) node: &'a FileNode,
}

/// A square window that slides over an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) size: usize,
    pub(super) stride: usize,
    pub(super) padding: usize,
}

impl<'a> Call<'a> {
    /// The name of an input, if it isn't left out.
    pub(super) fn input(&self, place: usize) -> Option<&'a str> {
        self.node.input.get(place).map(String::as_str).filter(|name| !name.is_empty())
    }

    fn attribute(&self, name: &str) -> Option<&'a Attribute> {
        self.node.attribute.iter().find(|attribute| attribute.name == name)
    }

    /// Refuses attributes that aren't among these: they may change what is computed.
    pub(super) fn knows(&self, names: &[&str]) -> Result<(), String> {
        let unknown = |attribute: &&Attribute| !names.contains(&attribute.name.as_str());
        match self.node.attribute.iter().find(unknown) {
            Some(unknown) => Err(format!("attribute {} isn't supported", quoted(&unknown.name))),
            None => Ok(()),
        }
    }

    /// An integer; some writers leave a 0 out.
    pub(super) fn int(&self, name: &str, default: i64) -> i64 {
        self.attribute(name).map_or(default, |attribute| attribute.i.unwrap_or(0))
    }

    /// A number; some writers leave a 0 out.
    pub(super) fn float(&self, name: &str, default: f32) -> f32 {
        self.attribute(name).map_or(default, |attribute| attribute.f.unwrap_or(0.0))
    }

    pub(super) fn ints(&self, name: &str) -> Option<&'a [i64]> {
        self.attribute(name).map(|attribute| attribute.ints.as_slice())
    }

    pub(super) fn tensor(&self, name: &str) -> Option<&'a FileTensor> {
        self.attribute(name)?.t.as_ref()
    }

    /// Refuses any other value of an attribute than this one, which it has where it is left out.
    pub(super) fn expect(&self, name: &str, expected: i64) -> Result<(), String> {
        match self.int(name, expected) {
            found if found == expected => Ok(()),
            found => Err(format!("{name} {found}: expected {expected}")),
        }
    }

    /// The window by which a convolution with this kernel, or a pool without one, goes over an image.
    pub(super) fn window(
        &self,
        [height, width]: [usize; 2],
        kernel: Option<[usize; 2]>,
    ) -> Result<Window, String> {
        let two = |name: &str, default: [i64; 2]| match self.ints(name) {
            None => Ok(default),
            Some(&[a, b]) if [a, b].iter().all(|side| (1..=LARGEST).contains(side)) => Ok([a, b]),
            Some(found) => Err(format!("{name} {}: expected two numbers above 0", few(found))),
        };
        let square = |name: &str, sides: [i64; 2]| match sides {
            [a, b] if a == b => Ok(a as usize),
            _ => Err(format!("{name} {sides:?}: expected a square")),
        };
        let known = kernel.map(|sides| sides.map(|side| side as i64));
        let sides = match (self.ints("kernel_shape"), known) {
            (None, None) => return Err("expected a kernel_shape".to_owned()),
            (_, known) => two("kernel_shape", known.unwrap_or_default())?,
        };
        if known.is_some_and(|known| known != sides) {
            return Err(format!(
                "kernel_shape {sides:?}: the kernel is {}",
                few(&known.unwrap_or_default())
            ));
        }
        let size = square("kernel", sides)?;
        let stride = square("strides", two("strides", [1, 1])?)?;
        if two("dilations", [1, 1])? != [1, 1] {
            return Err(format!(
                "dilations {}: expected 1",
                few(self.ints("dilations").unwrap_or(&[]))
            ));
        }
        let padding = self.padding(size, stride)?;
        if self.int("ceil_mode", 0) != 0 {
            let uneven =
                |side: usize| (side + 2 * padding).checked_sub(size).map(|s| s % stride) != Some(0);
            if uneven(height) || uneven(width) {
                return Err(format!(
                    "ceil_mode 1: expected windows that come out even, found {size}x{size} by {stride} on \
                     {height}x{width}"
                ));
            }
        }
        Ok(Window { size, stride, padding })
    }

    fn padding(&self, size: usize, stride: usize) -> Result<usize, String> {
        let rule = self.attribute("auto_pad").and_then(|attribute| attribute.s.as_deref());
        match rule.unwrap_or(b"NOTSET") {
            b"NOTSET" => {}
            b"VALID" => return Ok(0),
            b"SAME_UPPER" | b"SAME_LOWER" if stride == 1 && size % 2 == 1 => return Ok(size / 2),
            _ => return Err("auto_pad: expected padding that is the same on every side".to_owned()),
        }
        match self.ints("pads") {
            None => Ok(0),
            Some(&[top, left, bottom, right])
                if (0..=LARGEST).contains(&top) && [left, bottom, right] == [top; 3] =>
            {
                Ok(top as usize)
            }
            Some(found) => Err(format!("pads {}: expected the same on every side", few(found))),
        }
    }
}
