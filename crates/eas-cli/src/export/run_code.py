import sys

try:
    import torch
except Exception as error:
    print(error, file=sys.stderr)
    sys.exit(77)

import model

kind, shape = sys.argv[1], [int(side) for side in sys.argv[2:]]
content = bytearray(sys.stdin.buffer.read())
try:
    print(model.check(), file=sys.stderr)
except SystemExit as differs:
    # The logits that follow are compared.
    print(differs, file=sys.stderr)
with torch.no_grad():
    if kind == "pixels":
        images = model.normalise(torch.frombuffer(content, dtype=torch.uint8).view(shape))
    else:
        images = torch.frombuffer(content, dtype=torch.float32).view(shape)
    logits = model.load()(images)
sys.stdout.buffer.write(bytes(logits.contiguous().view(torch.uint8).flatten().tolist()))
