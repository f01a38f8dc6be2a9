#!/usr/bin/env python3
"""Makes the ONNX files of this folder: small image networks as PyTorch exports them.

    python3 make.py            (needs torch, onnx and onnxscript)

Each network is exported by both of PyTorch's exporters: `script.onnx` by the older one, which traces,
`unfolded.onnx` by the same without its optimisations, so that batch norms stay what they are, and
`dynamo.onnx` by the newer one. They lie beside a batch of images with its logits in the form of ONNX's
model zoo: `test_data_set_0/input_0.pb` and `output_0.pb`. Weights and running statistics are random, so
that nothing is 0 or 1 by accident.
"""

import pathlib

import onnx
import torch
from onnx import numpy_helper
from torch import nn

HERE = pathlib.Path(__file__).parent
CLASSES = 4


class Vgg(nn.Module):
    """Convolutions and pools with batch norms, then linear layers with dropout; normalises by itself."""

    images = (3, 16, 16)

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.49, 0.48, 0.45]).view(1, 3, 1, 1))
        self.register_buffer("deviation", torch.tensor([0.25, 0.24, 0.26]).view(1, 3, 1, 1))
        layers, channels = [], 3
        for width in [4, "pool", 6, 6, "pool", 8]:
            if width == "pool":
                layers.append(nn.MaxPool2d(2))
                continue
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(True)]
            channels = width
        self.features = nn.Sequential(*layers)
        self.average = nn.AdaptiveAvgPool2d((2, 2))
        self.classifier = nn.Sequential(
            nn.Linear(8 * 4, 12), nn.ReLU(True), nn.Dropout(), nn.Linear(12, CLASSES)
        )

    def forward(self, x):
        x = self.features((x - self.mean) / self.deviation)
        return self.classifier(torch.flatten(self.average(x), 1))


class Block(nn.Module):
    """Two convolutions, added to their input or to a projection of it."""

    def __init__(self, channels, width, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.projection = None
        if stride != 1 or channels != width:
            self.projection = nn.Sequential(
                nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width)
            )

    def forward(self, x):
        shortcut = x if self.projection is None else self.projection(x)
        out = torch.relu(self.norm1(self.conv1(x)))
        out = self.norm2(self.conv2(out))
        out += shortcut
        return torch.relu(out)


class ResNet(nn.Module):
    """A stem with a max pool, as torchvision's, and two stages of two blocks."""

    images = (3, 16, 16)

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 4, 3, 1, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
        )
        self.blocks = nn.Sequential(Block(4, 4, 1), Block(4, 4, 1), Block(4, 8, 2), Block(8, 8, 1))
        self.pool = nn.AdaptiveAvgPool2d((1, 1))
        self.classifier = nn.Linear(8, CLASSES)

    def forward(self, x):
        return self.classifier(torch.flatten(self.pool(self.blocks(self.stem(x))), 1))


class DenseLayer(nn.Module):
    def __init__(self, channels, growth):
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(channels), nn.Conv2d(channels, 2 * growth, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(2 * growth)
        self.conv2 = nn.Conv2d(2 * growth, growth, 3, padding=1, bias=False)

    def forward(self, features):
        x = torch.cat(features, 1)
        x = self.conv1(torch.relu(self.norm1(x)))
        return self.conv2(torch.relu(self.norm2(x)))


class DenseNet(nn.Module):
    """Two dense blocks of two layers; every layer joins all before it anew, as torchvision's do."""

    images = (3, 8, 8)

    def __init__(self, growth=3):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.blocks, self.transitions, channels = nn.ModuleList(), nn.ModuleList(), 6
        for block in range(2):
            layers = [DenseLayer(channels + place * growth, growth) for place in range(2)]
            self.blocks.append(nn.ModuleList(layers))
            channels += 2 * growth
            if block == 0:
                self.transitions.append(
                    nn.Sequential(
                        nn.BatchNorm2d(channels),
                        nn.ReLU(),
                        nn.Conv2d(channels, channels // 2, 1, bias=False),
                        nn.AvgPool2d(2),
                    )
                )
                channels //= 2
        self.norm, self.classifier = nn.BatchNorm2d(channels), nn.Linear(channels, CLASSES)

    def forward(self, x):
        x = self.stem(x)
        for block, layers in enumerate(self.blocks):
            features = [x]
            for layer in layers:
                features.append(layer(features))
            x = torch.cat(features, 1)
            if block < len(self.transitions):
                x = self.transitions[block](x)
        x = torch.relu(self.norm(x)).mean([2, 3])
        return self.classifier(x)


class Views(nn.Module):
    """Reshapes by computed shapes, a depthwise convolution, a matrix product: what else exporters write."""

    images = (1, 8, 8)

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 5, padding=2)
        self.depthwise = nn.Conv2d(4, 4, 3, stride=2, padding=1, groups=4, bias=False)
        self.norm = nn.BatchNorm2d(4, eps=1e-3)
        self.hidden = nn.Linear(4 * 2 * 2, 6, bias=False)
        self.matrix = nn.Parameter(torch.randn(6, CLASSES))
        self.bias = nn.Parameter(torch.randn(CLASSES))

    def forward(self, x):
        x = torch.relu(self.norm(self.depthwise(torch.relu(self.conv(x)))))
        x = nn.functional.avg_pool2d(x, 2)
        x = torch.relu(self.hidden(x.view(x.size(0), -1)))
        return x @ self.matrix + self.bias


def randomise(model):
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight)
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.3)
            nn.init.normal_(module.running_mean, 0, 0.3)
            nn.init.uniform_(module.running_var, 0.3, 1.8)


def save(array, path):
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(numpy_helper.from_array(array.numpy()).SerializeToString())


def make(name, kind):
    torch.manual_seed(1)
    model = kind().eval()
    randomise(model)
    folder = HERE / name
    folder.mkdir(exist_ok=True)
    images = torch.rand(4, *model.images)
    with torch.no_grad():
        logits = model(images)
    save(images, folder / "test_data_set_0" / "input_0.pb")
    save(logits, folder / "test_data_set_0" / "output_0.pb")
    names = {"input_names": ["images"], "output_names": ["logits"]}
    axes = {"images": {0: "batch"}, "logits": {0: "batch"}}
    traced = {"dynamo": False, "opset_version": 13, "dynamic_axes": axes, **names}
    torch.onnx.export(model, images, folder / "script.onnx", **traced)
    plain = {"training": torch.onnx.TrainingMode.PRESERVE, "do_constant_folding": False}
    torch.onnx.export(model, images, folder / "unfolded.onnx", **plain, **traced)
    batch = torch.export.Dim("batch")
    torch.onnx.export(
        model,
        (images,),
        folder / "dynamo.onnx",
        dynamo=True,
        external_data=False,
        dynamic_shapes=({0: batch},),
        **names,
    )
    for path in sorted(folder.glob("*.onnx")):
        file = onnx.load(path)
        onnx.checker.check_model(file, full_check=True)
        # What the newer exporter says of each node's origin names this machine's files.
        for part in [*file.graph.node, *file.graph.value_info, *file.graph.input, *file.graph.output]:
            part.ClearField("metadata_props")
            part.ClearField("doc_string")
        onnx.save(file, path)
        print(path, path.stat().st_size, file.opset_import[0].version, len(file.graph.node), "nodes")


for name, kind in {"vgg": Vgg, "resnet": ResNet, "densenet": DenseNet, "views": Views}.items():
    make(name, kind)
