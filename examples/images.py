"""The handwritten digits that ship with scikit-learn, split into training and test images; nothing is downloaded."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from network import Array, Labels

CLASSES = 10


class Digits(NamedTuple):
    """Images with pixels in [0, 1], one per row, and the digits they show.

    Attributes
    ----------
    train_images, test_images : ndarray of shape (N, 64)
    train_labels, test_labels : ndarray of int, shape (N,)
    """

    train_images: Array
    test_images: Array
    train_labels: Labels
    test_labels: Labels


def load() -> Digits:
    """Return the 1,797 images of 8 x 8 pixels: always the same three quarters to train on, the last one to test."""
    images, labels = load_digits(return_X_y=True)
    return split(images / 16.0, labels.astype(np.intp))


def split(images: Array, labels: Labels) -> Digits:
    """Hold out a quarter of the images, with each digit as frequent as in the rest."""
    return Digits(*train_test_split(images, labels, test_size=0.25, stratify=labels, random_state=0))
