"""Trains a network from the same weights on the same batches in EAS and in PyTorch, epochs of 5,000
CIFAR-10 images, and prints how far apart their training losses are, of steps and of epochs. What counts
as the same, of an epoch, is twice what PyTorch is from itself at one thread and at two, or 2 %, whichever
is more; PyTorch's channels_last is held to it beside EAS. Of several seeds it also prints the differences'
means, standard errors and root mean squares. Whether EAS trains the same at one thread and two is looked
at for the first seed.

    EAS_DATA=DIR python curve.py [--networks A,B] [--seeds 1,2] [--epochs N] [--learning-rate R] [--example PATH]

PATH is the program that `cargo build --release -p eas-train --example curve` makes.
"""

import argparse
import json
import math
import os
import subprocess
import tempfile
from pathlib import Path

import numpy
import torch
from torch.nn import functional

from peer import Graph

HERE = Path(__file__).parent
NETWORKS = HERE.parent / "networks"
BATCH, IMAGES = 64, 5000
# What is compared with PyTorch at one thread.
NAMES = ["EAS", "two threads", "channels_last"]
ROLES = {
    "weight": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "mean": "running_mean",
    "variance": "running_var",
}


def tensors(path):
    """The tensors of a safetensors file."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    types = {"F32": numpy.float32, "U32": numpy.uint32, "U8": numpy.uint8}
    for name, entry in header.items():
        begin, end = (8 + length + offset for offset in entry["data_offsets"])
        values = numpy.frombuffer(data[begin:end], types[entry["dtype"]])
        yield name, values.reshape(entry["shape"])


def ours(example, network, out, seed, epochs, rate, threads):
    """The loss of each step in EAS."""
    environment = os.environ | {"RAYON_NUM_THREADS": str(threads)}
    command = [str(example), str(network), str(out), seed, str(epochs), str(rate)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return [float(line) for line in done.stdout.split()]


def theirs(network, out, epochs, rate, threads, layout=torch.contiguous_format):
    """The loss of each step in PyTorch."""
    torch.set_num_threads(threads)
    model = Graph(network).to(memory_format=layout)
    with torch.no_grad():
        for name, values in tensors(out / "model" / "weights.safetensors"):
            node, role = name.rsplit(".", 1)
            if node in model.layers:
                getattr(model.layers[node], ROLES[role]).copy_(torch.from_numpy(values.copy()))
    optimiser = torch.optim.SGD(
        model.parameters(), rate, momentum=0.9, weight_decay=1e-4, nesterov=True
    )
    losses = []
    for epoch in range(epochs):
        batches = dict(tensors(out / f"epoch-{epoch}.safetensors"))
        images = torch.from_numpy(batches["images"].copy()).contiguous(memory_format=layout)
        labels = torch.from_numpy(batches["labels"].astype(numpy.int64))
        for part in range(0, len(labels), BATCH):
            x, y = images[part : part + BATCH], labels[part : part + BATCH]
            optimiser.zero_grad(set_to_none=True)
            loss = functional.cross_entropy(model(x), y)
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
    return losses


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", default="released,paper,wide,densenet")
    parser.add_argument("--seeds", default="1")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--learning-rate", type=float, default=0.05)
    parser.add_argument("--example", default=HERE.parents[1] / "target/release/examples/curve")
    args = parser.parse_args()
    seeds = args.seeds.split(",")
    recipe = (args.epochs, args.learning_rate)
    for name in args.networks.split(","):
        runs = []
        for seed in seeds:
            with tempfile.TemporaryDirectory() as folder:
                out, network = Path(folder) / name, NETWORKS / f"{name}.toml"
                eas = ours(args.example, network, out, seed, *recipe, 1)
                if seed == seeds[0]:
                    same = eas == ours(args.example, network, out, seed, *recipe, 2)
                    print(f"{name}, seed {seed}: the same at one thread and two: {same}", flush=True)
                one, two = (theirs(network, out, *recipe, threads) for threads in (1, 2))
                channels_last = theirs(network, out, *recipe, 1, torch.channels_last)
            steps = numpy.array([eas, one, two, channels_last])
            print(f"{name}, seed {seed}")
            show_steps(steps)
            runs.append(epochs_of(steps, args.epochs))
            show_epochs(runs[-1])
        if len(seeds) > 1:
            print(f"{name}, {len(seeds)} seeds")
            show_means(numpy.array(runs))


def epochs_of(steps, epochs):
    """Mean losses of epochs, [program, epoch], from those of steps; an epoch's last batch may be smaller."""
    counts = numpy.minimum(BATCH, IMAGES - numpy.arange(0, IMAGES, BATCH))
    return steps.reshape(len(steps), epochs, len(counts)) @ counts / IMAGES


def show_steps(steps):
    """The most that steps up to some are from PyTorch's at one thread, relative to their mean loss."""
    eas, one, two, channels_last = steps
    gaps = numpy.abs(numpy.array([eas, two, channels_last]) - one)
    for step in 2 ** numpy.arange(int(math.log2(len(one))) + 1):
        most = gaps[:, :step].max(axis=1) / one[:step].mean()
        each = ", ".join(f"{who} {gap:.1e}" for who, gap in zip(NAMES, most))
        print(f"  steps up to {step}, most: {each}", flush=True)


def show_epochs(losses):
    """How far `losses`, [program, epoch], are from PyTorch's at one thread, and what is allowed."""
    eas, one, two, channels_last = losses
    for epoch, (a, b, c, d) in enumerate(zip(eas, one, two, channels_last), 1):
        bound = max(2 * abs(b - c), 0.02 * b)
        print(f"  epoch {epoch}: PyTorch {b:.5f} and {c:.5f} at one thread and two,", end="")
        print(f" bound {bound / b:.2%};", end="")
        for who, loss in [(" EAS", a), (", channels_last", d)]:
            verdict = "within" if abs(loss - b) <= bound else "BEYOND"
            print(f"{who} {loss:.5f}, apart by {abs(loss - b) / b:.2%}, {verdict}", end="")
        print(flush=True)


def show_means(runs):
    """Differences of `runs`, [seed, program, epoch], to PyTorch at one thread."""
    eas, one, two, channels_last = runs.transpose(1, 0, 2)
    for who, losses in zip(NAMES, [eas, two, channels_last]):
        differences = (losses - one) / one
        means = differences.mean(axis=0)
        errors = differences.std(axis=0, ddof=1) / len(differences) ** 0.5
        squares = (differences**2).mean(axis=0) ** 0.5
        each = (f"{m:+.2%} ± {e:.2%} ({s:.2%})" for m, e, s in zip(means, errors, squares))
        print(f"  {who} from PyTorch at one thread, each epoch: {', '.join(each)}", flush=True)


if __name__ == "__main__":
    main()
