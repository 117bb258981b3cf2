"""A method or control that is set up on tiny networks, for tests that call its parts one by one."""

import torch

from dreamstill.engine import Engine
from helpers.networks import make_given, tiny_network

SMALL = {
    "batch_size": 16, "nz": 8, "width": 4, "bank": 64, "gan_batch": 16, "n_images": 32, "synthesis_batch": 16,
    "iterations": 3,
}  # fmt: skip
RAMP = torch.arange(8.0).expand(16, 1, 8, 8) / 8  # grows to the right, so that a mirrored one falls


def images(n=50, seed=1):
    return torch.randint(256, (n, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def prepared(cls, **settings):
    """The method with its engine; settings that it does not have are left out."""
    x, y = images(), torch.randint(4, (50,), generator=torch.Generator().manual_seed(2))
    given = make_given(tiny_network((6, 8), 0), tiny_network((3, 4), 1), x, y, x, x, torch.randn(50, 4))
    engine = Engine(given, device="cpu", steps=100)
    method = cls(**{k: v for k, v in {**SMALL, **settings}.items() if k in cls.__dataclass_fields__})
    method.check(engine.task.name)
    method.setup(engine)
    engine.begin(0, 0.0)
    return method, engine


def fed_to(method):
    """The arguments of each later call of the student's loss."""
    fed, loss_s = [], method.loss_s
    method.loss_s = lambda *inputs: (fed.append(inputs), loss_s(*inputs))[1]
    return fed


def mirrored(images):
    """Whether each image is a ramp that falls; the sides, which a shift may have blackened, are not looked at."""
    slopes = images[:, :, 2:6, 3:5].diff()
    assert bool((slopes != 0).all())
    return (slopes < 0).flatten(1).any(1)
