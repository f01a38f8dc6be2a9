"""Times single convolutions in EAS and in PyTorch in turn, and prints milliseconds, GFLOP/s and ratios: medians of
the pairs. Forward is the convolution, backward the gradients of its input and of its weight, in f32 or, with values and
slopes of bf16 for PyTorch, in bf16. PyTorch counts by the better of NCHW and channels_last, each direction by itself.

    cargo build --release -p eas-train --example shapes
    python shapes.py [--shapes 4x4x32x3,...] [--batch 64] [--threads 1,2] [--pairs 5] [--seconds 1]
                     [--precision f32|bf16]

A shape is CHANNELSxFILTERSxSIDExKERNEL.
"""

import argparse
import json
import statistics
import subprocess
import time
from pathlib import Path

import torch

HERE = Path(__file__).parent
SHAPES = "4x4x32x3,3x16x32x3,16x32x16x3,64x128x16x3,256x512x4x3,96x96x32x5"
DIRECTIONS = ["forward", "backward"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--example", default=HERE.parents[1] / "target/release/examples/shapes")
    parser.add_argument("--shapes", default=SHAPES)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="for a shape, in each of both")
    parser.add_argument("--precision", choices=["f32", "bf16"], default="f32")
    args = parser.parse_args()
    print(f"{'shape':>13} threads direction   eas ms  torch ms  eas GFLOP/s  torch GFLOP/s  ratio")
    for threads in map(int, args.threads.split(",")):
        torch.set_num_threads(threads)
        for shape in args.shapes.split(","):
            compare(args, shape, threads)


def compare(args, shape, threads):
    channels, filters, side, kernel = map(int, shape.split("x"))
    flops = 2 * args.batch * side**2 * kernel**2 * channels * filters
    pairs = [(eas(args, shape, threads), peer(args, shape)) for _ in range(args.pairs)]
    for count, direction in enumerate(DIRECTIONS, 1):
        ours = statistics.median(pair[0][direction] for pair in pairs)
        theirs = statistics.median(pair[1][direction] for pair in pairs)
        ratios = sorted(pair[1][direction] / pair[0][direction] for pair in pairs)
        # The backward pass is two convolutions.
        rate = lambda milliseconds: count * flops / milliseconds / 1e6
        print(
            f"{shape:>13} {threads:7} {direction:9} {ours:8.3f}  {theirs:8.3f}  {rate(ours):11.1f}"
            f"  {rate(theirs):13.1f}  {statistics.median(ratios):5.2f}"
            f" ({ratios[0]:.2f} to {ratios[-1]:.2f})",
            flush=True,
        )


def eas(args, shape, threads):
    command = [args.example, args.batch, threads, args.seconds, args.precision, shape]
    command = [str(word) for word in command]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def peer(args, shape):
    layouts = [torch.contiguous_format, torch.channels_last]
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[args.precision]
    found = [torch_times(shape, args.batch, args.seconds / 2, dtype, layout) for layout in layouts]
    return {direction: min(times[direction] for times in found) for direction in DIRECTIONS}


@torch.no_grad()
def torch_times(shape, batch, seconds, dtype, layout):
    channels, filters, side, kernel = map(int, shape.split("x"))
    padding = kernel // 2
    make = lambda *size: torch.randn(size, dtype=dtype).contiguous(memory_format=layout)
    images, weight = make(batch, channels, side, side), make(filters, channels, kernel, kernel)
    slopes = make(batch, filters, side, side)

    def forward():
        torch.nn.functional.conv2d(images, weight, padding=padding)

    def backward():
        torch.ops.aten.convolution_backward(
            slopes, images, weight, None, [1, 1], [padding] * 2, [1, 1], False, [0, 0], 1,
            [True, True, False],
        )

    times, started = {direction: [] for direction in DIRECTIONS}, time.perf_counter()
    # The first two steps warm memory and caches.
    while len(times["forward"]) < 7 or time.perf_counter() - started < seconds:
        for direction, work in zip(DIRECTIONS, [forward, backward]):
            began = time.perf_counter()
            work()
            times[direction].append(1e3 * (time.perf_counter() - began))
    return {direction: statistics.median(taken[2:]) for direction, taken in times.items()}


if __name__ == "__main__":
    main()
