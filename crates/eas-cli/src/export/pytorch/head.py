"""A network for images of INPUT_WORDS, which tells CLASS_COUNT classes apart. Found by EAS VERSION.

    python model.py IMAGE ...   classifies image files (needs Pillow)
    python model.py --check     compares this network with the one that it was made from

    import torch, model
    network = model.load()      # a torch.nn.Module with its weights, in evaluation mode
    with torch.no_grad():
        logits = network(model.normalise(pixels))  # pixels: uint8, [batch, SIDES]
"""

import json
import struct
import sys
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

WEIGHTS = Path(__file__).with_name("model.safetensors")
SHAPE = [SIDES]
CLASSES = CLASS_NAMES
# Of each channel of the images that it was trained on, for values from 0 to 1.
MEAN = MEANS
DEVIATION = DEVIATIONS
# How a picture of another size is brought to this one.
FIT = "FIT_NAME"


