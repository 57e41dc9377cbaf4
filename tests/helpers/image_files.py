"""Image files of real images: scikit-learn's digits as PNG, in folders as people have them."""

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits


def digit_pixels():
    """(1797, 8, 8) uint8 from 0 to 240, and their classes."""
    bunch = load_digits()
    return (bunch.images * 15).astype(np.uint8), bunch.target


def write_digits(folder, rows, classes=range(10)):
    """One PNG for each of the digits, named by its number, in a folder for its class."""
    pixels, labels = digit_pixels()
    for number in classes:
        (folder / f"digit{number}").mkdir(parents=True)
    for row in rows:
        if labels[row] in classes:
            Image.fromarray(pixels[row]).save(folder / f"digit{labels[row]}" / f"{row:04d}.png")
    return folder


def in_order_of_files(rows, classes=range(10)):
    """The digits as a folder with these files has them: images from 0 to 1, (n, 8, 8, 1), and class numbers."""
    pixels, labels = digit_pixels()
    rows = sorted((row for row in rows if labels[row] in classes), key=lambda row: (labels[row], row))
    return (pixels[rows][..., None] / np.float32(255)).astype(np.float32), labels[rows]
