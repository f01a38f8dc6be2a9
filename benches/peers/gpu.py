"""Trains on a GPU with `eas bench` and with PyTorch in turn, and prints images a second and their ratios: medians
of the rounds, with the smallest and largest ratio. EAS makes its batches on the GPU as a training does, with crops
and mirrors; PyTorch trains on one batch that is there.

    python gpu.py [--eas PATH] [--networks A,B] [--batches 128,512] [--modes bf16,bf16_search] [--rounds 3]
                  [--seconds 1] [--side-by-side 1,2,4,8]

Modes of PyTorch, all eager and channels_last: f32, bf16 (autocast), bf16_search (cuDNN's algorithms timed first).
With --side-by-side no PyTorch is run: so many processes of EAS train at once, and their rates are summed; under
MPS, where its daemon runs, they share the GPU in space, without it in time. Each starts its clock when it is warm, a
second or so apart, so give them some seconds.
"""

import argparse
import gc
import json
import statistics
import subprocess
import time
from pathlib import Path

HERE = Path(__file__).parent
STEPS = 30


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--eas", default=HERE.parents[1] / "target/release/eas")
    parser.add_argument("--networks", default="released,paper,wide,found,densenet")
    parser.add_argument("--batches", default="128,512")
    parser.add_argument("--modes", default="bf16")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--side-by-side", default="")
    args = parser.parse_args()
    cases = [(n, int(b)) for n in args.networks.split(",") for b in args.batches.split(",")]
    if args.side_by_side:
        for network, batch in cases:
            side_by_side(args, network, batch)
    else:
        compare(args, cases)


def eas(args, network, batch, precision):
    command = [str(args.eas), "bench", network, "--device", "cuda", "--batch", str(batch)]
    command += ["--precision", precision, "--seconds", str(args.seconds), "--json"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def rate(process):
    output, _ = process.communicate()
    assert process.returncode == 0, f"eas ended with {process.returncode}"
    return json.loads(output)["images_per_second"]


def compare(args, cases):
    modes = args.modes.split(",")
    in_bf16 = {mode.startswith("bf16") for mode in modes}
    assert len(in_bf16) == 1, "expected modes of one precision"
    precision = "bf16" if in_bf16 == {True} else "f32"
    for network, batch in cases:
        found = {mode: [] for mode in ["eas", *modes]}
        ratios = []
        for _ in range(args.rounds):
            found["eas"].append(rate(eas(args, network, batch, precision)))
            for mode in modes:
                found[mode].append(torch_rate(network, batch, mode, args.seconds))
            ratios.append(found["eas"][-1] / max(found[mode][-1] for mode in modes))
        row = [f"{network:9} batch {batch:>4} {precision}"]
        row += [f"{mode} {statistics.median(values):8.0f}" for mode, values in found.items()]
        row += [f"ratio {statistics.median(ratios):5.2f} ({min(ratios):.2f} to {max(ratios):.2f})"]
        print("  ".join(row), flush=True)


def torch_rate(network, batch, mode, seconds):
    import torch
    from torch.nn import functional

    from peer import Graph

    # Products in f32 are f32 here, as EAS has them.
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = mode == "bf16_search"
    torch.manual_seed(1)
    model = Graph(HERE.parent / "networks" / f"{network}.toml").cuda()
    model = model.to(memory_format=torch.channels_last)
    shape = model.input_shape
    images = torch.randn(batch, shape["channels"], shape["height"], shape["width"], device="cuda")
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (batch,), device="cuda")
    optimiser = torch.optim.SGD(
        model.parameters(), 1e-3, momentum=0.9, weight_decay=1e-4, nesterov=True
    )

    def steps(count):
        for _ in range(count):
            optimiser.zero_grad(set_to_none=True)
            with torch.autocast("cuda", torch.bfloat16, enabled=mode.startswith("bf16")):
                loss = functional.cross_entropy(model(images), labels)
            loss.backward()
            optimiser.step()
        torch.cuda.synchronize()

    steps(8)
    done, started = 0, time.perf_counter()
    while done < 2 * STEPS or time.perf_counter() - started < seconds:
        steps(STEPS)
        done += STEPS
    found = done * batch / (time.perf_counter() - started)
    del model, optimiser, images, labels
    gc.collect()
    torch.cuda.empty_cache()
    return found


def side_by_side(args, network, batch):
    one = None
    for count in map(int, args.side_by_side.split(",")):
        processes = [eas(args, network, batch, "bf16") for _ in range(count)]
        together = sum(rate(process) for process in processes)
        one = one or together
        print(
            f"{network:9} batch {batch:>4} bf16  {count} processes  {together:8.0f} images/s  "
            f"{together / one:.2f} times one",
            flush=True,
        )


if __name__ == "__main__":
    main()
