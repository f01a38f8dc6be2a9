//! A picture in the language of Graphviz: a cluster a block, and a dashed one around what repeats.

use eas_ir::Count;

use super::{Chain, Part, Picture, words};

/// The picture as a graph.
pub(crate) fn dot(picture: &Picture) -> String {
    let mut graph = Graph::default();
    let mut last = graph.node(&format!("input {}", picture.input), "ellipse");
    for block in &picture.blocks {
        let [parameters, macs] = [block.cost.parameters, block.cost.macs].map(Count);
        graph.open(&format!(
            "{}\\n{}, {parameters} parameters, {macs} MACs",
            block.name, block.output
        ));
        last = graph.chain(&block.chain, last);
        graph.close();
    }
    format!(
        "digraph network {{\n    node [shape=box, fontname=\"sans-serif\"];\n    graph \
         [fontname=\"sans-serif\"];\n{}{}}}\n",
        graph.nodes, graph.edges
    )
}

#[derive(Default)]
struct Graph {
    nodes: String,
    /// Behind all clusters: an edge within one would put both its ends there.
    edges: String,
    /// Nodes and clusters so far.
    count: usize,
    /// Clusters that are open.
    depth: usize,
}

impl Graph {
    fn line(&mut self, text: &str) {
        self.nodes += &format!("{}{text}\n", "    ".repeat(self.depth + 1));
    }

    fn node(&mut self, label: &str, shape: &str) -> String {
        let name = format!("n{}", self.count);
        self.count += 1;
        self.line(&format!("{name} [label=\"{label}\", shape={shape}];"));
        name
    }

    fn edge(&mut self, from: &str, to: &str) {
        self.edges += &format!("    {from} -> {to};\n");
    }

    fn open(&mut self, label: &str) {
        self.line(&format!("subgraph cluster_{} {{", self.count));
        self.count += 1;
        self.depth += 1;
        self.line(&format!("label=\"{label}\";"));
    }

    fn close(&mut self) {
        self.depth -= 1;
        self.line("}");
    }

    /// Draws a chain behind a node; returns the last one.
    fn chain(&mut self, chain: &Chain, mut last: String) -> String {
        for repeat in chain {
            if repeat.times > 1 {
                self.open(&format!("{} x", repeat.times));
                self.line("style=dashed;");
            }
            for part in &repeat.parts {
                last = self.part(part, last);
            }
            if repeat.times > 1 {
                self.close();
            }
        }
        last
    }

    fn part(&mut self, part: &Part, before: String) -> String {
        match part {
            Part::Layer(op) => {
                let node = self.node(&words(op), "box");
                self.edge(&before, &node);
                node
            }
            Part::Join { op, branches } => {
                let ends: Vec<String> =
                    branches.iter().map(|branch| self.chain(branch, before.clone())).collect();
                let node = self.node(&words(op), "ellipse");
                for end in ends {
                    self.edge(&end, &node);
                }
                node
            }
            Part::Web(ops) => {
                let ops: Vec<String> = ops.iter().map(words).collect();
                let node = self.node(&ops.join("\\n"), "box3d");
                self.edge(&before, &node);
                node
            }
        }
    }
}
