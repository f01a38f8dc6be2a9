#!/usr/bin/env python3
"""make_fashion_mnist_subset.py IDX_DIR OUT: writes the embedded subset of Fashion-MNIST.

IDX_DIR holds train-images-idx3-ubyte.gz and train-labels-idx1-ubyte.gz (for example from Debian's
package dataset-fashion-mnist: /usr/share/datasets/fashion-mnist). 1,000 images of each class are
drawn from the training split with a fixed seed. Of each class, in the order drawn, the first 800 are
for training and validation and the last 200 for testing. Needs Python 3 alone; takes some seconds.

Format: a raw deflate stream of 10,000 images of 784 bytes, in the order image 0 of class 0, image 0
of class 1, ..., image 1 of class 0, ...; each pixel is stored as its difference (modulo 256) from
the Paeth prediction of its left, upper and upper left neighbours, as in PNG.

What is unpacked is the same whatever made it. The packed bytes are the same where Python has the
original zlib; zlib-ng and others deflate differently.
"""
import gzip
import hashlib
import random
import sys
import zlib

SEED, CLASSES, PER_CLASS, SIDE = 20170828, 10, 1000, 28
PIXELS = SIDE * SIDE
# SHA-256 of the original images and labels without their headers, and of the file made of them.
IMAGES = "2e487a6c89124f78f2d7521542223cafe96f7123c3ca13d447772ac6ecbb3012"
LABELS = "657fbd221bfc9f4198cc14b5619cc33ec57c58dd0e47af4d99d6650759e869a7"
PACKED = "b66c360e45592647f63e15524b2e5fc5ab08760093a14b4c1f46219ee29bb226"


def idx(path, header, expected):
    with gzip.open(path, "rb") as file:
        body = file.read()[header:]
    found = hashlib.sha256(body).hexdigest()
    if found != expected:
        sys.exit(f"{path}: expected contents with SHA-256 {expected}, found {found}")
    return body


def paeth(left, up, corner):
    guess = left + up - corner
    distances = abs(guess - left), abs(guess - up), abs(guess - corner)
    return (left, up, corner)[distances.index(min(distances))]


def filtered(image):
    out = bytearray()
    for row in range(SIDE):
        for column in range(SIDE):
            at = row * SIDE + column
            left = image[at - 1] if column else 0
            up = image[at - SIDE] if row else 0
            corner = image[at - SIDE - 1] if row and column else 0
            out.append((image[at] - paeth(left, up, corner)) % 256)
    return bytes(out)


def main(source, out):
    images = idx(f"{source}/train-images-idx3-ubyte.gz", 16, IMAGES)
    labels = idx(f"{source}/train-labels-idx1-ubyte.gz", 8, LABELS)
    generator = random.Random(SEED)
    chosen = []
    for label in range(CLASSES):
        places = [place for place, found in enumerate(labels) if found == label]
        chosen.append(generator.sample(places, PER_CLASS))
    body = b"".join(
        filtered(images[chosen[label][rank] * PIXELS : (chosen[label][rank] + 1) * PIXELS])
        for rank in range(PER_CLASS)
        for label in range(CLASSES)
    )
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15, 9)
    packed = deflate.compress(body) + deflate.flush()
    with open(out, "wb") as file:
        file.write(packed)
    same = hashlib.sha256(packed).hexdigest() == PACKED
    verdict = "as committed" if same else "NOT as committed: another zlib?"
    print(f"{out}: {len(packed)} bytes, {verdict}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2])
