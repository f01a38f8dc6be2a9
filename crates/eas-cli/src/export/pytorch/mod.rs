//! A model as a module of PyTorch: `model.py`, which reads like one that a person wrote and needs nothing
//! but torch, and `model.safetensors`, with its weights under PyTorch's names.

mod graph;
mod modules;

use std::collections::BTreeMap;

use anyhow::Context;
use eas_ir::{Label, Metadata, Network, Op, ParamId, Role, SavedModel, Shape, Shapes};
use safetensors::tensor::{Dtype, TensorView};

use graph::{Graph, Layer, Line};
use modules::{Code, Expression, LONGEST_LINE, classes_needed};

/// The parts of the file that no network changes.
const HEAD: &str = include_str!("head.py");
const TAIL: &str = include_str!("tail.py");
const PICTURE: &str = include_str!("picture.py");
const MAX_POOL: &str = include_str!("max_pool.py");
const GLOBAL_POOL: &str = include_str!("global_pool.py");

/// What stands in them of pictures, which have one channel or three.
const CLASSIFY_CALL: &str = "    elif len(sys.argv) > 1:\n        classify(sys.argv[1:])\n";
const CLASSIFY_WORDS: &str =
    "    python model.py IMAGE ...   classifies image files (needs Pillow)\n";

/// A model in PyTorch.
#[derive(Debug)]
pub(crate) struct PyTorch {
    /// `model.py`.
    pub(crate) code: String,
    /// `model.safetensors`.
    pub(crate) weights: Vec<u8>,
}

/// Some layers in a row that are called alike.
struct Group {
    /// The attribute; of one layer its name.
    name: String,
    /// Places of the layers.
    layers: Vec<usize>,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    One,
    /// Behind one another.
    Sequential,
    /// In a loop.
    List,
}

impl PyTorch {
    /// Of a model.
    ///
    /// # Errors
    /// Weights that don't fit into a file.
    pub(crate) fn of(saved: &SavedModel) -> anyhow::Result<Self> {
        let (network, shapes) = (saved.model.network(), saved.model.shapes());
        let graph = Graph::of(network);
        let (groups, forward) = grouped(&graph);
        let code = Code::of(&graph.layers, shapes);
        let mut text = head(&saved.metadata, network, shapes);
        for class in classes_needed(&graph.layers, shapes) {
            text += if class == "MaxPool" { MAX_POOL } else { GLOBAL_POOL };
            text += "\n\n";
        }
        text += &code.functions;
        text += "class Network(nn.Module):\n    def __init__(self):\n        super().__init__()\n";
        for group in &groups {
            let layers: Vec<&Expression> =
                group.layers.iter().map(|place| &code.layers[*place]).collect();
            text += &format!("        self.{} = {}\n", group.name, attribute(group.kind, &layers));
        }
        text += "\n    def forward(self, x):\n";
        for line in ended(forward) {
            text += &format!("        {line}\n");
        }
        text += "\n\n";
        if let Shape::Image { channels: 1 | 3, .. } = saved.model.input_shape() {
            text += PICTURE;
            text += "\n\n";
            text += TAIL;
        } else {
            text += &TAIL.replace(CLASSIFY_CALL, "");
            text = text.replace(CLASSIFY_WORDS, "");
        }
        Ok(PyTorch { code: text, weights: weights(saved, &graph, &groups)? })
    }
}

/// What comes before the network's classes: what the file is, and what was known of the data.
fn head(metadata: &Metadata, network: &Network, shapes: &Shapes) -> String {
    let input = shapes[network.nodes()[0].id];
    let literal = |text: &str| serde_json::to_string(text).unwrap_or_default();
    let classes: Vec<String> = metadata.classes.iter().map(|class| literal(class)).collect();
    let numbers = |values: &[f32]| values.iter().map(f32::to_string).collect::<Vec<_>>();
    let (mean, deviation) = match &metadata.normalisation {
        Some(known) => (numbers(&known.mean), numbers(&known.deviation)),
        None => (Vec::new(), Vec::new()),
    };
    let sides = match input {
        Shape::Image { channels, height, width } => format!("{channels}, {height}, {width}"),
        Shape::Flat { features } => format!("{features}"),
    };
    let fit = match metadata.fit {
        eas_ir::Fit::Crop => "crop",
        eas_ir::Fit::Stretch => "stretch",
    };
    HEAD.replace("INPUT_WORDS", &input.to_string())
        .replace("CLASS_COUNT", &shapes.output().channels().to_string())
        .replace("VERSION", env!("CARGO_PKG_VERSION"))
        .replace("SIDES", &sides)
        .replace("FIT_NAME", fit)
        .replace("DEVIATIONS", &list(&deviation))
        .replace("MEANS", &list(&mean))
        // Last, since the names of classes may be anything.
        .replace("CLASS_NAMES", &list(&classes))
}

/// A list as code, on several lines where one would be too long.
fn list(items: &[String]) -> String {
    let line = items.join(", ");
    if line.len() < LONGEST_LINE - 16 {
        return format!("[{line}]");
    }
    let lines: String = items.iter().map(|item| format!("    {item},\n")).collect();
    format!("[\n{lines}]")
}

/// An operation without weights in `forward`, of these values.
fn operation(op: &Op, operands: &[String]) -> String {
    let x = operands.first().map_or("x", String::as_str);
    match *op {
        Op::Relu => format!("F.relu({x})"),
        Op::Dropout { rate } => format!("F.dropout({x}, {rate}, self.training)"),
        Op::MaxPool { size, stride, padding: 0 } => format!("F.max_pool2d({x}, {size}, {stride})"),
        Op::MaxPool { size, stride, padding } if 2 * padding <= size => {
            format!("F.max_pool2d({x}, {size}, {stride}, {padding})")
        }
        Op::MaxPool { size, stride, padding } => {
            let border = format!("F.pad({x}, [{padding}] * 4, value=float(\"-inf\"))");
            format!("F.max_pool2d({border}, {size}, {stride})")
        }
        Op::AveragePool { size, stride } => format!("F.avg_pool2d({x}, {size}, {stride})"),
        Op::GlobalPool => format!("{x}.mean((2, 3))"),
        Op::Flatten => format!("{x}.flatten(1)"),
        Op::Add => operands.join(" + "),
        Op::Concat => format!("torch.cat([{}], 1)", operands.join(", ")),
        Op::Input { .. } | Op::Conv { .. } | Op::BatchNorm { .. } | Op::Linear { .. } => {
            unreachable!("the input is a variable, and what has weights is a module")
        }
    }
}

/// The attributes of the network, and the lines of `forward`: layers of one block that are called alike,
/// one behind the other, are called in a loop, or are one sequence.
fn grouped(graph: &Graph<'_>) -> (Vec<Group>, Vec<String>) {
    let block = |line: &Line| -> Option<(&str, u32)> {
        let [layer] = line.layers[..] else { return None };
        let label: &Label = graph.layers[layer].label?;
        Some((&label.kind, label.block))
    };
    // The classifier stands apart from what may be called like it.
    let last = graph.layers.len().checked_sub(1);
    let single = |line: &Line| line.layers.len() == 1 && line.layers.first().copied() != last;
    let mut groups: Vec<Group> = Vec::new();
    let mut forward = Vec::new();
    let mut unlabelled = 0;
    let runs = graph.lines.chunk_by(|first, second| {
        single(first)
            && first.text == second.text
            && single(second)
            && block(first) == block(second)
    });
    for run in runs {
        let line = &run[0];
        if run.len() == 1 {
            let mut text = line.text.clone();
            for place in &line.layers {
                let name = graph.layers[*place].name.clone();
                text = text.replacen("{}", &format!("self.{name}"), 1);
                groups.push(Group { name, layers: vec![*place], kind: Kind::One });
            }
            forward.push(text);
            continue;
        }
        let mut name = match block(line) {
            Some((kind, block)) if !kind.starts_with('_') => format!("{kind}{block}"),
            _ => {
                unlabelled += 1;
                format!("block{unlabelled}")
            }
        };
        while groups.iter().any(|group| group.name == name)
            || graph.layers.iter().any(|layer| layer.name == name)
        {
            name.push_str("_more");
        }
        let layers = run.iter().flat_map(|line| line.layers.iter().copied()).collect();
        let kind = if line.text == "x = {}(x)" { Kind::Sequential } else { Kind::List };
        if kind == Kind::Sequential {
            forward.push(format!("x = self.{name}(x)"));
        } else {
            forward.push(format!("for layer in self.{name}:"));
            forward.push(format!("    {}", line.text.replacen("{}", "layer", 1)));
        }
        groups.push(Group { name, layers, kind });
    }
    (groups, forward)
}

/// The lines, where the last value is returned without a name.
fn ended(mut lines: Vec<String>) -> Vec<String> {
    if let [.., before, last] = lines.as_slice()
        && let Some(name) = last.strip_prefix("return ")
        && let Some(value) = before.strip_prefix(&format!("{name} = "))
    {
        let last = format!("return {value}");
        lines.truncate(lines.len() - 2);
        lines.push(last);
    }
    lines
}

/// What an attribute of the network is set to.
fn attribute(kind: Kind, layers: &[&Expression]) -> String {
    let (open, close, star) = match kind {
        Kind::One => return layers[0].text(2),
        Kind::Sequential => ("nn.Sequential(", ")", "*"),
        Kind::List => ("nn.ModuleList(", ")", ""),
    };
    if let Some(items) = comprehension(layers) {
        return format!("{open}{star}[{items}]{close}");
    }
    let lines: String =
        layers.iter().map(|layer| format!("            {},\n", layer.text(3))).collect();
    match kind {
        Kind::List => format!("nn.ModuleList([\n{lines}        ])"),
        _ => format!("nn.Sequential(\n{lines}        )"),
    }
}

/// Calls of one function that differ in one size at most.
fn comprehension(layers: &[&Expression]) -> Option<String> {
    let calls: Vec<(&String, &Vec<usize>)> = layers
        .iter()
        .map(|layer| match layer {
            Expression::Call { function, sizes } => Some((function, sizes)),
            Expression::Modules(_) => None,
        })
        .collect::<Option<_>>()?;
    let (function, first) = calls[0];
    if calls.len() < 3 || calls.iter().any(|(other, _)| *other != function) {
        return None;
    }
    let differs = |place: &usize| calls.iter().any(|(_, sizes)| sizes[*place] != first[*place]);
    let varying: Vec<usize> = (0..first.len()).filter(differs).collect();
    let mut arguments: Vec<String> = first.iter().map(usize::to_string).collect();
    let values = match varying[..] {
        [] => format!("_ in range({})", calls.len()),
        [place] => {
            arguments[place] = "size".to_owned();
            let values: Vec<usize> = calls.iter().map(|(_, sizes)| sizes[place]).collect();
            let step = values[1].checked_sub(values[0]).filter(|step| *step > 0)?;
            values.windows(2).all(|pair| pair[0] + step == pair[1]).then_some(())?;
            let end = values[values.len() - 1] + step;
            format!("size in range({}, {end}, {step})", values[0])
        }
        _ => return None,
    };
    Some(format!("{function}({}) for {values}", arguments.join(", ")))
}

/// The bytes of `model.safetensors`: what `load_state_dict` takes, and the probe.
fn weights(saved: &SavedModel, graph: &Graph<'_>, groups: &[Group]) -> anyhow::Result<Vec<u8>> {
    let mut tensors: BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)> = BTreeMap::new();
    let bytes = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect();
    for group in groups {
        for (number, place) in group.layers.iter().enumerate() {
            let prefix = match group.kind {
                Kind::One => group.name.clone(),
                Kind::Sequential | Kind::List => format!("{}.{number}", group.name),
            };
            let layer: &Layer<'_> = &graph.layers[*place];
            for (index, node) in layer.nodes.iter().enumerate() {
                let module = match layer.nodes.len() {
                    1 => prefix.clone(),
                    _ => format!("{prefix}.{index}"),
                };
                let inputs: Vec<Shape> =
                    node.inputs.iter().map(|input| saved.model.shapes()[*input]).collect();
                for (role, shape) in node.op.parameters(&inputs) {
                    let values = saved.model.values(ParamId::new(node.id, role));
                    let values = values.context("a model has all its parameters")?;
                    let name = format!("{module}.{}", name_of(role));
                    tensors.insert(name, (Dtype::F32, shape, bytes(values)));
                }
                if let Op::BatchNorm { .. } = node.op {
                    // PyTorch counts batches; only a momentum of None makes use of it.
                    let count = (Dtype::I64, Vec::new(), 0i64.to_le_bytes().to_vec());
                    tensors.insert(format!("{module}.num_batches_tracked"), count);
                }
            }
        }
    }
    if let (Some(probe), Some(_)) = (&saved.metadata.probe, &saved.metadata.normalisation) {
        let images = probe.images.iter().copied().collect();
        let shape = match saved.model.input_shape() {
            Shape::Image { .. } => probe.images.shape().to_vec(),
            Shape::Flat { features } => vec![probe.images.dim().0, features],
        };
        tensors.insert("probe.images".to_owned(), (Dtype::U8, shape, images));
        let logits: Vec<f32> = probe.logits.iter().copied().collect();
        let shape = probe.logits.shape().to_vec();
        tensors.insert("probe.logits".to_owned(), (Dtype::F32, shape, bytes(&logits)));
    }
    let views: Vec<(&String, TensorView<'_>)> = tensors
        .iter()
        .map(|(name, (dtype, shape, bytes))| {
            Ok((name, TensorView::new(*dtype, shape.clone(), bytes)?))
        })
        .collect::<Result<_, safetensors::SafeTensorError>>()?;
    Ok(safetensors::serialize(views, None)?)
}

/// What PyTorch calls a parameter.
fn name_of(role: Role) -> &'static str {
    match role {
        Role::Weight | Role::Gamma => "weight",
        Role::Bias | Role::Beta => "bias",
        Role::Mean => "running_mean",
        Role::Variance => "running_var",
    }
}
