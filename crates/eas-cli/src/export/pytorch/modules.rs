//! The modules of PyTorch code: what builds a layer, and functions for layers of the same form.

use std::collections::{BTreeMap, BTreeSet};

use eas_ir::{BATCH_NORM_EPSILON, Op, Shape, Shapes};

use super::graph::Layer;

/// The longest line of code that is written.
pub(super) const LONGEST_LINE: usize = 96;

/// A module's constructor: its name, sizes, each with what it is called, and what is the same for all
/// modules of its form.
struct Constructor {
    name: &'static str,
    sizes: Vec<Size>,
    rest: Vec<String>,
    /// What it is called in a function's name.
    word: &'static str,
}

struct Size {
    name: &'static str,
    value: usize,
    /// What it is where it isn't given; others are given by name.
    usual: Option<usize>,
}

fn size(name: &'static str, value: usize) -> Size {
    Size { name, value, usual: None }
}

fn keyword(name: &'static str, value: usize, usual: usize) -> Size {
    Size { name, value, usual: Some(usual) }
}

/// The constructor of an operation that reads a value of this shape.
fn constructor(op: &Op, input: Shape) -> Constructor {
    let plain = |name, word| Constructor { name, sizes: Vec::new(), rest: Vec::new(), word };
    match *op {
        Op::Conv { filters, kernel, stride, padding, groups, bias } => {
            let sizes = vec![
                size("inputs", input.channels()),
                size("filters", filters),
                size("kernel", kernel),
                keyword("stride", stride, 1),
                keyword("padding", padding, 0),
                keyword("groups", groups, 1),
            ];
            let rest = if bias { Vec::new() } else { vec!["bias=False".to_owned()] };
            Constructor { name: "nn.Conv2d", sizes, rest, word: "conv" }
        }
        Op::Linear { units, bias } => {
            let sizes = vec![size("inputs", input.channels()), size("units", units)];
            let rest = if bias { Vec::new() } else { vec!["bias=False".to_owned()] };
            Constructor { name: "nn.Linear", sizes, rest, word: "linear" }
        }
        Op::BatchNorm { epsilon } => {
            let name = match input {
                Shape::Image { .. } => "nn.BatchNorm2d",
                Shape::Flat { .. } => "nn.BatchNorm1d",
            };
            let usual = epsilon == BATCH_NORM_EPSILON;
            let rest = if usual { Vec::new() } else { vec![format!("eps={epsilon:e}")] };
            let sizes = vec![size("channels", input.channels())];
            Constructor { name, sizes, rest, word: "norm" }
        }
        Op::Relu => plain("nn.ReLU", "relu"),
        Op::Dropout { rate } => {
            Constructor { rest: vec![rate.to_string()], ..plain("nn.Dropout", "dropout") }
        }
        Op::MaxPool { size: side, stride, padding } => {
            let padding = keyword("padding", padding, 0);
            let sizes = vec![size("size", side), size("stride", stride), padding];
            Constructor { sizes, ..plain("MaxPool", "pool") }
        }
        Op::AveragePool { size: side, stride } => {
            let sizes = vec![size("size", side), size("stride", stride)];
            Constructor { sizes, ..plain("nn.AvgPool2d", "pool") }
        }
        Op::GlobalPool => plain("GlobalPool", "pool"),
        Op::Flatten => plain("nn.Flatten", "flatten"),
        Op::Input { .. } | Op::Add | Op::Concat => {
            unreachable!("no layer holds an input or a join")
        }
    }
}

/// Whether a layer's code needs a class that PyTorch doesn't have, `MaxPool` or `GlobalPool`.
pub(super) fn classes_needed(layers: &[Layer<'_>], shapes: &Shapes) -> BTreeSet<&'static str> {
    let all = layers.iter().flat_map(|layer| constructors(layer, shapes));
    all.map(|constructor| constructor.name).filter(|name| !name.starts_with("nn.")).collect()
}

fn constructors(layer: &Layer<'_>, shapes: &Shapes) -> Vec<Constructor> {
    layer.nodes.iter().map(|node| constructor(&node.op, shapes[node.inputs[0]])).collect()
}

/// What is the same for layers of one form: everything but sizes.
fn form(constructors: &[Constructor]) -> String {
    let each = constructors.iter().map(|constructor| {
        let sizes: Vec<&str> = constructor.sizes.iter().map(|size| size.name).collect();
        format!("{} {} {}", constructor.name, sizes.join(","), constructor.rest.join(","))
    });
    each.collect::<Vec<_>>().join("; ")
}

/// A constructor with its sizes as written.
fn call(constructor: &Constructor, sizes: &[String]) -> String {
    let given = constructor.sizes.iter().zip(sizes).filter_map(|(size, text)| match size.usual {
        Some(usual) if usual.to_string() == *text => None,
        Some(_) => Some(format!("{}={text}", size.name)),
        None => Some(text.clone()),
    });
    let arguments: Vec<String> = given.chain(constructor.rest.iter().cloned()).collect();
    format!("{}({})", constructor.name, arguments.join(", "))
}

/// One module, or several behind one another, indented by four spaces for each of `depth`.
fn sequence(parts: &[String], depth: usize) -> String {
    let (indent, outer) = ("    ".repeat(depth + 1), "    ".repeat(depth));
    match parts {
        [only] => only.clone(),
        _ => {
            let lines: String = parts.iter().map(|part| format!("{indent}{part},\n")).collect();
            format!("nn.Sequential(\n{lines}{outer})")
        }
    }
}

/// Functions that build layers of the same form, and each layer as code.
#[derive(Debug, Default)]
pub(super) struct Code {
    /// The functions.
    pub(super) functions: String,
    /// An expression a layer.
    pub(super) layers: Vec<Expression>,
}

/// What builds a layer.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Expression {
    /// A function of this module with these sizes.
    Call { function: String, sizes: Vec<usize> },
    /// Modules behind one another.
    Modules(Vec<String>),
}

impl Expression {
    /// As code, at a depth of indentation.
    pub(super) fn text(&self, depth: usize) -> String {
        match self {
            Expression::Call { function, sizes } => {
                let sizes: Vec<String> = sizes.iter().map(usize::to_string).collect();
                format!("{function}({})", sizes.join(", "))
            }
            Expression::Modules(parts) => sequence(parts, depth),
        }
    }
}

impl Code {
    /// Of all layers of a network.
    pub(super) fn of(layers: &[Layer<'_>], shapes: &Shapes) -> Self {
        let built: Vec<Vec<Constructor>> =
            layers.iter().map(|layer| constructors(layer, shapes)).collect();
        let mut forms: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (place, constructors) in built.iter().enumerate() {
            forms.entry(form(constructors)).or_default().push(place);
        }
        let mut code = Code::default();
        let mut names = BTreeSet::new();
        let mut functions: Vec<(usize, String)> = Vec::new();
        let mut expressions: BTreeMap<usize, Expression> = BTreeMap::new();
        for members in forms.values() {
            let alike: Vec<&Vec<Constructor>> =
                members.iter().map(|place| &built[*place]).collect();
            if members.len() < 2 || alike[0].len() < 2 {
                for (place, constructors) in members.iter().zip(alike) {
                    let parts = constructors.iter().map(|constructor| {
                        let sizes = constructor.sizes.iter().map(|size| size.value.to_string());
                        call(constructor, &sizes.collect::<Vec<_>>())
                    });
                    expressions.insert(*place, Expression::Modules(parts.collect()));
                }
                continue;
            }
            let name = function_name(members, layers, alike[0], &mut names);
            let (text, arguments) = function(&name, &alike);
            functions.push((members[0], text));
            for (place, sizes) in members.iter().zip(arguments) {
                expressions.insert(*place, Expression::Call { function: name.clone(), sizes });
            }
        }
        functions.sort();
        code.functions = functions.into_iter().map(|(_, text)| text + "\n\n").collect();
        code.layers = expressions.into_values().collect();
        code
    }
}

/// A name for what builds layers of one form: that of their operations, or of their kind where they are
/// many.
fn function_name(
    members: &[usize],
    layers: &[Layer<'_>],
    constructors: &[Constructor],
    taken: &mut BTreeSet<String>,
) -> String {
    let words: Vec<&str> = constructors.iter().map(|constructor| constructor.word).collect();
    let kind = layers[members[0]].label.map(|label| label.kind.trim_start_matches('_'));
    let base = match (words.len() <= 4, kind) {
        (true, _) => words.join("_"),
        (false, Some(kind)) if !kind.is_empty() => format!("{kind}_layer"),
        (false, _) => "layer".to_owned(),
    };
    let mut name = base.clone();
    let mut number = 2;
    while !taken.insert(name.clone()) {
        name = format!("{base}_{number}");
        number += 1;
    }
    name
}

/// Whether a size is a number of channels, rather than one of a window.
fn is_width(size: &Size) -> bool {
    ["inputs", "filters", "units", "channels"].contains(&size.name)
}

/// A function that builds layers of one form, and the arguments of each of them. Sizes that are always
/// equal are one argument, and those of windows that are the same in all are written into it.
fn function(name: &str, alike: &[&Vec<Constructor>]) -> (String, Vec<Vec<usize>>) {
    let columns: Vec<Vec<usize>> = (0..alike[0].iter().map(|c| c.sizes.len()).sum())
        .map(|column| {
            let value = |layer: &&Vec<Constructor>| {
                layer.iter().flat_map(|c| &c.sizes).nth(column).map_or(0, |size| size.value)
            };
            alike.iter().map(value).collect()
        })
        .collect();
    let mut arguments: Vec<(String, Vec<usize>)> = Vec::new();
    let mut texts = Vec::new();
    let sizes = alike[0].iter().flat_map(|constructor| &constructor.sizes);
    for (size, column) in sizes.zip(columns) {
        let known = arguments.iter().find(|(_, known)| *known == column);
        let halves = arguments.iter().find(|(name, known)| {
            let kernel = name.starts_with("kernel") && size.name == "padding";
            kernel && known.iter().zip(&column).all(|(k, p)| k / 2 == *p)
        });
        texts.push(match (known, halves) {
            (Some((name, _)), _) if is_width(size) => name.clone(),
            _ if !is_width(size) && column.iter().all(|value| *value == column[0]) => {
                column[0].to_string()
            }
            (Some((name, _)), _) => name.clone(),
            (None, Some((name, _))) => format!("{name} // 2"),
            (None, None) => {
                let same = arguments.iter().filter(|(name, _)| name.starts_with(size.name)).count();
                let name = match same {
                    0 => size.name.to_owned(),
                    _ => format!("{}_{}", size.name, same + 1),
                };
                arguments.push((name.clone(), column));
                name
            }
        });
    }
    let mut texts = texts.into_iter();
    let parts: Vec<String> = alike[0]
        .iter()
        .map(|constructor| {
            let own: Vec<String> = texts.by_ref().take(constructor.sizes.len()).collect();
            call(constructor, &own)
        })
        .collect();
    let names: Vec<&str> = arguments.iter().map(|(name, _)| name.as_str()).collect();
    let body = sequence(&parts, 1);
    let text = format!("def {name}({}):\n    return {body}\n", names.join(", "));
    let of_layer = |layer| arguments.iter().map(|(_, column)| column[layer]).collect();
    (text, (0..alike.len()).map(of_layer).collect())
}
