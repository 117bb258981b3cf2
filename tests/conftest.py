import pytest
import torch
from hypothesis import settings

from dreamstill.networks import builtin
from dreamstill.networks.network import Network

# The networks here are tiny: threads cost more than they bring, and two test processes run side by side.
torch.set_num_threads(1)

settings.register_profile("suite", deadline=None, derandomize=True, max_examples=25)
settings.load_profile("suite")


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


class Silent:
    """A log that remembers."""

    def __init__(self):
        self.rows = []

    def log(self, step, values):
        self.rows.append((step, values))

    def progress(self, done, values):
        pass

    def cut(self, step):
        self.rows = [r for r in self.rows if r[0] <= step]


@pytest.fixture
def network():
    return tiny_network
