"""Runs `eas bench` and PyTorch in turn, as whole processes, and prints the ratio of images a second:
the median of the pairs, against the best of PyTorch's modes. Where all of these are bf16, eas computes in
bf16 too.

    python compare.py [--eas PATH] [--networks A,B] [--batches 64,128] [--threads 1,2]
                      [--modes f32,channels_last,compile] [--pairs 5] [--minutes M] [--seconds 3] [--fastest]
                      [--side-by-side 2]

Pairs of all cases come in turn, and none begins after so many minutes. PyTorch's modes are run in turn by one process;
its peak memory is that until the end of the first one.

With --side-by-side, one process of one thread, whatever --threads, is compared with so many at once: the sum of
their rates over the rate of one alone. They are started together and rates are those of the median step, so that
it matters little that one begins or ends before another where --seconds are many times as long as a start: 15 or
more.

EAS trains on batches that it draws, crops and mirrors on the way; PyTorch trains on one batch that is there.
PyTorch must be installed for the Python that runs this script.
"""

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import time
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
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument(
        "--fastest",
        action="store_true",
        help="compare the fastest steps, on a machine that others disturb",
    )
    parser.add_argument("--side-by-side", type=int, default=0, metavar="N")
    args = parser.parse_args()
    args.rate = "fastest_images_per_second" if args.fastest else "images_per_second"
    lists = args.networks.split(","), args.batches.split(",")
    if args.side_by_side:
        for network, batch in itertools.product(*lists):
            side_by_side(args, network, batch)
        return
    cases = {case: [] for case in itertools.product(*lists, args.threads.split(","))}
    end = time.monotonic() + 60 * args.minutes
    for _, (case, pairs) in itertools.product(range(args.pairs), cases.items()):
        if time.monotonic() < end:
            ours, peer = commands(args, *case)
            pairs.append((run(ours), run([*peer, "--modes", args.modes])))
    for case, pairs in cases.items():
        if pairs:
            report(args, case, pairs)
        else:
            print("{:9} batch {:>3} threads {}  no pair in time".format(*case))


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
    runs = {"eas": ours} | {mode: [*peer, "--modes", mode] for mode in modes}
    rate = lambda name, found: (found if name == "eas" else found[name])[args.rate]
    gains = {name: [] for name in runs}
    for _ in range(args.pairs):
        for name, command in runs.items():
            alone = rate(name, run(command))
            gains[name].append(sum(rate(name, found) for found in together(command, count)) / alone)
    row = [f"{network:9} batch {batch:>3}  {count} processes over one"]
    row += [
        f"{name} {statistics.median(found):.2f} ({min(found):.2f} to {max(found):.2f})"
        for name, found in gains.items()
    ]
    print("  ".join(row), flush=True)


def report(args, case, pairs):
    network, batch, threads = case
    modes = args.modes.split(",")
    ratios = [
        eas[args.rate] / max(peer[mode][args.rate] for mode in modes) for eas, peer in pairs
    ]
    median = lambda of: statistics.median(of(*pair)[args.rate] for pair in pairs)
    memory = lambda of: min(of(*pair)["peak_memory_bytes"] for pair in pairs) >> 20
    row = [f"{network:9} batch {batch:>3} threads {threads}"]
    row += [f"eas {median(lambda eas, _: eas):8.0f}"]
    row += [f"{mode} {median(lambda _, peer: peer[mode]):8.0f}" for mode in modes]
    row += [
        f"ratio {statistics.median(ratios):5.2f} ({min(ratios):.2f} to {max(ratios):.2f}, pairs: {len(pairs)})",
        f"MiB {memory(lambda eas, _: eas)} / {memory(lambda _, peer: peer[modes[0]])}",
    ]
    print("  ".join(row), flush=True)


if __name__ == "__main__":
    main()
