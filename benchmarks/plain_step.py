"""One DDAD iteration as research code writes it: eager, float32, channels first, hooks, nothing frozen.

The yardstick of ``step_ratio.py``. It computes what ``dreamstill.methods.ddad`` computes (the same networks, losses and
optimisers, one generator step and five student steps); what the public code of the field does about speed is kept:

- the teacher's and the student's parameters collect gradients in the generator's step, which are thrown away;
- a graph is built through the teacher in the student's steps too, although nothing is sent back through it;
- batch-norm statistics come from forward hooks that copy the layer's input channels-first for the variance and read it
  once more for the mean;
- the generator doubles its map and then convolves;
- the losses are read back with ``.item()`` in each step.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PlainGenerator(nn.Module):
    """DAFL's generator as it is usually written."""

    def __init__(self, nz: int, width: int, channels: int, side: int) -> None:
        super().__init__()
        self.seed = (2 * width, side // 4, side // 4)
        self.linear = nn.Linear(nz, 2 * width * (side // 4) ** 2)
        self.body = nn.Sequential(
            nn.BatchNorm2d(2 * width),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(2 * width, 2 * width, 3, padding=1), nn.BatchNorm2d(2 * width), nn.LeakyReLU(0.2, inplace=True),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(2 * width, width, 3, padding=1), nn.BatchNorm2d(width), nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(width, channels, 3, padding=1), nn.Tanh(), nn.BatchNorm2d(channels, affine=False),
        )  # fmt: skip

    def forward(self, z: Tensor) -> Tensor:
        """Noise to standardised images."""
        out: Tensor = self.body(self.linear(z).view(-1, *self.seed))
        return out


class StatisticsHook:
    """Keeps a batch-norm layer's distance of statistics, the way DeepInversion's released code measures it."""

    def __init__(self, layer: nn.BatchNorm2d) -> None:
        self.distance: Tensor
        layer.register_forward_hook(self.read)

    def read(self, layer: Any, inputs: tuple[Tensor, ...], _output: Tensor) -> None:
        """Three passes over what entered the layer."""
        x = inputs[0]
        mean = x.mean([0, 2, 3])
        var = x.permute(1, 0, 2, 3).contiguous().view(x.shape[1], -1).var(1, unbiased=False)
        self.distance = torch.norm(layer.running_var - var, 2) + torch.norm(layer.running_mean - mean, 2)


class PlainDDAD:
    """Networks take standardised images, as the released generators make them."""

    def __init__(
        self, teacher: nn.Module, student: nn.Module, *, width: int, nz: int, batch: int, channels: int, side: int,
        student_steps: int = 5, alpha: float = 1.0,
    ) -> None:  # fmt: skip
        self.teacher, self.student = teacher.eval(), student.train()
        self.generator = PlainGenerator(nz, width, channels, side)
        self.hooks = [StatisticsHook(m) for m in teacher.modules() if isinstance(m, nn.BatchNorm2d)]
        self.opt_g = torch.optim.Adam(self.generator.parameters(), lr=1e-3, foreach=False)
        self.opt_s = torch.optim.SGD(student.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, foreach=False)
        self.batch, self.nz, self.student_steps, self.alpha = batch, nz, student_steps, alpha

    def iteration(self) -> tuple[float, float]:
        """Student steps, then a generator step; the last losses."""
        for _ in range(self.student_steps):
            images = self.generator(torch.randn(self.batch, self.nz)).detach()
            self.opt_s.zero_grad()
            loss_s = F.l1_loss(self.student(images), self.teacher(images).detach())
            loss_s.backward()
            self.opt_s.step()
            last_s = loss_s.item()
        self.opt_g.zero_grad()
        images = self.generator(torch.randn(self.batch, self.nz))
        loss_g = -F.l1_loss(self.student(images), self.teacher(images))
        loss_g = loss_g + self.alpha * torch.stack([h.distance for h in self.hooks]).mean()
        loss_g.backward()
        self.opt_g.step()
        return last_s, loss_g.item()
