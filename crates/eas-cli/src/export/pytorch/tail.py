def normalise(pixels):
    """What the network takes, of pixels from 0 to 255."""
    if not MEAN:
        raise ValueError("it is not known how the images were normalised that it was trained on")
    shape = [len(MEAN)] + [1] * (len(SHAPE) - 1)
    mean, deviation = torch.tensor(MEAN).view(shape), torch.tensor(DEVIATION).view(shape)
    return (pixels.float() / 255 - mean) / deviation


def read_safetensors(path):
    """The tensors of a safetensors file: the length of a header, the header as JSON, the numbers."""
    types = {"F32": torch.float32, "I64": torch.int64, "U8": torch.uint8}
    content = bytearray(Path(path).read_bytes())
    start = 8 + struct.unpack("<Q", content[:8])[0]
    tensors = {}
    for name, entry in json.loads(content[8:start]).items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            numbers = content[start + begin : start + end]
            tensors[name] = torch.frombuffer(numbers, dtype=types[entry["dtype"]]).view(entry["shape"])
    return tensors


def load():
    """The network with its weights, in evaluation mode."""
    tensors = read_safetensors(WEIGHTS)
    network = Network()
    network.load_state_dict({k: v for k, v in tensors.items() if not k.startswith("probe.")})
    return network.eval()


def check():
    """Compares the network with the logits that are kept with its weights, for the images there."""
    tensors = read_safetensors(WEIGHTS)
    if "probe.images" not in tensors:
        return "no images are kept with the weights to check it on"
    expected = tensors["probe.logits"]
    with torch.no_grad():
        found = load()(normalise(tensors["probe.images"]))
    gap = (found - expected).abs().max()
    deviation = expected.var(0, unbiased=False).mean().sqrt()
    scale = max(deviation, 0.01 * expected.abs().max())
    if not gap <= 1e-4 * scale:
        sys.exit(f"another network: logits differ by {gap:.1e}, and deviate by {deviation:.1e}")
    return f"the same network: logits differ by {gap:.1e} at most, and deviate by {deviation:.1e}"


if __name__ == "__main__":
    if sys.argv[1:] == ["--check"]:
        print(check())
    elif len(sys.argv) > 1:
        classify(sys.argv[1:])
    else:
        print(__doc__)
        sys.exit(2)
