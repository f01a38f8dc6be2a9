//! The messages of an ONNX file, as far as they are written or read here; fields that aren't declared are
//! skipped. Names and numbers are those of `onnx.proto` (github.com/onnx/onnx), which is proto2: presence
//! matters where a field is optional, and lists aren't packed unless it says so.

use prost::Message;
use prost::bytes::{Buf, Bytes};
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

/// Values of [`Tensor::data_type`] that occur here.
pub(super) const FLOAT: i32 = 1;
/// 64-bit integers.
pub(super) const INT64: i32 = 7;

/// Values of [`Attribute::kind`] that occur here.
pub(super) const KIND_FLOAT: i32 = 1;
pub(super) const KIND_INT: i32 = 2;
pub(super) const KIND_INTS: i32 = 7;

/// [`Tensor::data_location`] of a tensor whose numbers stand in another file.
pub(super) const EXTERNAL: i32 = 1;

/// The most messages and list entries of a file. A network of 10,000 nodes has some 200,000.
const MOST_PARTS: usize = 1 << 20;

#[derive(Clone, PartialEq, Message)]
pub(super) struct Model {
    #[prost(int64, tag = "1")]
    pub(super) ir_version: i64,
    #[prost(string, tag = "2")]
    pub(super) producer_name: String,
    #[prost(string, tag = "3")]
    pub(super) producer_version: String,
    #[prost(message, optional, tag = "7")]
    pub(super) graph: Option<Graph>,
    #[prost(message, repeated, tag = "8")]
    pub(super) opset_import: Vec<OperatorSet>,
    #[prost(message, repeated, tag = "14")]
    pub(super) metadata_props: Vec<Entry>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct OperatorSet {
    #[prost(string, tag = "1")]
    pub(super) domain: String,
    #[prost(int64, tag = "2")]
    pub(super) version: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Entry {
    #[prost(string, tag = "1")]
    pub(super) key: String,
    #[prost(string, tag = "2")]
    pub(super) value: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Graph {
    #[prost(message, repeated, tag = "1")]
    pub(super) node: Vec<Node>,
    #[prost(string, tag = "2")]
    pub(super) name: String,
    #[prost(message, repeated, tag = "5")]
    pub(super) initializer: Vec<Tensor>,
    #[prost(message, repeated, tag = "11")]
    pub(super) input: Vec<ValueInfo>,
    #[prost(message, repeated, tag = "12")]
    pub(super) output: Vec<ValueInfo>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Node {
    #[prost(string, repeated, tag = "1")]
    pub(super) input: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    pub(super) output: Vec<String>,
    #[prost(string, tag = "3")]
    pub(super) name: String,
    #[prost(string, tag = "4")]
    pub(super) op_type: String,
    #[prost(message, repeated, tag = "5")]
    pub(super) attribute: Vec<Attribute>,
    #[prost(string, tag = "6")]
    pub(super) doc_string: String,
    #[prost(string, tag = "7")]
    pub(super) domain: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Attribute {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(float, optional, tag = "2")]
    pub(super) f: Option<f32>,
    #[prost(int64, optional, tag = "3")]
    pub(super) i: Option<i64>,
    #[prost(bytes = "bytes", optional, tag = "4")]
    pub(super) s: Option<Bytes>,
    #[prost(message, optional, tag = "5")]
    pub(super) t: Option<Tensor>,
    #[prost(int64, repeated, packed = "false", tag = "8")]
    pub(super) ints: Vec<i64>,
    #[prost(int32, tag = "20")]
    pub(super) kind: i32,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Tensor {
    #[prost(int64, repeated, packed = "false", tag = "1")]
    pub(super) dims: Vec<i64>,
    #[prost(int32, tag = "2")]
    pub(super) data_type: i32,
    #[prost(float, repeated, tag = "4")]
    pub(super) float_data: Vec<f32>,
    #[prost(int64, repeated, tag = "7")]
    pub(super) int64_data: Vec<i64>,
    #[prost(string, tag = "8")]
    pub(super) name: String,
    #[prost(bytes = "bytes", tag = "9")]
    pub(super) raw_data: Bytes,
    #[prost(message, repeated, tag = "13")]
    pub(super) external_data: Vec<Entry>,
    #[prost(int32, tag = "14")]
    pub(super) data_location: i32,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ValueInfo {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(message, optional, tag = "2")]
    pub(super) r#type: Option<Type>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Type {
    #[prost(message, optional, tag = "1")]
    pub(super) tensor_type: Option<TensorType>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct TensorType {
    #[prost(int32, tag = "1")]
    pub(super) elem_type: i32,
    #[prost(message, optional, tag = "2")]
    pub(super) shape: Option<TensorShape>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct TensorShape {
    #[prost(message, repeated, tag = "1")]
    pub(super) dim: Vec<Dimension>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Dimension {
    #[prost(int64, optional, tag = "1")]
    pub(super) dim_value: Option<i64>,
    #[prost(string, optional, tag = "2")]
    pub(super) dim_param: Option<String>,
}

/// Decodes a file. Its parts are counted first: two bytes are enough for an empty node, whose message
/// takes two hundred.
pub(super) fn decode(bytes: Bytes) -> Result<Model, String> {
    let mut left = MOST_PARTS;
    count(&bytes, Part::Model, &mut left)?;
    Model::decode(bytes).map_err(|error| error.to_string())
}

/// Decodes a file of one tensor.
pub(super) fn decode_tensor(bytes: Bytes) -> Result<Tensor, String> {
    let mut left = MOST_PARTS;
    count(&bytes, Part::Tensor, &mut left)?;
    Tensor::decode(bytes).map_err(|error| error.to_string())
}

/// What a message is, as far as it holds lists.
#[derive(Clone, Copy)]
enum Part {
    Model,
    Graph,
    Node,
    Attribute,
    Tensor,
    Value,
    Type,
    TensorType,
    Shape,
    /// Numbers, some of which take a byte each.
    Numbers,
    /// Text, an entry, or what isn't declared.
    Leaf,
}

impl Part {
    /// What stands in a field of this number.
    fn field(self, number: u32) -> Part {
        match (self, number) {
            (Part::Model, 7) => Part::Graph,
            (Part::Graph, 1) => Part::Node,
            (Part::Graph, 5) | (Part::Attribute, 5) => Part::Tensor,
            (Part::Graph, 11 | 12) => Part::Value,
            (Part::Node, 5) => Part::Attribute,
            (Part::Value, 2) => Part::Type,
            (Part::Type, 1) => Part::TensorType,
            (Part::TensorType, 2) => Part::Shape,
            (Part::Attribute, 8) | (Part::Tensor, 1 | 7) => Part::Numbers,
            _ => Part::Leaf,
        }
    }
}

/// Takes a message's parts from those that are left.
fn count(mut bytes: &[u8], part: Part, left: &mut usize) -> Result<(), String> {
    let wrong = |error: prost::DecodeError| error.to_string();
    let take = |parts: usize, left: &mut usize| {
        *left = left
            .checked_sub(parts)
            .ok_or_else(|| format!("expected at most {MOST_PARTS} parts, found more"))?;
        Ok::<(), String>(())
    };
    while bytes.has_remaining() {
        let (number, wire) = decode_key(&mut bytes).map_err(wrong)?;
        take(1, left)?;
        if wire != WireType::LengthDelimited {
            skip_field(wire, number, &mut bytes, DecodeContext::default()).map_err(wrong)?;
            continue;
        }
        let length = decode_varint(&mut bytes).map_err(wrong)?;
        let length = usize::try_from(length).ok().filter(|length| *length <= bytes.len());
        let length = length.ok_or("the file ends within a field")?;
        let (inside, behind) = bytes.split_at(length);
        bytes = behind;
        match part.field(number) {
            Part::Leaf => {}
            Part::Numbers => take(length, left)?,
            nested => count(inside, nested, left)?,
        }
    }
    Ok(())
}
