"""Writes the networks that engines are measured on, as network files, beside this script."""

from pathlib import Path


class Network:
    """Nodes in order, as `network.toml` has them."""

    def __init__(self, side=32):
        self.nodes = []
        self.last = self.add(
            f"{{ input = {{ shape = {{ image = {{ channels = 3, height = {side}, width = {side} }} }} }} }}", []
        )

    def add(self, op, inputs=None):
        inputs = [self.last] if inputs is None else inputs
        self.nodes.append((op, inputs))
        self.last = len(self.nodes) - 1
        return self.last

    def conv(self, filters, kernel=3):
        self.add(f"{{ conv = {{ filters = {filters}, kernel = {kernel}, padding = {kernel // 2} }} }}")

    def norm(self):
        self.add("{ batch_norm = { epsilon = 1e-5 } }")
        self.add('"relu"')

    def linear(self, units, bias=False):
        self.add(f"{{ linear = {{ units = {units}, bias = {str(bias).lower()} }} }}")

    def write(self, name):
        lines = ["format = 1", f"next = {len(self.nodes)}"]
        for index, (op, inputs) in enumerate(self.nodes):
            lines += ["", "[[node]]", f'id = "n{index}"', f"op = {op}"]
            if inputs:
                lines.append("inputs = [" + ", ".join(f'"n{i}"' for i in inputs) + "]")
        (Path(__file__).parent / f"{name}.toml").write_text("\n".join(lines) + "\n")


def plain(blocks, units):
    """Blocks of (filters, kernel) with a max pool between them, then a hidden linear layer."""
    network = Network()
    for index, block in enumerate(blocks):
        if index > 0:
            network.add("{ max_pool = { size = 2, stride = 2 } }")
        for filters, kernel in block:
            network.conv(filters, kernel)
            network.norm()
    network.add('"global_pool"')
    network.linear(units)
    network.norm()
    network.linear(10, bias=True)
    return network


def dense(depth, growth):
    """DenseNet-BC (Huang et al. 2017) with three blocks and compression 0.5."""
    network = Network()
    channels = 2 * growth
    network.conv(channels)
    for block in range(3):
        for _ in range((depth - 4) // 6):
            before = network.last
            network.norm()
            network.conv(4 * growth, 1)
            network.norm()
            network.conv(growth)
            network.add('"concat"', [before, network.last])
            channels += growth
        network.norm()
        if block < 2:
            channels //= 2
            network.conv(channels, 1)
            network.add("{ average_pool = { size = 2, stride = 2 } }")
    network.add('"global_pool"')
    network.linear(10, bias=True)
    return network


def single(filters):
    return [[(count, 3)] for count in filters]


plain(single([4, 4, 4, 4]), 8).write("released")
plain(single([16, 32, 64, 128]), 256).write("paper")
plain(single([64, 128, 256, 512]), 256).write("wide")
plain(
    [
        [(96, 3), (96, 5)],
        [(128, 3), (128, 5), (128, 3)],
        [(192, 3), (192, 5), (192, 3), (256, 3)],
        [(256, 5), (256, 3), (256, 5), (256, 3)],
    ],
    256,
).write("found")
dense(40, 12).write("densenet")
