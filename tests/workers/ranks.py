"""Run in two processes, and by the test itself in one: every method for some steps in float64."""

import tempfile
from pathlib import Path

import torch
from helpers.logs import Silent
from helpers.networks import dense_network, make_given, tiny_network
from helpers.small import small

from dreamstill import methods
from dreamstill.engine import Engine
from dreamstill.runs.checkpoints import Checkpoints
from dreamstill.runs.loop import Cadence, run

COMMON = {"every": 2, "crop": 1, "lr_s": 0.05}  # of the methods that have them
VARIANTS = {
    "ddad": {"replay": 0.5, "w_balance": 1.0, "student_steps": 2},
    "ddad reuse": {"reuse": True, "crop": 0},
    "ddad auto": {"alpha": "auto", "alpha_after": 4, "student_steps": 2},
    "cpsc": {"generator_steps": 2},
    "cpsc released": {"generator_steps": 2, "variant": "released", "ikd": "log_mse"},
    "cpsc student contrast": {"generator_steps": 2, "gamma_s": 1.0, "condition": "concat"},
    "cgdd": {"pre": 0.5, "w_adv_maps": 1.0, "w_act": 0.1, "student_steps": 2},
    "cgdd reuse": {"reuse": True, "w_at": 0.0, "crop": 0},
    "cgdd two_stage": {"mode": "two_stage", "feat": "hint", "condition": "multiply"},
    "deep_inversion": {"w_adv": 1.0, "warmup": 1, "student_steps": 4},
    "soft_target stored": {"crop": 0, "flip": False, "noise": 0.0, "space": "dirichlet", "lr_s": 0.01},
    "soft_target port": {
        "redraw_targets": True, "jitter": True, "pixels": "rescale", "w_tv": 1.0, "w_norm": 1.0, "lr_s": 0.01
    },
    "hidfd": {"update_every": 3, "gan_iterations": 8, "ema": 0.5},
    "hidfd released": {
        "feature_gradient": False, "update_every": 0, "sample_from": "raw", "augmentation": "resized", "flip": True,
        "discriminator_steps": 2, "w_kl": 1.0, "gan_iterations": 8, "align": "pooled",
    },
}  # fmt: skip
DENSE = [f"{name} maps" for name in methods.names() if "segmentation" in methods.get(name).tasks]
CASES = sorted({*methods.names(), *VARIANTS, *DENSE})


def train(name):
    images = torch.randint(256, (50, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    labels = torch.randint(4, (50,), generator=torch.Generator().manual_seed(2))
    given = make_given(
        tiny_network((6, 8), 0), tiny_network((3, 4), 1), images, labels, images, images, torch.randn(len(images), 4)
    )
    if name in DENSE:
        draw = torch.Generator().manual_seed(1)
        images = torch.randint(256, (50, 1, 16, 32), dtype=torch.uint8, generator=draw)
        labels = torch.randint(4, (50, 16, 32), dtype=torch.uint8, generator=draw)
        given = make_given(dense_network(6, 0), dense_network(3, 1), images, labels, images)
    engine = Engine(given, device="cpu", precision="64", seed=3, steps=12)
    cls = methods.get(name.split()[0])
    common = {k: v for k, v in COMMON.items() if k in cls.__dataclass_fields__}
    method = small(cls, **{**common, **VARIANTS.get(name, {})})
    method.setup(engine)
    run(method, engine, Checkpoints(Path(tempfile.mkdtemp())), Silent(), Cadence(log=5))
    found = {f"{m}.{k}": v for m, module in engine.modules.items() for k, v in module.state_dict().items()}
    found |= {f"buffer.{k}": v for k, v in engine.buffers.items()}
    for k, b in engine.banks.items():
        columns = {f"bank.{k}": b.pixels, f"bank.{k}.labels": b.labels, f"bank.{k}.logits": b.logits}
        found |= {name: column for name, column in columns.items() if column.numel()}
    return found, engine


def main(folder):
    torch.set_num_threads(1)
    run.__globals__["COUNTED"] = 1  # counting operations would take most of the time
    for name in CASES:
        state, engine = train(name)
        torch.save(state, Path(folder) / f"{name}-{engine.rank}.pt")
        assert engine.ranks == 2
