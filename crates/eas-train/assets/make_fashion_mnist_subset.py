#!/usr/bin/env python3
"""make_fashion_mnist_subset.py IDX_DIR OUT: writes the embedded subset of Fashion-MNIST.

IDX_DIR holds train-images-idx3-ubyte.gz and train-labels-idx1-ubyte.gz (for example from Debian's
package dataset-fashion-mnist: /usr/share/datasets/fashion-mnist). 1,000 images of each class are
drawn from the training split with a fixed seed; class after class, in the order drawn. Of each
class, the first 800 are for training and validation and the last 200 for testing.

Format: a raw deflate stream of 10,000 images of 784 bytes, in the order image 0 of class 0, image 0
of class 1, ..., image 1 of class 0, ...; each pixel is stored as its difference (modulo 256) from
the Paeth prediction of its left, upper and upper left neighbours, as in PNG.
"""
import gzip
import random
import sys
import zlib

SEED, CLASSES, PER_CLASS, SIDE = 20170828, 10, 1000, 28


def idx(path, header):
    with gzip.open(path, "rb") as file:
        return file.read()[header:]


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
    images = idx(f"{source}/train-images-idx3-ubyte.gz", 16)
    labels = idx(f"{source}/train-labels-idx1-ubyte.gz", 8)
    generator = random.Random(SEED)
    chosen = []
    for label in range(CLASSES):
        places = [place for place, found in enumerate(labels) if found == label]
        chosen.append(generator.sample(places, PER_CLASS))
    body = b"".join(
        filtered(images[chosen[label][rank] * SIDE * SIDE :][: SIDE * SIDE])
        for rank in range(PER_CLASS)
        for label in range(CLASSES)
    )
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15, 9)
    with open(out, "wb") as file:
        file.write(deflate.compress(body) + deflate.flush())


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
