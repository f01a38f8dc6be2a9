"""Writes pytorch_numbers.json: what PyTorch makes of a few tiny networks in three steps of training.

    python pytorch_numbers.py    # PyTorch 2.15, on the CPU

The networks are written as EAS writes them; parameters and images are random f32 values of two
decimals, which keeps the file small, and all that is computed from them is computed in f64. A network is trained with SGD, Nesterov momentum, weight
decay, label smoothing, and a cosine schedule that falls with every step.
"""

import json
import pathlib
import tomllib

import numpy
import torch
from torch.nn import functional

STEPS = 3
BATCH = 4
CLASSES = 3

NETWORKS = {
    "strided and grouped convolutions": """
        { input = { shape = { image = { channels = 2, height = 7, width = 6 } } } }
        { conv = { filters = 4, kernel = 3, stride = 2, padding = 1, groups = 2 } }
        { batch_norm = {} }
        "relu"
        { conv = { filters = 4, kernel = 2, padding = 0, groups = 4, bias = true } }
        "flatten"
        { linear = { units = 3, bias = true } }
    """,
    "a padded, overlapping max pool": """
        { input = { shape = { image = { channels = 1, height = 7, width = 8 } } } }
        { conv = { filters = 3, kernel = 3, padding = 1 } }
        { batch_norm = {} }
        { max_pool = { size = 3, stride = 2, padding = 1 } }
        { conv = { filters = 3, kernel = 1, padding = 0, bias = true } }
        "relu"
        "global_pool"
        { linear = { units = 3 } }
    """,
    "an average pool with a remainder and a norm of features": """
        { input = { shape = { image = { channels = 2, height = 5, width = 5 } } } }
        { conv = { filters = 3, kernel = 3, padding = 2, bias = true } }
        "relu"
        { average_pool = { size = 2, stride = 2 } }
        "flatten"
        { linear = { units = 4 } }
        { batch_norm = { epsilon = 1e-3 } }
        "relu"
        { linear = { units = 3, bias = true } }
    """,
}

RECIPES = [
    {"learning_rate": 0.1, "momentum": 0.9, "weight_decay": 0.01, "decay_all": True, "label_smoothing": 0.0},
    {"learning_rate": 0.05, "momentum": 0.8, "weight_decay": 0.02, "decay_all": False, "label_smoothing": 0.1},
]


def network_text(operations):
    """A chain of operations as the text of a network."""
    text = "format = 1\n"
    for index, operation in enumerate(operations):
        inputs = f'inputs = ["n{index - 1}"]\n' if index else ""
        text += f'\n[[node]]\nid = "n{index}"\nop = {operation}\n{inputs}'
    return text


def operation_of(node):
    """Name and options of a node's operation."""
    operation = node["op"]
    return (operation, {}) if isinstance(operation, str) else next(iter(operation.items()))


def initialise(nodes):
    """Random parameters of f32 values, and the shape of the images."""
    parameters, shape = {}, None

    def draw(node, role, *shape, positive=False):
        values = torch.rand(shape) + 0.5 if positive else torch.randn(shape) * 0.5
        parameters[f"{node['id']}.{role}"] = values.round(decimals=2).double()

    for node in nodes:
        operation, options = operation_of(node)
        if operation == "input":
            size = options["shape"]["image"]
            shape = (size["channels"], size["height"], size["width"])
            x = torch.zeros(2, *shape, dtype=torch.float64)
            continue
        if operation == "conv":
            channels, kernel = x.shape[1] // options.get("groups", 1), options["kernel"]
            draw(node, "weight", options["filters"], channels, kernel, kernel)
        if operation == "linear":
            draw(node, "weight", options["units"], x.shape[1])
        if options.get("bias"):
            draw(node, "bias", options.get("filters") or options["units"])
        if operation == "batch_norm":
            draw(node, "gamma", x.shape[1], positive=True)
            draw(node, "beta", x.shape[1])
            draw(node, "mean", x.shape[1])
            draw(node, "variance", x.shape[1], positive=True)
        copies = {key: value.clone() for key, value in parameters.items()}
        x = forward(node, copies, x)
    return parameters, shape


def forward(node, parameters, x):
    """What a node makes of its input in training mode; running statistics follow the batch's."""
    operation, options = operation_of(node)
    own = lambda role: parameters.get(f"{node['id']}.{role}")
    match operation:
        case "conv":
            stride, padding, groups = options.get("stride", 1), options["padding"], options.get("groups", 1)
            return functional.conv2d(x, own("weight"), own("bias"), stride, padding, 1, groups)
        case "batch_norm":
            statistics, affine = (own("mean"), own("variance")), (own("gamma"), own("beta"))
            epsilon = options.get("epsilon", 1e-5)
            return functional.batch_norm(x, *statistics, *affine, training=True, momentum=0.1, eps=epsilon)
        case "relu":
            return functional.relu(x)
        case "max_pool":
            return functional.max_pool2d(x, options["size"], options["stride"], options.get("padding", 0))
        case "average_pool":
            return functional.avg_pool2d(x, options["size"], options["stride"])
        case "global_pool":
            return x.mean((2, 3))
        case "flatten":
            return x.flatten(1)
        case "linear":
            return functional.linear(x, own("weight"), own("bias"))


def numbers(tensors):
    """Tensors as lists of numbers, rounded to f32 and as short as tells one from the next."""
    shortest = lambda x: float(str(numpy.float32(x)))
    return {key: [shortest(x) for x in tensor.flatten().tolist()] for key, tensor in tensors.items()}


def case(name, operations, recipe):
    """Trains a network; what it was, and what became of it."""
    text = network_text(operations)
    nodes = tomllib.loads(text)["node"]
    parameters, shape = initialise(nodes)
    written = {"name": name, "network": text, **recipe, "before": numbers(parameters), "steps": []}
    trained = {key: value for key, value in parameters.items() if not key.endswith(("mean", "variance"))}
    for parameter in trained.values():
        parameter.requires_grad_()
    decayed = [value for key, value in trained.items() if recipe["decay_all"] or key.endswith("weight")]
    others = [value for key, value in trained.items() if not (recipe["decay_all"] or key.endswith("weight"))]
    groups = [{"params": decayed, "weight_decay": recipe["weight_decay"]}]
    groups += [{"params": others, "weight_decay": 0.0}] if others else []
    optimiser = torch.optim.SGD(
        groups, lr=recipe["learning_rate"], momentum=recipe["momentum"], nesterov=True
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=STEPS)
    for _ in range(STEPS):
        images = torch.randn(BATCH, *shape).round(decimals=2)
        labels = torch.randint(CLASSES, (BATCH,))
        x = images.double()
        for node in nodes[1:]:
            x = forward(node, parameters, x)
        loss = functional.cross_entropy(x, labels, label_smoothing=recipe["label_smoothing"])
        optimiser.zero_grad()
        loss.backward()
        written["steps"].append({
            **numbers({"images": images}),
            "shape": list(images.shape),
            "labels": labels.tolist(),
            "loss": loss.item(),
            "correct": int((x.argmax(1) == labels).sum()),
        })
        # Later gradients show in the parameters after training.
        written.setdefault("gradients", numbers({key: value.grad for key, value in trained.items()}))
        optimiser.step()
        schedule.step()
    written["after"] = numbers({key: value.detach() for key, value in parameters.items()})
    return written


def main():
    torch.manual_seed(1)
    cases = []
    for name, text in NETWORKS.items():
        operations = [line.strip() for line in text.strip().splitlines()]
        cases += [case(name, operations, recipe) for recipe in RECIPES]
    lines = ",\n".join(json.dumps(case) for case in cases)
    path = pathlib.Path(__file__).with_suffix(".json")
    path.write_text(f'{{"torch": "{torch.__version__}", "cases": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main()
