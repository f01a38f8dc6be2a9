//! Operators that move axes and values alone, and the arithmetic on shapes before them.

use super::call::Call;
use super::import::{Activation, Import, Value};
use super::sizes::{Size, Sizes};
use super::tensors::few;
use crate::op::Op;
use crate::shape::Shape;

impl<'a> Import<'a> {
    /// The axes that a node names, in an attribute or, by later versions, an input.
    pub(super) fn axes(&mut self, call: Call<'a>) -> Result<Vec<i64>, String> {
        match call.ints("axes") {
            Some(axes) if axes.len() <= 8 => Ok(axes.to_vec()),
            None if call.input(1).is_some() => self.sizes(call, 1)?.fixed(),
            _ => Err("expected its axes to be named".to_owned()),
        }
    }

    pub(super) fn flatten(&mut self, call: Call<'a>) -> Result<Value, String> {
        call.knows(&["axis"])?;
        let read = self.activation(call, 0)?;
        let axes = self.sides(read).len() as i64;
        match call.int("axis", 1) {
            axis if axis == 1 || axis == 1 - axes => self.flat(call, read),
            axis => Err(format!("axis {axis}: expected 1, behind the batch")),
        }
    }

    /// A value as a vector.
    fn flat(&mut self, call: Call<'a>, read: Activation) -> Result<Value, String> {
        Ok(Value::Node(Activation::of(match self.shapes[&read.node] {
            Shape::Image { .. } => self.push(call, Op::Flatten, &[read.node], Vec::new())?,
            Shape::Flat { .. } => read.node,
        })))
    }

    /// The sides of a value in the graph.
    pub(super) fn sides(&self, read: Activation) -> Vec<Size> {
        let mut sides = vec![Size::Batch];
        match self.shapes[&read.node] {
            Shape::Image { channels, height, width } => {
                sides.extend([channels, height, width].map(|side| Size::Fixed(side as i64)));
            }
            Shape::Flat { features } => sides.push(Size::Fixed(features as i64)),
        }
        if read.pooled {
            sides.extend([Size::Fixed(1); 2]);
        }
        sides
    }

    pub(super) fn reshape(&mut self, call: Call<'a>) -> Result<Value, String> {
        call.knows(&["allowzero"])?;
        let wanted = self.sizes(call, 1)?.values;
        if call.int("allowzero", 0) != 0 && wanted.contains(&Size::Fixed(0)) {
            return Err(format!("shape {}: expected sides above 0", few(&wanted)));
        }
        let read = self.activation(call, 0)?;
        let sides = self.sides(read);
        let found = self.reshaped(&wanted, &sides);
        let found = found.ok_or_else(|| format!("shape {}: expected [batch, -1]", few(&wanted)))?;
        let features = self.shapes[&read.node].elements() as i64;
        let [_, behind @ ..] = sides.as_slice() else { return Err("expected sides".to_owned()) };
        if found.iter().map(|side| Size::Fixed(*side)).eq(behind.iter().copied()) {
            return Ok(Value::Node(read));
        }
        match found.as_slice() {
            &[flat] if flat == features => self.flat(call, read),
            &[flat, 1, 1] if flat == features => match self.flat(call, read)? {
                Value::Node(flat) => Ok(Value::Node(Activation { pooled: true, ..flat })),
                other => Ok(other),
            },
            other => Err(format!("shape {}: expected [batch, -1]", few(other))),
        }
    }

    /// The sides behind the batch that a reshape asks for, where it keeps the batch.
    fn reshaped(&self, wanted: &[Size], sides: &[Size]) -> Option<Vec<i64>> {
        let fixed = |size: &Size| match size {
            Size::Fixed(side) => Some(*side),
            Size::Batch => None,
        };
        let (batch, behind) = wanted.split_first()?;
        let elements = sides[1..].iter().filter_map(fixed).product::<i64>();
        let mut found: Vec<i64> = Vec::new();
        for (place, side) in (1..).zip(behind) {
            found.push(match side {
                Size::Fixed(0) => fixed(sides.get(place)?)?,
                other => fixed(other)?,
            });
        }
        let mut known = found.iter().filter(|side| **side != -1);
        let known = known.try_fold(1i64, |product, side| product.checked_mul(*side))?;
        let open: Vec<usize> = (0..found.len()).filter(|place| found[*place] == -1).collect();
        match (batch, open.as_slice()) {
            (Size::Fixed(-1), []) => {}
            (Size::Fixed(-1), _) => return None,
            (Size::Batch | Size::Fixed(0), []) => {}
            (Size::Fixed(side), _) if *side != 0 && Some(*side) != self.batch => return None,
            (_, []) => {}
            (_, &[place]) if known > 0 && elements % known == 0 => found[place] = elements / known,
            _ => return None,
        }
        let product = found.iter().try_fold(1i64, |product, side| product.checked_mul(*side))?;
        (product == elements).then_some(found)
    }

    pub(super) fn squeeze(&mut self, call: Call<'a>) -> Result<Value, String> {
        call.knows(&["axes"])?;
        if let Value::Sizes(sizes) = self.at(call, 0)? {
            return Ok(Value::Sizes(Sizes { scalar: sizes.values.len() == 1, ..sizes }));
        }
        let read = self.activation(call, 0)?;
        let mut axes = self.axes(call)?;
        axes.iter_mut().filter(|axis| **axis < 0).for_each(|axis| *axis += 4);
        axes.sort_unstable();
        if read.pooled && axes == [2, 3] {
            return Ok(Value::Node(Activation { pooled: false, ..read }));
        }
        Err(format!("axes {}: expected a height and width of 1", few(&axes)))
    }

    pub(super) fn unsqueeze(&mut self, call: Call<'a>) -> Result<Value, String> {
        call.knows(&["axes"])?;
        let sizes = self.sizes(call, 0)?;
        match self.axes(call)?.as_slice() {
            [0 | -1] if sizes.scalar => Ok(Value::Sizes(Sizes { scalar: false, ..sizes })),
            axes => Err(format!("axes {}: expected 0, of one integer", few(axes))),
        }
    }

    pub(super) fn transpose(&mut self, call: Call<'a>) -> Result<Value, String> {
        call.knows(&["perm"])?;
        match self.at(call, 0)? {
            Value::Floats(matrix)
                if matrix.ndim() == 2 && matches!(call.ints("perm"), None | Some([1, 0])) =>
            {
                let name = call.input(0).unwrap_or_default();
                Ok(Value::Floats(self.transposed(name, &matrix)?))
            }
            _ => Err("only a matrix of weights may be transposed".to_owned()),
        }
    }

    pub(super) fn shape(&mut self, call: Call<'a>) -> Result<Value, String> {
        call.knows(&["start", "end"])?;
        let read = match self.at(call, 0)? {
            // To ask for their shape is not to read them.
            Value::Images(_) => Activation::of(self.network.nodes()[0].id),
            value => self.activation_of(value)?,
        };
        let sizes = Sizes { values: self.sides(read), scalar: false };
        Ok(Value::Sizes(sizes.slice(call.int("start", 0), call.int("end", i64::MAX))))
    }

    pub(super) fn gather(&mut self, call: Call<'a>) -> Result<Value, String> {
        call.knows(&["axis"])?;
        call.expect("axis", 0)?;
        let (sizes, places) = (self.sizes(call, 0)?, self.sizes(call, 1)?);
        Ok(Value::Sizes(sizes.gather(&places)?))
    }

    pub(super) fn slice(&mut self, call: Call<'a>) -> Result<Value, String> {
        call.knows(&[])?;
        let sizes = self.sizes(call, 0)?;
        let mut bounds = Vec::new();
        for place in 1..call.node.input.len() {
            match self.sizes(call, place)?.fixed()?.as_slice() {
                [only] => bounds.push(*only),
                found => return Err(format!("expected one axis, found {}", found.len())),
            }
        }
        match bounds.as_slice() {
            [start, end] | [start, end, 0] | [start, end, 0, 1] => {
                Ok(Value::Sizes(sizes.slice(*start, *end)))
            }
            _ => Err("expected a slice of a shape, every place of it".to_owned()),
        }
    }
}
