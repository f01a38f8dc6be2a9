//! What makes one network of another, node by node.

use std::collections::BTreeMap;

use eas_ir::{Label, Network, Node, NodeId, Op};
use serde::Serialize;
use similar::{Algorithm, DiffOp, capture_diff_slices};

use crate::picture::{COLUMNS, is_drawn, words, wrapped};
use crate::print::table;

/// Nodes of one label that came or went together, or one that is another now.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Change {
    /// The first node, by its id in the second network where it is there.
    pub(crate) node: NodeId,
    pub(crate) label: Option<Label>,
    /// What stood there; nothing where nodes came.
    pub(crate) before: Option<String>,
    /// What stands there; nothing where nodes went.
    pub(crate) after: Option<String>,
}

/// The changes from one network to another, in topological order; none where the architecture is the
/// same.
pub(crate) fn changes(first: &Network, second: &Network) -> Vec<Change> {
    let by_id = share_lineage(first, second);
    let keys = |network: &Network| network.nodes().iter().map(|node| key(node, by_id)).collect();
    let (old, new): (Vec<Key>, Vec<Key>) = (keys(first), keys(second));
    let mut changes = Changes::default();
    let mut kept = Vec::new();
    for run in capture_diff_slices(Algorithm::Myers, &old, &new) {
        let (gone, come) = (&first.nodes()[run.old_range()], &second.nodes()[run.new_range()]);
        if let DiffOp::Equal { .. } = run {
            for (before, after) in gone.iter().zip(come) {
                changes.compare(before, after);
                kept.push((before, after));
            }
        } else {
            gone.iter().for_each(|node| changes.went(node));
            come.iter().for_each(|node| changes.came(node));
        }
    }
    // Where nothing else changed, what reads what did; else that follows from what came and went.
    let rewired = |(before, after): &&(&Node, &Node)| by_id && before.inputs != after.inputs;
    if changes.list.is_empty() {
        for (before, after) in kept.iter().filter(rewired) {
            changes.add(after, Some(reading(before)), Some(reading(after)));
        }
    }
    changes.list
}

/// Whether one can have come of the other by edits: ids stay, and what a node does in kind.
fn share_lineage(first: &Network, second: &Network) -> bool {
    let names: BTreeMap<NodeId, &str> =
        first.nodes().iter().map(|node| (node.id, node.op.name())).collect();
    second.nodes().iter().all(|node| names.get(&node.id).is_none_or(|name| *name == node.op.name()))
}

/// What two nodes have in common that are one: their id, or else what they do in kind.
type Key = (u32, String);

fn key(node: &Node, by_id: bool) -> Key {
    let kind = || node.label.as_ref().map_or("", |label| &label.kind);
    if by_id {
        (node.id.number(), String::new())
    } else {
        (0, format!("{} {}", node.op.name(), kind()))
    }
}

#[derive(Default)]
struct Changes {
    list: Vec<Change>,
    /// Whether the last change is of nodes that came (or went), and their label.
    open: Option<(bool, Option<Label>)>,
}

impl Changes {
    fn add(&mut self, node: &Node, before: Option<String>, after: Option<String>) {
        self.list.push(Change { node: node.id, label: node.label.clone(), before, after });
    }

    fn compare(&mut self, before: &Node, after: &Node) {
        self.open = None;
        let [mut old, mut new] = [before, after].map(node_words);
        if old == new && before.op != after.op {
            [old, new] = [before, after].map(|node| node.op.to_string());
        }
        if old != new {
            self.add(after, Some(old), Some(new));
        }
    }

    fn came(&mut self, node: &Node) {
        match self.together(true, node) {
            Some(Change { after: Some(after), .. }) => *after += &format!(", {}", node_words(node)),
            _ => self.add(node, None, Some(node_words(node))),
        }
    }

    fn went(&mut self, node: &Node) {
        match self.together(false, node) {
            Some(Change { before: Some(before), .. }) => {
                *before += &format!(", {}", node_words(node));
            }
            _ => self.add(node, Some(node_words(node)), None),
        }
    }

    /// The change that this node belongs to, too: that of its label, or, where it has none, of the layer
    /// that it follows.
    fn together(&mut self, came: bool, node: &Node) -> Option<&mut Change> {
        let last = self.open.replace((came, node.label.clone()));
        let same = last == self.open && (node.label.is_some() || !is_drawn(&node.op));
        self.list.last_mut().filter(|_| same)
    }
}

/// A node's operation, with the number of its inputs where that isn't the usual one.
fn node_words(node: &Node) -> String {
    let inputs = node.inputs.len();
    match node.op {
        Op::Add | Op::Concat if inputs != 2 => format!("{} of {inputs}", words(&node.op)),
        _ => words(&node.op),
    }
}

fn reading(node: &Node) -> String {
    let inputs: Vec<String> = node.inputs.iter().map(NodeId::to_string).collect();
    format!("{} ({})", node_words(node), inputs.join(","))
}

/// A line a change, for people: `~ n1  conv0.0  conv 3x3 16 → 32`.
pub(crate) fn text(changes: &[Change]) -> String {
    let row = |change: &Change| {
        let (sign, what) = match (&change.before, &change.after) {
            (Some(before), Some(after)) => ("~", from_to(before, after)),
            (Some(before), None) => ("-", before.clone()),
            (None, after) => ("+", after.clone().unwrap_or_default()),
        };
        let label = change.label.as_ref().map(Label::to_string).unwrap_or_default();
        [format!("{sign} {}", change.node), label, what]
    };
    let header = ["  node", "layer", "change"].map(str::to_owned);
    let rows: Vec<[String; 3]> = [header].into_iter().chain(changes.iter().map(row)).collect();
    let widest = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    // Columns are two spaces apart.
    let left = COLUMNS.saturating_sub(widest(0) + 2 + widest(1) + 2);
    let mut lines = Vec::new();
    for [node, label, what] in rows {
        let mut what = wrapped(&what, left).into_iter();
        lines.push(vec![node, label, what.next().unwrap_or_default()]);
        lines.extend(what.map(|more| vec![String::new(), String::new(), more]));
    }
    table(&lines)
}

/// Two texts, the words at their ends that are the same told once, unless nothing would be left of one.
fn from_to(before: &str, after: &str) -> String {
    let (old, new): (Vec<&str>, Vec<&str>) =
        (before.split(' ').collect(), after.split(' ').collect());
    let front = old.iter().zip(&new).take_while(|(old, new)| old == new).count();
    let (front, old, new) = (&old[..front], &old[front..], &new[front..]);
    let back = old.iter().rev().zip(new.iter().rev()).take_while(|(old, new)| old == new).count();
    let (old, back) = old.split_at(old.len() - back);
    let new = &new[..new.len() - back.len()];
    if old.is_empty() || new.is_empty() {
        return format!("{before} → {after}");
    }
    [front, old, &["→"], new, back].concat().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_words_that_differ_are_told_twice() {
        for (before, after, expected) in [
            ("conv 3x3 16", "conv 3x3 32", "conv 3x3 16 → 32"),
            ("conv 1x1 16", "conv 3x3 16", "conv 1x1 → 3x3 16"),
            ("conv 1x1 16", "conv 3x3 32", "conv 1x1 16 → 3x3 32"),
            ("add", "add of 3", "add → add of 3"),
            ("conv 3x3 16 stride 2", "conv 3x3 16", "conv 3x3 16 stride 2 → conv 3x3 16"),
            ("relu (n1)", "relu (n2)", "relu (n1) → (n2)"),
        ] {
            assert_eq!(from_to(before, after), expected);
        }
    }
}
