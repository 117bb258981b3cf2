"""Tiny networks, and what a run is given with them."""

import torch
import torch.nn.functional as F
from torch.optim import Adam

from dreamstill.data.load import load_images, normalisation
from dreamstill.engine import Given
from dreamstill.networks import builtin
from dreamstill.networks.network import Network
from dreamstill.networks.pixels import to_float
from dreamstill.tasks import task_of


def tiny_network(widths, seed, num_classes=4, image_size=8, dtype=torch.float32, channels=1):
    torch.manual_seed(seed)
    module = builtin.build("convnet", num_classes=num_classes, channels=channels, image_size=image_size, widths=widths)
    network = Network(
        module, num_classes=num_classes, image_size=image_size, channels=channels, mean=[0.3] * channels,
        std=[0.4] * channels,
        name="convnet", kwargs={"widths": list(widths)},
    )  # fmt: skip
    # Running statistics of some images, so that the BN terms mean something.
    network.train()
    for _ in range(5):
        network(torch.rand(32, channels, image_size, image_size))
    return network.to(dtype).eval()


def dense_network(width, seed, num_classes=4, image_size=(16, 32)):
    """A tiny segmentation network, with running statistics of some images."""
    torch.manual_seed(seed)
    module = builtin.build("encoder_decoder", num_classes=num_classes, channels=1, image_size=image_size, width=width)
    network = Network(
        module, num_classes=num_classes, image_size=image_size, channels=1, mean=[0.3], std=[0.4],
        name="encoder_decoder", kwargs={"width": width},
    )  # fmt: skip
    network.train()
    for _ in range(5):
        network(torch.rand(16, 1, *image_size))
    return network.eval()


def make_given(teacher, student, *images, **more):
    """What a run is given, of the teacher's task."""
    return Given(teacher, student, *images, task=task_of(teacher), **more)


def digits_network():
    """Trained on scikit-learn's digits for a few seconds."""
    torch.manual_seed(0)
    train = load_images("digits", "train")
    mean, std = normalisation(train)
    module = builtin.build("convnet", num_classes=10, channels=1, image_size=8, widths=(16, 32))
    network = Network(module, num_classes=10, image_size=8, channels=1, mean=mean, std=std).train()
    opt = Adam(network.parameters(), lr=5e-3)
    images = to_float(train.pixels)
    for _ in range(5):
        for index in torch.randperm(len(train)).split(64):
            opt.zero_grad()
            F.cross_entropy(network(images[index]), train.labels[index]).backward()
            opt.step()
    return network.eval()
