//! How a policy decides about a transform: what a controller builds an actor from.

/// How the edits of one step are chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Yes or no for every site, independently, in site order (the paper's wider actor). A site that
    /// no longer fits, given those already taken, is masked.
    EachSite,
    /// One edit, chosen factor by factor along the paths of the legal ones (the paper's deeper
    /// actor: block, layer, kernel). `levels` are the sizes of the softmaxes, from the space's
    /// limits, so that they don't depend on the network at hand.
    OnePick {
        /// Choices at each level of the path.
        levels: Vec<usize>,
    },
    /// Every legal edit, at the end of the episode; nothing is learned about it.
    Always,
}
