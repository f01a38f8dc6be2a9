//! What each operator of ONNX is in the IR.

use std::rc::Rc;

use super::affine::{Affine, per_channel};
use super::call::Call;
use super::import::{Activation, Import, Value};
use super::messages::{FLOAT, INT64};
use super::sizes::Sizes;
use super::tensors::few;
use crate::network::NodeId;
use crate::op::{BATCH_NORM_EPSILON, Op};
use crate::shape::Shape;
use crate::weights::{ParamId, Role, Tensor, tensor};

pub(super) type Reader<'a> = fn(&mut Import<'a>, Call<'a>) -> Result<Value, String>;

/// Who reads an operator.
pub(super) fn reader<'a>(op_type: &str) -> Option<Reader<'a>> {
    Some(match op_type {
        "Add" | "Div" | "Mul" | "Sub" => Import::arithmetic,
        "AveragePool" => Import::average_pool,
        "BatchNormalization" => Import::batch_norm,
        "Cast" => Import::cast,
        "Concat" => Import::concat,
        "Constant" => Import::constant_node,
        "Conv" => Import::conv,
        "Dropout" => Import::dropout,
        "Flatten" => Import::flatten,
        "Gather" => Import::gather,
        "Gemm" => Import::gemm,
        "GlobalAveragePool" => Import::global_pool,
        "Identity" => Import::identity,
        "MatMul" => Import::mat_mul,
        "MaxPool" => Import::max_pool,
        "ReduceMean" => Import::reduce_mean,
        "Relu" => Import::relu,
        "Reshape" => Import::reshape,
        "Shape" => Import::shape,
        "Slice" => Import::slice,
        "Squeeze" => Import::squeeze,
        "Sum" => Import::sum,
        "Transpose" => Import::transpose,
        "Unsqueeze" => Import::unsqueeze,
        _ => return None,
    })
}

/// What to do about an operator that isn't supported, where something can be done.
pub(super) fn hint(op_type: &str) -> Option<&'static str> {
    Some(match op_type {
        "Softmax" | "LogSoftmax" => {
            "this operator isn't supported: export the network up to its logits, without a softmax"
        }
        "QuantizeLinear" | "DequantizeLinear" | "QLinearConv" | "ConvInteger" => {
            "this operator isn't supported: export the network before it is quantised"
        }
        "If" | "Loop" | "Scan" => {
            "this operator isn't supported: export a network without control flow"
        }
        _ => return None,
    })
}

/// The most operations on the images before the network: each may hold a number for every channel.
const MOST_FRONTS: usize = 16;

impl<'a> Import<'a> {
    fn relu(&mut self, call: Call<'a>) -> Result<Value, String> {
        call.knows(&[])?;
        self.elementwise(call, Op::Relu, Vec::new())
    }

    fn conv(&mut self, call: Call<'a>) -> Result<Value, String> {
        call.knows(&["auto_pad", "dilations", "group", "kernel_shape", "pads", "strides"])?;
        let (input, image) = self.image(call)?;
        let weight = self.floats(call, 1)?;
        let &[filters, _, height, width] = weight.shape() else {
            return Err(format!("expected a kernel of 4 sides, found {}", few(weight.shape())));
        };
        let window = call.window(image, Some([height, width]))?;
        let groups = usize::try_from(call.int("group", 1)).unwrap_or(0);
        let mut parameters = vec![(Role::Weight, weight)];
        if call.input(2).is_some() {
            parameters.push((Role::Bias, self.floats(call, 2)?));
        }
        let op = Op::Conv {
            filters,
            kernel: window.size,
            stride: window.stride,
            padding: window.padding,
            groups,
            bias: parameters.len() > 1,
        };
        Ok(Value::Node(Activation::of(self.push(call, op, &[input], parameters)?)))
    }

    fn batch_norm(&mut self, call: Call<'a>) -> Result<Value, String> {
        call.knows(&["epsilon", "momentum", "training_mode"])?;
        // Files of before opset 14 tell by further outputs.
        let moments = call.node.output.iter().skip(1).any(|name| !name.is_empty());
        if moments || call.int("training_mode", 0) != 0 {
            return Err("it is in training mode; export the model after model.eval()".to_owned());
        }
        let mut parameters = Vec::new();
        for (place, role) in (1..).zip([Role::Gamma, Role::Beta, Role::Mean, Role::Variance]) {
            parameters.push((role, self.floats(call, place)?));
        }
        let op = Op::BatchNorm { epsilon: call.float("epsilon", BATCH_NORM_EPSILON) };
        self.elementwise(call, op, parameters)
    }

    fn max_pool(&mut self, call: Call<'a>) -> Result<Value, String> {
        let known = [
            "auto_pad",
            "ceil_mode",
            "dilations",
            "kernel_shape",
            "pads",
            "storage_order",
            "strides",
        ];
        call.knows(&known)?;
        let (input, image) = self.image(call)?;
        let window = call.window(image, None)?;
        let (size, stride, padding) = (window.size, window.stride, window.padding);
        let node = self.push(call, Op::MaxPool { size, stride, padding }, &[input], Vec::new())?;
        Ok(Value::Node(Activation::of(node)))
    }

    fn average_pool(&mut self, call: Call<'a>) -> Result<Value, String> {
        let known = [
            "auto_pad",
            "ceil_mode",
            "count_include_pad",
            "dilations",
            "kernel_shape",
            "pads",
            "strides",
        ];
        call.knows(&known)?;
        let (input, image) = self.image(call)?;
        let window = call.window(image, None)?;
        if window.padding != 0 {
            return Err(format!(
                "pads {}: a mean over a padded image isn't supported",
                window.padding
            ));
        }
        let op = Op::AveragePool { size: window.size, stride: window.stride };
        Ok(Value::Node(Activation::of(self.push(call, op, &[input], Vec::new())?)))
    }

    fn global_pool(&mut self, call: Call<'a>) -> Result<Value, String> {
        call.knows(&[])?;
        self.mean(call, true)
    }

    fn mean(&mut self, call: Call<'a>, pooled: bool) -> Result<Value, String> {
        let read = self.activation(call, 0)?;
        let node = if read.pooled {
            read.node
        } else {
            self.push(call, Op::GlobalPool, &[read.node], Vec::new())?
        };
        Ok(Value::Node(Activation { node, pooled }))
    }

    fn reduce_mean(&mut self, call: Call<'a>) -> Result<Value, String> {
        call.knows(&["axes", "keepdims", "noop_with_empty_axes"])?;
        let mut axes = self.axes(call)?;
        axes.iter_mut().filter(|axis| **axis < 0).for_each(|axis| *axis += 4);
        axes.sort_unstable();
        if axes != [2, 3] {
            return Err(format!("axes {}: expected those of height and width", few(&axes)));
        }
        let keeps = call.int("keepdims", 1) != 0;
        self.mean(call, keeps)
    }

    fn gemm(&mut self, call: Call<'a>) -> Result<Value, String> {
        call.knows(&["alpha", "beta", "transA", "transB"])?;
        call.expect("transA", 0)?;
        for factor in ["alpha", "beta"] {
            let found = call.float(factor, 1.0);
            if found != 1.0 {
                return Err(format!("{factor} {found}: expected 1"));
            }
        }
        let bias = call.input(2).is_some().then(|| self.floats(call, 2)).transpose()?;
        self.linear(call, call.int("transB", 0) != 0, bias)
    }

    fn mat_mul(&mut self, call: Call<'a>) -> Result<Value, String> {
        call.knows(&[])?;
        self.linear(call, false, None)
    }

    /// A linear layer whose matrix is `[units, features]`, or else the other way round.
    fn linear(
        &mut self,
        call: Call<'a>,
        units_first: bool,
        bias: Option<Tensor>,
    ) -> Result<Value, String> {
        let read = self.activation(call, 0)?;
        if read.pooled {
            return Err("expected a vector, found one of height and width 1".to_owned());
        }
        let matrix = self.floats(call, 1)?;
        if matrix.ndim() != 2 {
            return Err(format!("expected a matrix, found sides {}", few(matrix.shape())));
        }
        let name = call.input(1).unwrap_or_default();
        let weight = if units_first { matrix } else { self.transposed(name, &matrix)? };
        let units = weight.shape()[0];
        let mut parameters = vec![(Role::Weight, weight)];
        if let Some(bias) = bias {
            let flat = per_channel(&bias, Shape::Flat { features: units });
            let flat = flat.filter(|_| bias.len() == units).ok_or_else(|| {
                format!("expected a bias of {units} numbers, found sides {}", few(bias.shape()))
            })?;
            let values = flat.into_iter().map(|value| value as f32).collect();
            parameters.push((Role::Bias, tensor(&[units], values)));
        }
        let op = Op::Linear { units, bias: parameters.len() > 1 };
        Ok(Value::Node(Activation::of(self.push(call, op, &[read.node], parameters)?)))
    }

    fn dropout(&mut self, call: Call<'a>) -> Result<Value, String> {
        call.knows(&["ratio", "seed"])?;
        let rate = match call.input(1) {
            Some(_) => self.floats(call, 1)?.first().copied().unwrap_or(f32::NAN),
            None => call.float("ratio", 0.5),
        };
        if call.input(2).is_some() {
            return Err(
                "a dropout in training mode: export the model in evaluation mode".to_owned()
            );
        }
        self.elementwise(call, Op::Dropout { rate }, Vec::new())
    }

    /// Sub, Div, Mul and Add: of constants with the images, of sizes, of a bias, of two branches.
    fn arithmetic(&mut self, call: Call<'a>) -> Result<Value, String> {
        call.knows(&[])?;
        let op_type = call.node.op_type.as_str();
        match (self.at(call, 0)?, self.at(call, 1)?) {
            (Value::Images(affine), Value::Floats(constant)) => {
                self.front(op_type, &affine, &constant, false)
            }
            (Value::Floats(constant), Value::Images(affine)) => {
                self.front(op_type, &affine, &constant, true)
            }
            (Value::Sizes(a), Value::Sizes(b)) if op_type == "Mul" => {
                Ok(Value::Sizes(a.times(&b)?))
            }
            (Value::Node(read), Value::Floats(bias)) if op_type == "Add" => {
                self.bias(call, 0, read, &bias)
            }
            (Value::Floats(bias), Value::Node(read)) if op_type == "Add" => {
                self.bias(call, 1, read, &bias)
            }
            _ if op_type == "Add" => self.sum(call),
            _ => Err(format!("{op_type} is supported for a normalisation of the images alone")),
        }
    }

    fn front(
        &mut self,
        op_type: &str,
        affine: &Affine,
        constant: &Tensor,
        first: bool,
    ) -> Result<Value, String> {
        let shape = self.shapes[&self.network.nodes()[0].id];
        let constant = per_channel(constant, shape).ok_or_else(|| {
            format!(
                "expected a number for each channel of {shape}, found sides {}",
                few(constant.shape())
            )
        })?;
        self.fronts += 1;
        if self.fronts > MOST_FRONTS {
            return Err(format!(
                "expected at most {MOST_FRONTS} operations on the images before the network"
            ));
        }
        Ok(Value::Images(Rc::new(affine.then(op_type, &constant, first)?)))
    }

    /// A constant added to what a layer alone gives is its bias.
    fn bias(
        &mut self,
        call: Call<'a>,
        place: usize,
        read: Activation,
        constant: &Tensor,
    ) -> Result<Value, String> {
        let refused = || "adds a constant to what isn't a layer without a bias".to_owned();
        let shape = self.shapes[&read.node];
        let name = call.input(place).unwrap_or_default();
        let is_own = self
            .sources
            .get(&read.node)
            .is_some_and(|source| source.output.first().is_some_and(|o| o == name));
        let is_alone = is_own && self.readers.get(name) == Some(&1);
        let values = per_channel(constant, shape)
            .filter(|_| is_alone && !read.pooled)
            .ok_or_else(refused)?;
        let node = self.network.node_mut(read.node).ok_or_else(refused)?;
        let (Op::Conv { bias: bias @ false, .. } | Op::Linear { bias: bias @ false, .. }) =
            &mut node.op
        else {
            return Err(refused());
        };
        *bias = true;
        let values = values.into_iter().map(|value| value as f32);
        let bias = tensor(&[shape.channels()], values.cycle().take(shape.channels()).collect());
        self.weights.insert(ParamId::new(read.node, Role::Bias), bias);
        Ok(Value::Node(read))
    }

    fn inputs(&mut self, call: Call<'a>) -> Result<Vec<Activation>, String> {
        (0..call.node.input.len()).map(|place| self.activation(call, place)).collect()
    }

    fn sum(&mut self, call: Call<'a>) -> Result<Value, String> {
        call.knows(&[])?;
        let inputs = self.inputs(call)?;
        let pooled = inputs.first().is_some_and(|first| first.pooled);
        if inputs.iter().any(|input| input.pooled != pooled) {
            return Err("adds values of different sides".to_owned());
        }
        if let [only] = inputs.as_slice() {
            return Ok(Value::Node(*only));
        }
        let nodes: Vec<NodeId> = inputs.iter().map(|input| input.node).collect();
        let node = self.push(call, Op::Add, &nodes, Vec::new())?;
        Ok(Value::Node(Activation { node, pooled }))
    }

    fn concat(&mut self, call: Call<'a>) -> Result<Value, String> {
        call.knows(&["axis"])?;
        let axis = call.int("axis", 0);
        if matches!(self.at(call, 0)?, Value::Sizes(_)) {
            let lists: Result<Vec<Sizes>, String> =
                (0..call.node.input.len()).map(|place| self.sizes(call, place)).collect();
            return Ok(Value::Sizes(Sizes::concat(&lists?)?));
        }
        let inputs = self.inputs(call)?;
        let pooled = inputs.first().is_some_and(|first| first.pooled);
        let axes = inputs.first().map_or(0, |first| self.sides(*first).len()) as i64;
        if axis != 1 && axis != 1 - axes {
            return Err(format!("axis {axis}: expected 1, that of the channels"));
        }
        if inputs.iter().any(|input| input.pooled != pooled) {
            return Err("joins values of different sides".to_owned());
        }
        let mut nodes: Vec<NodeId> = inputs.iter().map(|input| input.node).collect();
        // A dense block joins all that came before anew in every layer: what is joined already is read.
        while !self.is_own
            && let [first, second, ..] = nodes[..]
            && let Some(known) = self.concats.get(&(first, second))
        {
            nodes.splice(..2, [*known]);
        }
        let node = match nodes[..] {
            [only] => only,
            _ => self.push(call, Op::Concat, &nodes, Vec::new())?,
        };
        if let [first, second] = nodes[..] {
            self.concats.insert((first, second), node);
        }
        Ok(Value::Node(Activation { node, pooled }))
    }

    /// A node that leaves evaluation as it is.
    fn identity(&mut self, call: Call<'a>) -> Result<Value, String> {
        call.knows(&[])?;
        self.at(call, 0)
    }

    fn cast(&mut self, call: Call<'a>) -> Result<Value, String> {
        call.knows(&["to", "saturate"])?;
        let (value, to) = (self.at(call, 0)?, call.int("to", 0));
        let expected = if matches!(value, Value::Sizes(_)) { INT64 } else { FLOAT };
        if to == i64::from(expected) {
            Ok(value)
        } else {
            Err(format!("to {to}: expected a model of float32 throughout"))
        }
    }

    fn constant_node(&mut self, call: Call<'a>) -> Result<Value, String> {
        call.knows(&["value", "value_int", "value_ints", "value_float"])?;
        if let Some(constant) = call.tensor("value") {
            return self.constant(constant);
        }
        if let Some(ints) = call.ints("value_ints") {
            return Ok(Value::Sizes(Sizes::of(&[ints.len()], ints)?));
        }
        let float = call.float("value_float", f32::NAN);
        if !float.is_nan() {
            return Ok(Value::Floats(tensor(&[], vec![float])));
        }
        Ok(Value::Sizes(Sizes::of(&[], &[call.int("value_int", 0)])?))
    }
}
