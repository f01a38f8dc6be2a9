"""Writes small files of each format with NumPy, SciPy and Pillow, and what a reader must find in them.

    python3 make.py        # into this folder; needs numpy, scipy and pillow

`expected.json` has, for each data set and part, the count, the shape, the labels and the CRC-32 of all
pixels as [count, channels, height, width].
"""

import gzip
import json
import pathlib
import zlib

import numpy as np
import scipy.io
from PIL import Image

HERE = pathlib.Path(__file__).parent
EXPECTED = {}


def images(count, channels, height, width, first):
    """Smooth, so that they compress, and no two alike; none is symmetric."""
    n, c, h, w = np.ogrid[:count, :channels, :height, :width]
    return ((n + first) * 37 + c * 61 + h * 5 + w * 3).astype(np.uint8)


def expect(name, part, pixels, labels):
    EXPECTED.setdefault(name, {})[part] = {
        "shape": list(pixels.shape),
        "labels": [int(label) for label in labels],
        "crc32": zlib.crc32(np.ascontiguousarray(pixels).tobytes()),
    }


def folder(name):
    path = HERE / name
    path.mkdir(parents=True, exist_ok=True)
    return path


def svhn():
    parts = [("train_32x32", "train", 6, True), ("test_32x32", "test", 2, False)]
    for at, (file, part, count, compress) in enumerate(parts):
        pixels = images(count, 3, 32, 32, 10 * at)
        labels = np.array([10, 1, 9, 2, 10, 5][:count], dtype=np.uint8 if compress else np.float64)
        values = {"X": pixels.transpose(2, 3, 1, 0), "y": labels[:, None]}
        scipy.io.savemat(folder("svhn") / f"{file}.mat", values, do_compression=compress)
        expect("svhn", part, pixels, labels % 10)


def idx(name, compress):
    for at, (prefix, part, count) in enumerate([("train", "train", 6), ("t10k", "test", 3)]):
        pixels = images(count, 1, 9, 7, 10 * at)
        labels = np.arange(count, dtype=np.uint8) * 2 % 7
        for kind, values in [("images-idx3", pixels[:, 0]), ("labels-idx1", labels)]:
            header = np.array([0x800 + values.ndim, *values.shape], dtype=">u4").tobytes()
            data = header + values.tobytes()
            path = folder(name) / f"{prefix}-{kind}-ubyte"
            if compress:
                path = path.with_name(path.name + ".gz")
                data = gzip.compress(data, mtime=0)
            path.write_bytes(data)
        expect(name, part, pixels, labels)


def npz():
    arrays = {}
    for at, (part, count, kind) in enumerate([("train", 6, np.int64), ("test", 3, np.uint8)]):
        pixels = images(count, 3, 5, 6, 10 * at)
        labels = np.arange(count) * 2 % 5
        arrays[f"x_{part}"] = np.ascontiguousarray(pixels.transpose(0, 2, 3, 1))
        arrays[f"y_{part}"] = labels.astype(kind)
        expect("npz", part, pixels, labels)
    np.savez_compressed(folder("npz") / "images.npz", **arrays)


def cifar100():
    for at, (part, count) in enumerate([("train", 4), ("test", 2)]):
        pixels = images(count, 3, 32, 32, 10 * at)
        fine = np.array([99, 0, 40, 7][:count], dtype=np.uint8)
        coarse = fine // 5
        records = np.concatenate([coarse[:, None], fine[:, None], pixels.reshape(count, -1)], axis=1)
        packed = gzip.compress(records.tobytes(), mtime=0)
        (folder("cifar100") / f"{part}.bin.gz").write_bytes(packed)
        expect("cifar100", part, pixels, fine)


def pictures():
    """PNG and lossless WebP, of the size that is read; a JPEG stands apart, since it is lossy."""
    for at, (part, count) in enumerate([("train", 4), ("test", 2)]):
        pixels = images(count, 3, 16, 16, 10 * at)
        labels = [image * 2 // count for image in range(count)]
        for image, label in zip(range(count), labels):
            picture = Image.fromarray(pixels[image].transpose(1, 2, 0))
            path = folder(f"folder/{part}/{['cat', 'dog'][label]}")
            if image % 2 == 0:
                picture.save(path / f"{image}.png")
            else:
                picture.save(path / f"{image}.webp", lossless=True)
        expect("folder", part, pixels, labels)
    (HERE / "folder/train/cat/.hidden.png").write_bytes(b"not an image")
    Image.new("RGB", (40, 24), (200, 100, 50)).save(folder("jpeg/train/orange") / "wide.jpg")


for make in [svhn, npz, cifar100, pictures]:
    make()
idx("idx", False)
idx("mnist", True)
(HERE / "expected.json").write_text(json.dumps(EXPECTED, indent=1) + "\n")
