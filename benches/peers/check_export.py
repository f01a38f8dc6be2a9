"""Classifies CIFAR-10's test images with every form of an export, and counts where they differ.

    EAS_DATA=DIR python check_export.py EXPORT [--eas PATH]

EXPORT is the folder that `eas export` wrote with every form. Needs torch, onnxruntime, numpy and Pillow.
EAS classifies the images as PNG files, by `eas predict`; the others get the pixels as they are. What is
compared are logarithms of probabilities, which are logits but for a constant an image.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import tempfile
from pathlib import Path

import numpy
import onnxruntime
import torch
from PIL import Image

# Probabilities whose logarithms differ by less than this share of their deviation tie.
TIE = 1e-4
BATCH = 500


def normal(logits):
    """Logits as logarithms of probabilities, in f64."""
    logits = logits.astype(numpy.float64)
    logits -= logits.max(1, keepdims=True)
    return logits - numpy.log(numpy.exp(logits).sum(1, keepdims=True))


def by_eas(eas, export, pixels):
    """What `eas predict` makes of the images as files."""
    with tempfile.TemporaryDirectory() as folder:
        for number, image in enumerate(pixels):
            Image.fromarray(image.transpose(1, 2, 0)).save(f"{folder}/{number:05}.png")
        command = [eas, "predict", str(export), folder, "--top", "10", "--json"]
        lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    logarithms = numpy.zeros((len(pixels), 10))
    for row, line in zip(logarithms, lines, strict=True):
        for likely in json.loads(line)["classes"]:
            row[likely["index"]] = numpy.log(likely["probability"])
    return logarithms


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("export", type=Path)
    parser.add_argument("--eas", default="eas")
    args = parser.parse_args()
    data = next(Path(os.environ["EAS_DATA"]).rglob("test_batch.bin"))
    rows = numpy.fromfile(data, dtype=numpy.uint8).reshape(-1, 3073)
    labels, pixels = rows[:, 0], rows[:, 1:].reshape(-1, 3, 32, 32)

    spec = importlib.util.spec_from_file_location("model", args.export / "model.py")
    model = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(model)
    network = model.load()
    session = onnxruntime.InferenceSession(args.export / "model.onnx")
    torch_logits, onnx_logits = [], []
    for start in range(0, len(pixels), BATCH):
        images = model.normalise(torch.tensor(pixels[start : start + BATCH]))
        with torch.no_grad():
            torch_logits.append(network(images).numpy())
        onnx_logits.append(session.run(["logits"], {"images": images.numpy()})[0])
    found = {
        "EAS": by_eas(args.eas, args.export, pixels),
        f"onnxruntime {onnxruntime.__version__}": normal(numpy.concatenate(onnx_logits)),
        f"PyTorch {torch.__version__}": normal(numpy.concatenate(torch_logits)),
    }

    stored = found["EAS"]
    deviation = numpy.sqrt(stored.var(0).mean())
    every = numpy.arange(len(labels))
    print(f"{len(labels)} test images; deviation {deviation:.3f}")
    for name, logarithms in found.items():
        classes = logarithms.argmax(1)
        margin = (stored.max(1) - stored[every, classes]) / deviation
        print(
            f"{name}: {(classes == labels).sum()} right; another class than EAS for "
            f"{(classes != stored.argmax(1)).sum()} images, of which {(margin > TIE).sum()} don't tie; "
            f"largest difference {numpy.abs(logarithms - stored).max() / deviation:.1e} deviations"
        )


if __name__ == "__main__":
    main()
