"""Trains steps of a network file in PyTorch and prints images a second, in each of some modes in turn.

    python peer.py NETWORK.toml [--batch N] [--threads N] [--modes A,B] [--seconds S]

Peak memory is the process's until a mode's end. Modes: f32 (NCHW), channels_last, compile (channels_last through
torch.compile), bf16 (autocast, channels_last), bf16_compile.
"""

import argparse
import json
import resource
import statistics
import time
import tomllib

import torch
from torch import nn
from torch.nn import functional


class Graph(nn.Module):
    """A network file as a module; nodes are called in order."""

    def __init__(self, path):
        super().__init__()
        with open(path, "rb") as file:
            nodes = tomllib.load(file)["node"]
        self.plan = []
        self.layers = nn.ModuleDict()
        channels = {}
        for node in nodes:
            name, inputs = node["id"], node.get("inputs", [])
            op = node["op"]
            kind, options = (op, {}) if isinstance(op, str) else next(iter(op.items()))
            read = [channels[i] for i in inputs]
            self.plan.append((name, kind, options, inputs))
            match kind:
                case "input":
                    channels[name] = options["shape"]["image"]["channels"]
                    self.input_shape = options["shape"]["image"]
                case "conv":
                    self.layers[name] = nn.Conv2d(
                        read[0],
                        options["filters"],
                        options["kernel"],
                        options.get("stride", 1),
                        options["padding"],
                        groups=options.get("groups", 1),
                        bias=options.get("bias", False),
                    )
                    channels[name] = options["filters"]
                case "linear":
                    self.layers[name] = nn.Linear(
                        read[0], options["units"], options.get("bias", False)
                    )
                    channels[name] = options["units"]
                case "batch_norm":
                    # The rank is known once a value arrives; features are the same.
                    channels[name] = read[0]
                    flat = self.rank(inputs[0]) == 1
                    norm = nn.BatchNorm1d if flat else nn.BatchNorm2d
                    self.layers[name] = norm(read[0], options.get("epsilon", 1e-5))
                case "concat":
                    channels[name] = sum(read)
                case "relu" | "max_pool" | "average_pool" | "global_pool" | "dropout" | "add":
                    channels[name] = read[0]
                case _:
                    raise ValueError(f"expected a known operation, found {kind}")

    def rank(self, name):
        """1 behind a global pool, 3 before it."""
        kinds = {n: (kind, inputs) for n, kind, _, inputs in self.plan}
        kind, inputs = kinds[name]
        if kind in ("global_pool", "linear"):
            return 1
        return 3 if kind == "input" else self.rank(inputs[0])

    def forward(self, images):
        values = {}
        for name, kind, options, inputs in self.plan:
            read = [values[i] for i in inputs]
            match kind:
                case "input":
                    value = images
                case "conv" | "linear" | "batch_norm":
                    value = self.layers[name](read[0])
                case "relu":
                    value = functional.relu(read[0], inplace=kind == "relu" and self.only(inputs[0]))
                case "max_pool":
                    value = functional.max_pool2d(
                        read[0], options["size"], options["stride"], options.get("padding", 0)
                    )
                case "average_pool":
                    value = functional.avg_pool2d(read[0], options["size"], options["stride"])
                case "global_pool":
                    value = functional.adaptive_avg_pool2d(read[0], 1).flatten(1)
                case "dropout":
                    value = functional.dropout(read[0], options["rate"], self.training)
                case "add":
                    value = sum(read[1:], read[0])
                case "concat":
                    value = torch.cat(read, 1)
            values[name] = value
        return values[self.plan[-1][0]]

    def only(self, name):
        """Whether one node alone reads a value, so that it may be overwritten."""
        return sum(name in inputs for _, _, _, inputs in self.plan) == 1


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("network")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--modes", default="channels_last")
    parser.add_argument("--seconds", type=float, default=3.0, help="for each mode")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(json.dumps({mode: measure(args, mode) for mode in args.modes.split(",")}))


def measure(args, mode):
    torch.manual_seed(1)
    model = Graph(args.network)
    shape = model.input_shape
    images = torch.randn(args.batch, shape["channels"], shape["height"], shape["width"])
    if mode != "f32":
        model = model.to(memory_format=torch.channels_last)
        images = images.contiguous(memory_format=torch.channels_last)
    run = torch.compile(model) if mode in ("compile", "bf16_compile") else model
    labels = torch.randint(0, 10, (args.batch,))
    optimiser = torch.optim.SGD(
        model.parameters(), 1e-3, momentum=0.9, weight_decay=1e-4, nesterov=True
    )

    def step():
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=mode.startswith("bf16")):
            loss = functional.cross_entropy(run(images), labels)
        loss.backward()
        optimiser.step()

    for _ in range(3):
        step()
    times, started = [], time.perf_counter()
    while len(times) < 5 or time.perf_counter() - started < args.seconds:
        began = time.perf_counter()
        step()
        times.append(time.perf_counter() - began)
    return {
        "images_per_second": args.batch / statistics.median(times),
        "fastest_images_per_second": args.batch / min(times),
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


if __name__ == "__main__":
    main()
