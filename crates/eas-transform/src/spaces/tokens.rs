//! Networks as token sequences: what a policy's encoder reads (method: Cai et al. 2018, section
//! 3.1: one token a layer, its kind and its width; pooling is a token without a size).

use eas_ir::{Network, Op, Shape};

use crate::space::Token;

/// The vocabulary of a space with these widths of convolutions and linear layers, and these kernel
/// sizes: what [`SearchSpace::vocabulary`](crate::SearchSpace::vocabulary) may return.
pub fn vocabulary(filters: &[usize], units: &[usize], kernels: &[usize]) -> Vec<String> {
    let pairs = filters.iter().flat_map(|f| kernels.iter().map(move |k| format!("conv-{f}-{k}")));
    let linear = units.iter().map(|units| format!("linear-{units}"));
    let rest = ["pool", "conv", "linear", "add", "concat"].map(str::to_owned);
    pairs.chain(linear).chain(rest).collect()
}

/// The tokens of a network: its layers, poolings and joins in topological order. A layer whose width
/// or kernel is in no list is a plain `conv` or `linear`; the classifier is left out. `words` come
/// from [`vocabulary`].
///
/// # Panics
/// Words that don't come from there.
pub fn tokens(network: &Network, words: &[String]) -> Vec<Token> {
    let output = network.output().map(|node| node.id);
    let find = |word: &str| words.iter().position(|known| known == word);
    let mut tokens = Vec::new();
    for node in network.nodes().iter().filter(|node| Some(node.id) != output) {
        let (exact, kind) = match node.op {
            Op::Conv { filters, kernel, .. } => (format!("conv-{filters}-{kernel}"), "conv"),
            Op::Linear { units, .. } => (format!("linear-{units}"), "linear"),
            Op::MaxPool { .. } | Op::AveragePool { .. } | Op::GlobalPool => {
                ("pool".to_owned(), "pool")
            }
            Op::Add => ("add".to_owned(), "add"),
            Op::Concat => ("concat".to_owned(), "concat"),
            Op::Input { shape: Shape::Image { .. } | Shape::Flat { .. } }
            | Op::BatchNorm { .. }
            | Op::Relu
            | Op::Flatten
            | Op::Dropout { .. } => continue,
        };
        let id = find(&exact).or_else(|| find(kind)).expect("every kind is in the vocabulary");
        let site = matches!(node.op, Op::Conv { .. } | Op::Linear { .. }).then_some(node.id);
        tokens.push(Token { id, site });
    }
    tokens
}
