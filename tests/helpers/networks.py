"""Tiny networks, and what a run is given with them."""

import torch

from dreamstill.engine import Given
from dreamstill.networks import builtin
from dreamstill.networks.network import Network
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
