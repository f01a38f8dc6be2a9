#!/usr/bin/env python3
"""Holds ONNX files against the logits that lie beside them: `check.py FOLDER`.

Every folder in FOLDER with a `model.onnx` is checked by `onnx.checker`, with shapes inferred, and run by
onnxruntime on `test_data_set_0/input_0.pb`, as a batch and image by image; the logits must be those of
`output_0.pb` to 1e-4 of their deviation. Prints the largest difference found, and fails with the first
that is too large.
"""

import pathlib
import sys

import numpy
import onnx
import onnxruntime
from onnx import numpy_helper

TOLERANCE = 1e-4


def tensor(path):
    return numpy_helper.to_array(onnx.TensorProto.FromString(path.read_bytes()))


worst, count = 0.0, 0
for path in sorted(pathlib.Path(sys.argv[1]).glob("*/model.onnx")):
    onnx.checker.check_model(onnx.load(path), full_check=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    images = tensor(path.parent / "test_data_set_0" / "input_0.pb")
    expected = tensor(path.parent / "test_data_set_0" / "output_0.pb")
    batch = session.run(["logits"], {"images": images})[0]
    single = [session.run(["logits"], {"images": image[None]})[0] for image in images]
    for found in batch, numpy.concatenate(single):
        gap = numpy.abs(found - expected).max() / expected.std()
        if not gap < TOLERANCE:
            sys.exit(f"{path}: logits differ by {gap:.1e} of their deviation")
        worst = max(worst, gap)
    count += 1
print(f"{count} files agree, to {worst:.1e} deviations of the logits")
