"""Runs `eas bench` and PyTorch in turn, as whole processes, and prints the ratio of images a second:
the median of the pairs, against the best of PyTorch's modes. Where all of these are bf16, eas computes in
bf16 too.

    python compare.py [--eas PATH] [--networks A,B] [--batches 64,128] [--threads 1,2]
                      [--modes f32,channels_last,compile] [--pairs 5] [--seconds 3] [--fastest]
                      [--side-by-side 2]

With --side-by-side, one process of one thread, whatever --threads, is compared with so many at once: the sum of
their rates over the rate of one alone. They are started together and rates are those of the median step, so that
it matters little that one begins or ends before another where --seconds are many times as long as a start: 15 or
more.

EAS trains on batches that it draws, crops and mirrors on the way; PyTorch trains on one batch that is there.
PyTorch must be installed for the Python that runs this script.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
NETWORKS = HERE.parent / "networks"


def run(command):
    return together(command, 1)[0]


def together(command, count):
    """What so many processes printed that ran at once."""
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(count)]
    outputs = [process.communicate()[0] for process in processes]
    for process in processes:
        assert process.returncode == 0, f"{command[0]} ended with {process.returncode}"
    return [json.loads(output[output.index("{") :]) for output in outputs]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--eas", default=HERE.parents[1] / "target/release/eas")
    parser.add_argument("--networks", default="released,paper,wide,found,densenet")
    parser.add_argument("--batches", default="64")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--modes", default="f32,channels_last,compile")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument(
        "--fastest",
        action="store_true",
        help="compare the fastest steps, on a machine that others disturb",
    )
    parser.add_argument("--side-by-side", type=int, default=0, metavar="N")
    args = parser.parse_args()
    args.rate = "fastest_images_per_second" if args.fastest else "images_per_second"
    for network in args.networks.split(","):
        for batch in args.batches.split(","):
            if args.side_by_side:
                side_by_side(args, network, batch)
                continue
            for threads in args.threads.split(","):
                compare(args, network, batch, threads)


def commands(args, network, batch, threads):
    """What runs EAS, and PyTorch but for its mode."""
    common = ["--batch", batch, "--threads", threads, "--seconds", str(args.seconds)]
    modes = args.modes.split(",")
    precision = "bf16" if all(mode.startswith("bf16") for mode in modes) else "f32"
    ours = [str(args.eas), "bench", network, *common, "--precision", precision, "--device", "cpu", "--json"]
    return ours, [sys.executable, str(HERE / "peer.py"), str(NETWORKS / f"{network}.toml"), *common]


def side_by_side(args, network, batch):
    count, modes = args.side_by_side, args.modes.split(",")
    ours, peer = commands(args, network, batch, "1")
    runs = {"eas": ours} | {mode: [*peer, "--mode", mode] for mode in modes}
    found = {name: [] for name in runs}
    for _ in range(args.pairs):
        for name, command in runs.items():
            alone = run(command)[args.rate]
            rates = [process[args.rate] for process in together(command, count)]
            found[name].append(sum(rates) / alone)
    row = [f"{network:9} batch {batch:>3}  {count} processes over one"]
    row += [
        f"{name} {statistics.median(gains):.2f} ({min(gains):.2f} to {max(gains):.2f})"
        for name, gains in found.items()
    ]
    print("  ".join(row), flush=True)


def compare(args, network, batch, threads):
    modes = args.modes.split(",")
    ours, peer = commands(args, network, batch, threads)
    eas, torch, ratios = [], {mode: [] for mode in modes}, []
    for _ in range(args.pairs):
        eas.append(run(ours))
        for mode in modes:
            torch[mode].append(run([*peer, "--mode", mode]))
        best = max(torch[mode][-1][args.rate] for mode in modes)
        ratios.append(eas[-1][args.rate] / best)
    rate = lambda runs: statistics.median(r[args.rate] for r in runs)
    memory = lambda runs: min(r["peak_memory_bytes"] for r in runs) >> 20
    row = [f"{network:9} batch {batch:>3} threads {threads}", f"eas {rate(eas):8.0f}"]
    row += [f"{mode} {rate(torch[mode]):8.0f}" for mode in modes]
    row += [
        f"ratio {statistics.median(ratios):5.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
        f"MiB {memory(eas)} / {min(memory(torch[mode]) for mode in modes)}",
    ]
    print("  ".join(row), flush=True)


if __name__ == "__main__":
    main()
