"""Measures what this machine can do: the fastest f32 matrix product of PyTorch, and the bandwidth of a
copy that no cache holds, on one thread and on all.

    python roofline.py
"""

import os
import time

import torch


def fastest(work, repeats=20):
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)


for threads in (1, os.cpu_count()):
    torch.set_num_threads(threads)
    side = 1536
    a, b = torch.randn(side, side), torch.randn(side, side)
    product = 2 * side**3 / fastest(lambda: torch.mm(a, b)) / 1e9
    source, target = torch.randn(1 << 26), torch.randn(1 << 26)
    copy = 2 * source.nbytes / fastest(lambda: target.copy_(source), 8) / 1e9
    print(f"{threads} thread(s): {product:.0f} GFLOP/s, {copy:.1f} GB/s")
