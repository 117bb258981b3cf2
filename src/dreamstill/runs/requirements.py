"""Which methods can learn from a teacher: what each method needs, and what the teacher offers."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from dreamstill import methods
from dreamstill.errors import InputError
from dreamstill.networks.gan import doublings
from dreamstill.networks.generators import SMALLEST, Generator, LargeGenerator, nearest_sides
from dreamstill.networks.network import Network, noise_images, plain_copy
from dreamstill.networks.probes import bn_layers, last_linear, running_bn
from dreamstill.tasks import task_of

_NOT_THE_TEACHERS = {"real", "collected", "transfer"}  # needs for data, which no teacher can meet


def offers(network: Network) -> frozenset[str]:
    """Which of the methods' ``needs`` a network meets.

    ``bn``: it runs batch-norm layers with running statistics. ``sides``: its images' sides are multiples of 4, as a
    generator makes them. ``doublings``: a GAN that doubles small maps can make these sides. ``input_gradient``: a
    backward pass gives the images a finite gradient that is not zero. ``linear_head``: its last ``nn.Linear`` has
    ``num_classes`` outputs, runs, and its output is the network's. A network whose forward pass fails offers neither of
    the last two.
    """
    found = {"bn"} if running_bn(network) else set()
    if all(side % SMALLEST == 0 for side in network.image_size):
        found.add("sides")
    try:
        doublings(network.image_size)
        found.add("doublings")
    except InputError:
        pass
    copied = plain_copy(network)
    head, returned = last_linear(copied.module), []
    if head is not None:
        copied.module.get_submodule(head).register_forward_hook(lambda _layer, _inputs, output: returned.append(output))
    images = noise_images(network, 4).requires_grad_()
    try:
        with torch.enable_grad():
            logits = copied(images)
        if returned and _same(returned[-1], logits, network.num_classes):
            found.add("linear_head")
        # Weighted at random: a plain sum over classes would have no gradient behind a softmax.
        weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(0))
        (gradient,) = torch.autograd.grad((logits * weights).sum(), images)
    except Exception:  # whatever the forward pass raises, check_output reports it
        return frozenset(found)
    if bool(gradient.isfinite().all()) and bool(gradient.any()):
        found.add("input_gradient")
    return frozenset(found)


def _same(output: Tensor, logits: Tensor, num_classes: int) -> bool:
    return output.shape == logits.shape and output.shape[-1] == num_classes and torch.equal(output.float(), logits)


def missing(method: Any, network: Network) -> list[str]:
    """What the method needs and the teacher lacks, each as half a sentence with what to do; empty if nothing is.

    Args:
        method: its class, or an object whose settings may make it need less (``needed``).
        network: the teacher.
    """
    return _lacking(method, offers(network), network, task_of(network).name)


def _ordered() -> list[str]:
    """Names of all methods, then of all controls."""
    known = methods.names()
    return sorted(known, key=lambda name: (known[name].endswith("controls"), name))


def _lacking(method: Any, offered: frozenset[str], network: Network, task: str) -> list[str]:
    method_cls: Any = method if isinstance(method, type) else type(method)
    needs = method.needs if method is method_cls else method.needed
    instead = []
    for name in _ordered():
        cls = methods.get(name)
        if task not in cls.tasks:  # never advise a method for another task
            continue
        # Do not advise a control, which is a yardstick, or a method that needs data.
        if cls is not method_cls and not cls.control and cls.needs <= offered:
            instead.append(name)
        elif (lacks := cls.needs - offered) and lacks <= set(cls.spares):
            instead.append(f"{name} with {' and '.join(cls.spares[need] for need in sorted(lacks))}")
    take = f"take {' or '.join(instead[:3])}" if instead else "no other method fits it either"
    if task not in method_cls.tasks:
        shape = {"classification": "one row of logits per image", "segmentation": "a map of logits per image"}
        every = [name for name in _ordered() if task in methods.get(name).tasks]
        expected = " or ".join(shape[t] for t in sorted(method_cls.tasks))
        return [f"{expected} (this teacher gives {shape[task]}; {', '.join(every)} can learn from {task} networks)"]
    height, width = network.image_size
    near = nearest_sides(height, width, SMALLEST)
    unused = list(bn_layers(network.module))[:3]
    lacks = f"this teacher has {', '.join(unused)} and never runs them" if unused else "this teacher has none"
    texts = {
        "bn": f"batch-norm layers with running statistics ({lacks}: {take})",
        "input_gradient": "a gradient that reaches the images (none arrives: take no_grad, detach, rounding or argmax "
        f"out of the teacher's forward pass, or {take})",
        "linear_head": f"a last nn.Linear with {network.num_classes} outputs that gives the logits (this teacher ends "
        f"otherwise: {take})",
        "doublings": "images whose sides are a map of at least 4x4 doubled one to five times, 32x32 for instance "
        f"(this teacher takes {height}x{width} ones: {take})",
        "sides": f"images whose sides are multiples of {SMALLEST} (this teacher takes {height}x{width} ones; {near} "
        f"would do: {take})",
    }
    return [texts.get(need, need) for need in sorted(needs - offered - _NOT_THE_TEACHERS)]


def fitting(offered: frozenset[str], network: Network, broken: bool) -> list[dict[str, Any]]:
    """Whether each method and control can learn from the network, and if not why. None can from a broken one."""
    found, task = [], "" if broken else task_of(network).name
    for name in _ordered():
        # What a network offers says nothing about the methods if its forward pass fails.
        lacking = [] if broken else _lacking(methods.get(name), offered, network, task)
        why = "usable logits (see problems)" if broken else "; ".join(lacking)
        note = "" if why else generator_note(methods.get(name), network)
        found.append({"name": name, "fits": not why, "why": f"needs {why}" if why else "", "note": note})
    return found


# ---------------------------------------------------------------- generators of large images

_HEAVY = 30_000_000  # parameters of a generator that are worth a word
_SMALLER = {"size": "large", "width": 16}


def generator_note(method: Any, network: Network) -> str:
    """A sentence where a method's generator is very large for this teacher's images; else nothing."""
    count = _generator_size(method, network)
    if count < _HEAVY or not (smaller := smaller_generator(method, network)):
        return ""
    height, width = network.image_size
    return f"its generator has {count / 1e6:.0f} M parameters for images of {height}x{width}: give {smaller}"


def smaller_generator(method: Any, network: Network) -> str:
    """The settings of a much smaller generator, as half a sentence; nothing where the method's is small already."""
    known = {f.name for f in fields(method)}
    changes = {k: v for k, v in _SMALLER.items() if k in known and getattr(method, k) != v}
    if changes.get("size") and any(side % 16 for side in network.image_size):
        del changes["size"]
    count, smaller = _generator_size(method, network), _generator_size(method, network, **changes)
    if not changes or smaller > count / 2:
        return ""
    options = " ".join(f"--method.{k} {v}" for k, v in changes.items())
    return f"{options} (a generator of {smaller / 1e6:.2g} M)"


def _generator_size(method: Any, network: Network, **changes: Any) -> int:
    """Parameters of the generator that a method with these settings makes; 0 of a method that makes none."""
    known = {f.name for f in fields(method)}
    if not {"nz", "width"} <= known or any(side % SMALLEST for side in network.image_size):
        return 0
    kind = LargeGenerator if changes.get("size", getattr(method, "size", "small")) == "large" else Generator
    with torch.device("meta"):  # shapes alone
        made = kind(network, method.nz, changes.get("width", method.width))
    return sum(p.numel() for p in made.parameters())
