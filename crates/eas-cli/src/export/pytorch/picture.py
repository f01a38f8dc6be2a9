def picture(path):
    """The pixels of an image file as the network takes them: uint8, [1, channels, height, width]."""
    from PIL import Image, ImageOps

    channels, height, width = SHAPE
    image = ImageOps.exif_transpose(Image.open(path))
    if image.mode.startswith("I"):  # 16 bits of grey
        image = image.convert("I").point(lambda value: value / 257 + 0.5).convert("L")
    image = image.convert("L" if channels == 1 else "RGB")
    if FIT == "crop":
        image = ImageOps.fit(image, (width, height), Image.BILINEAR)
    else:
        image = image.resize((width, height), Image.BILINEAR)
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return pixels.reshape(1, height, width, channels).permute(0, 3, 1, 2)


def classify(paths):
    """Prints the five likeliest classes of each image file."""
    network = load()
    for path in paths:
        with torch.no_grad():
            probabilities = network(normalise(picture(path)))[0].softmax(0)
        likeliest = probabilities.argsort(descending=True)[:5].tolist()
        names = [CLASSES[i] if CLASSES else str(i) for i in likeliest]
        words = [f"{name} {100 * probabilities[i]:.2f} %" for i, name in zip(likeliest, names)]
        print(f"{path}: {', '.join(words)}")
