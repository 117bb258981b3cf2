"""The one place that knows device, precision, compilation and ranks.

A method talks to the engine in a few verbs. ``own`` and ``frozen`` take its networks. ``noise``, ``labels``,
``integers`` and ``coins`` draw random numbers; :mod:`dreamstill.engine.draws` has all of these. ``make`` runs a network
without gradients, and ``minimise`` takes one optimiser step. ``gather``, ``average`` and ``mine`` see the global batch.
Lightning Fabric finds the devices, starts the ranks and casts. Gradients are averaged here and not by a DDP wrapper: a
wrapper also fills and reduces the gradients of every network that a loss merely passes through (the student, in the
generator's step).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_map

from dreamstill.data.bank import ImageBank
from dreamstill.data.storage import is_large
from dreamstill.engine.compiling import Graphs
from dreamstill.engine.draws import Draws
from dreamstill.engine.given import Given
from dreamstill.engine.hardware import Precision
from dreamstill.engine.launch import launch
from dreamstill.engine.parts import Cast, Owned, with_optimiser
from dreamstill.engine.placing import place
from dreamstill.engine.ranks import average_gradients, share_batch_norm
from dreamstill.engine.readings import Readings
from dreamstill.engine.schedules import Schedule, constant
from dreamstill.engine.state import state_of, take_up
from dreamstill.networks.network import Network
from dreamstill.networks.probes import Probe, Rest

Terms = dict[str, Tensor]
_NO_SCHEDULES: Mapping[str, Schedule] = MappingProxyType({})


class Engine:
    """Runs a method's steps on any hardware. See the module's text for the verbs.

    Args:
        given: the user's networks and, for controls, real images.
        device: ``auto``, ``cpu``, ``cuda``, ``mps``; ``auto`` takes ``cuda`` if there is one, else ``cpu``.
        precision: ``32``, ``bf16`` (mixed) or ``64`` (for exactness tests).
        compile: compile each step's losses, forward and backward, as one graph.
        seed: every draw is a function of (seed, iteration, number of the draw), so a resumed run draws the same.
        steps: the budget in student optimiser steps; schedules are fractions of it.
        scratch: folder for data too large for memory; by default the system's folder for temporary files.
    """

    def __init__(
        self,
        given: Given,
        *,
        device: str = "auto",
        precision: Precision = "32",
        compile: bool = False,
        seed: int = 0,
        steps: int = 1,
        scratch: Path | None = None,
    ) -> None:
        self.fabric = launch(device, precision)
        self.given, self.seed, self.steps, self.scratch = given, seed, steps, scratch
        self.device, self.ranks, self.rank = self.fabric.device, self.fabric.world_size, self.fabric.global_rank
        self.dtype = torch.float64 if precision == "64" else torch.float32
        self.task = given.task
        self.modules: dict[str, nn.Module] = {}
        self.owned: dict[str, Owned] = {}
        self.buffers: dict[str, Tensor] = {}
        self.banks: dict[str, ImageBank] = {}
        self.frozen_modules: list[nn.Module] = []
        self.progress = 0.0
        self.schedules: Mapping[str, Schedule] = _NO_SCHEDULES
        self.bn_left_out: list[str] = []  # names of batch norms whose statistics no term reads
        self._graph = Graphs(self.device, compile)
        self.eagerly = self._graph.eagerly
        self._active: frozenset[str] | None = None
        self._readings = Readings()
        # A profile sets it to learn which step an operation belongs to. It maps a step's name to a context.
        self.watch: Callable[[str], contextlib.AbstractContextManager[Any]] = lambda _name: contextlib.nullcontext()
        draws = Draws(seed, self.device, self.dtype, self.ranks, self.rank, given.teacher.num_classes)
        self.draws, self.mine = draws, draws.mine
        self.noise, self.labels, self.integers, self.uniform = draws.noise, draws.labels, draws.integers, draws.uniform
        self.coins, self.sweep, self.alike, self.redraw = draws.coins, draws.sweep, draws.alike, draws.redraw
        self.uncounted = draws.uncounted
        draws.settle()

    # ---------------------------------------------------------------- what a method owns

    def own(
        self,
        name: str,
        module: nn.Module,
        make_opt: Callable[..., Optimizer] | None = None,
        schedule: Schedule = constant,
        clip: float | None = None,
        taps: Sequence[str] | None = None,
    ) -> tuple[Cast, Owned]:
        """Take a trainable network: place it, give it an optimiser, keep both in the checkpoint.

        Returns the network to call, and the handle that :meth:`minimise` takes. With ``taps`` (see
        :class:`dreamstill.networks.probes.Probe`; for a ``Network`` only) the call returns ``Observed`` instead of
        logits.
        """
        if name in self.modules:
            raise ValueError(f"two networks are called {name!r}")
        place(module, self.device, self.dtype, trained=True)
        module.train()
        if self.ranks > 1:
            share_batch_norm(module, self.average)
        self.modules[name] = module
        self.owned[name] = with_optimiser(name, module, make_opt, schedule, clip)
        self._active = None
        called = module
        if taps is not None:
            assert isinstance(module, Network)
            called = Probe(module, taps)
        return Cast(called, self.fabric), self.owned[name]

    def frozen(self, network: Network, taps: Sequence[str] = (), bn: bool = False, bn_pooled: bool = False) -> Cast:
        """Take a network that never learns: eval mode, no parameter gradients; its call returns ``Observed``.

        ``bn_pooled``: see :class:`dreamstill.networks.probes.Probe`.
        """
        place(network, self.device, self.dtype, trained=False)
        network.eval().requires_grad_(False)
        self.frozen_modules.append(network)
        probe = Probe(network, taps, bn, self.average, bn_pooled)
        self.bn_left_out += probe.left_out
        return Cast(probe, self.fabric)

    def rest(self, network: Network, tap: str) -> Cast:
        """The part of a frozen network after a tap. Its call takes the tap's value and returns logits."""
        return Cast(Rest(network, tap), self.fabric)

    def restart(self, owned: Owned) -> None:
        """Make the optimiser forget what it has seen, after the owner gave the network new weights."""
        owned.opt.state.clear()

    def buffer(self, name: str, value: Tensor) -> Tensor:
        """Take a tensor that is part of the method's state; change it in place."""
        self.buffers[name] = value.to(self.device)
        return self.buffers[name]

    def bank(self, name: str, capacity: int, logits: bool = False, wide: bool = False, views: int = 1) -> ImageBank:
        """An image bank for the teacher's image size, with its logits if asked for. Every rank holds all of it.

        ``wide``: a margin of four standard deviations, for images that generators made in standardised pixels.
        ``views``: rows of logits per image.
        """
        teacher = self.given.teacher
        beyond = 4 * teacher.std - torch.minimum(teacher.mean, 1 - teacher.mean)
        margin = max(float(beyond.max()), 0.0) if wide else 0.0
        k = views * teacher.num_classes if logits else 0
        bank = ImageBank(capacity, teacher.channels, teacher.image_size, k, margin, self.scratch)
        self.banks[name] = bank.to(self.device)
        return self.banks[name]

    def real(self) -> tuple[Tensor, Tensor]:
        """The real images (uint8 ``n c h w``) and labels (``n``) that a control was allowed."""
        pixels, labels = self.given.real()
        return pixels.to(self.device), labels.to(self.device)

    def collected(self) -> Tensor:
        """The collected, unlabelled images (uint8 ``n c h w``) that a method needs."""
        return self.given.unlabelled().to(self.device)

    def transfer(self) -> tuple[Tensor, Tensor]:
        """The images (uint8 ``n c h w``) of a stored transfer set, and the teacher's logits for them (``n k``).

        A large set stays on the host: take its rows with :func:`dreamstill.data.storage.rows`.
        """
        pixels, logits = self.given.transfer()
        return self._near(pixels), self._near(logits)

    def _near(self, x: Tensor) -> Tensor:
        return x if is_large(tuple(x.shape), x.dtype) else x.to(self.device)

    # ---------------------------------------------------------------- iterations

    def begin(self, iteration: int, progress: float, schedules: Mapping[str, Schedule] = _NO_SCHEDULES) -> None:
        """Start an iteration (counted over the whole run) at ``progress`` (0 to 1) of its phase.

        ``schedules``: the phase's own, by the names of owned networks.
        """
        self.progress, self.schedules = progress, schedules
        self.draws.begin(iteration)

    @property
    def iteration(self) -> int:
        """The current iteration."""
        return self.draws.iteration

    @property
    def drawn(self) -> int:
        """How many images the run has drawn noise for."""
        return self.draws.drawn

    # ---------------------------------------------------------------- computing

    def make(self, network: Callable[..., Any], *inputs: Tensor) -> Any:
        """Run a network without gradients, for instance a generator that makes images."""
        with torch.no_grad(), self.watch("image making"):
            return self._graph(network, network)(*inputs)

    def minimise(self, fn: Callable[..., Any], *owned: Owned, inputs: Sequence[Tensor] = ()) -> Any:
        """One step of each ``owned`` optimiser on the sum of the terms that ``fn(*inputs)`` returns.

        ``fn`` returns a dict of already weighted terms, or ``(terms, extra)``. A term is a 0-d tensor, the mean over
        this rank's share of the batch, or the same value on every rank if made from gathered tensors. ``extra`` is
        returned detached. All other networks are frozen during the step.
        """
        with self.watch(f"{owned[0].name} step"):
            self._activate(owned)
            key = getattr(fn, "__func__", fn)
            result = self._graph((key, id(getattr(fn, "__self__", None))), fn)(*inputs)
            terms, extra = result if isinstance(result, tuple) else (result, None)
            torch.stack([t for t in terms.values()]).sum().backward()
            for item in owned:
                average_gradients(item.params, self.ranks)
                item.set_lr(self.progress, self.schedules.get(item.name))
                if item.clip is not None:
                    torch.nn.utils.clip_grad_norm_(item.params, item.clip)
                item.opt.step()
                item.opt.zero_grad(set_to_none=True)
                item.steps += 1
        self._readings.add(owned[0].name, terms)
        return tree_map(lambda x: x.detach() if isinstance(x, Tensor) else x, extra)

    def gather(self, x: Tensor) -> Tensor:
        """The rows of all ranks (``b ...`` to ``ranks*b ...``), differentiable."""
        if self.ranks == 1:
            return x
        gathered = self.fabric.all_gather(x, sync_grads=x.requires_grad)
        assert isinstance(gathered, Tensor)
        return gathered.flatten(0, 1)

    def average(self, x: Tensor) -> Tensor:
        """Mean over ranks, differentiable."""
        return x if self.ranks == 1 else self.gather(x[None]).mean(0)

    def _activate(self, owned: Sequence[Owned]) -> None:
        names = frozenset(item.name for item in owned)
        if names == self._active:
            return
        for name, item in self.owned.items():
            for p in item.params:
                p.requires_grad_(name in names)
        self._active = names

    # ---------------------------------------------------------------- what happened

    def observe(self, name: str, values: Terms) -> None:
        """Log values next to the losses (0-d tensors, the mean over this rank's share) without minimising them."""
        self._readings.add(name, values)

    def read(self) -> dict[str, float]:
        """Mean of each term since the last call, and learning rates. Only here does the host wait.

        Raises:
            DivergedError: a term was NaN or infinite; names it.
        """
        means = self._readings.take(self.average, self.dtype, self.iteration + 1)
        if not means:
            return {}
        lrs = {f"lr/{o.name}": float(o.opt.param_groups[0]["lr"]) for o in self.owned.values() if o.steps}
        return means | lrs

    def barrier(self) -> None:
        """Wait for all ranks."""
        self.fabric.barrier()

    def any_rank(self, flag: bool) -> bool:
        """Whether ``flag`` is set on any rank."""
        return flag if self.ranks == 1 else bool(self.average(torch.tensor(float(flag), device=self.device)) > 0)

    def first_rank(self, value: Any) -> Any:
        """The first rank's value, on all of them."""
        return value if self.ranks == 1 else self.fabric.broadcast(value)

    # ---------------------------------------------------------------- state

    def state(self) -> dict[str, Any]:
        """All that the next step depends on, but for the banks' images, which checkpoints keep."""
        return state_of(self)

    def load(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state` returned. The method must have been set up in the same way."""
        take_up(self, state)
