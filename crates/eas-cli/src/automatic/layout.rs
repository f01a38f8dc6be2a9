//! The plain CNN that a search begins with, and what may become of it.

use eas_ir::{Count, Shape};

use super::choose::GROWTH;

/// Widths that the paper's space and smaller ones have.
const WIDTHS: [usize; 16] =
    [8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536];
/// The smallest side that pooling leaves.
const LEAST_SIDE: usize = 4;
/// The most poolings: the paper's three, and one for larger images.
const MOST_POOLS: usize = 4;

/// A convolution before each pooling and behind the last, each twice as wide as the one before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// Filters of the first convolution.
    pub(super) width: usize,
    pub(super) pools: usize,
    /// Pixels of a side that they leave.
    pub(super) left: usize,
}

impl Layout {
    pub(super) fn new(shape: Shape, width: usize) -> Self {
        let side = match shape {
            Shape::Image { height, width, .. } => height.min(width),
            Shape::Flat { .. } => 1,
        };
        let fits = |pools: &usize| side >> pools >= LEAST_SIDE;
        let pools = (1..=MOST_POOLS).take_while(fits).last().unwrap_or(0);
        Layout { width, pools, left: side >> pools }
    }

    fn last(&self) -> usize {
        self.width << self.pools
    }

    /// Its layers, as a spec has them.
    pub(super) fn layers(&self) -> Vec<String> {
        let mut layers = Vec::new();
        for block in 0..=self.pools {
            if block > 0 {
                layers.push("pool".to_owned());
            }
            layers.push(format!("conv {}", self.width << block));
        }
        layers.extend(["global_pool".to_owned(), format!("linear {}", 2 * self.last())]);
        layers
    }

    /// The table of the space, for a start network of so many multiply-accumulates, where they are known.
    pub(super) fn table(&self, macs: Option<u64>) -> String {
        let between = |least: usize, most: usize| -> Vec<usize> {
            WIDTHS.into_iter().filter(|width| (least..=most).contains(width)).collect()
        };
        let filters = between(self.width, 4 * self.last());
        let units = between(2 * self.last(), 8 * self.last());
        let limit = macs.map_or("100G".to_owned(), |macs| Count(GROWTH * macs).to_string());
        // A convolution more in each block, on average, and a second linear layer.
        let depth = 2 * (self.pools + 1) + 4;
        let blocks = self.pools + 2;
        format!(
            "[space.convnet]\n\
             start = {:?}  # {} poolings leave {} pixels of a side\n\
             filters = {filters:?}  # what a convolution may be widened to\n\
             units = {units:?}  # what a linear layer may be widened to\n\
             kernels = [1, 3, 5]\n\
             limits = {{ depth = {depth}, parameters = \"30M\", macs = \"{limit}\", memory = \"4GiB\", \
             blocks = {blocks}, layers = 10 }}  # {GROWTH} times the start network's MACs\n",
            self.layers(),
            self.pools,
            self.left,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_poolings_as_the_size_allows() {
        for (side, pools, left) in [
            (1, 0, 1),
            (7, 0, 7),
            (8, 1, 4),
            (28, 2, 7),
            (32, 3, 4),
            (48, 3, 6),
            (64, 4, 4),
            (512, 4, 32),
        ] {
            let shape = Shape::Image { channels: 3, height: side, width: side + 5 };
            let expected = Layout { width: 8, pools, left };
            assert_eq!(Layout::new(shape, 8), expected, "side {side}");
        }
        let shape = Shape::Image { channels: 3, height: 32, width: 32 };
        let layers =
            "conv 16, pool, conv 32, pool, conv 64, pool, conv 128, global_pool, linear 256";
        assert_eq!(Layout::new(shape, 16).layers().join(", "), layers);
    }
}
