"""Put a network on its device, in the memory format in which its layers run fastest, if they accept it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dreamstill.networks.network import Network, copied, noise_images
from dreamstill.networks.probes import without_probes


def place(module: nn.Module, device: torch.device, dtype: torch.dtype, trained: bool) -> None:
    """Move a network, in place, and in float32 also to channels_last.

    A user's network may not accept that: ``x.view(x.size(0), -1)`` after a convolution is common and needs the
    contiguous format. So it is tried on a copy. If that fails, the network and its inputs stay contiguous.

    Args:
        module: a :class:`Network`, or a part of a method, which accepts any format.
        device: the device to move it to.
        dtype: of its tensors.
        trained: whether it will run in training mode.
    """
    module.to(device=device, dtype=dtype)
    if dtype != torch.float32:
        return
    if isinstance(module, Network) and not _takes_channels_last(module, device, trained):
        module.contiguous = True
        return
    module.to(memory_format=torch.channels_last)


def _takes_channels_last(network: Network, device: torch.device, trained: bool) -> bool:
    images = noise_images(network, 2).to(device)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        for training in (False, True) if trained else (False,):
            plain = _run(network, images, training, torch.contiguous_format)
            if plain is None:
                continue  # it fails anyway, so the format is not the reason
            fast = _run(network, images, training, torch.channels_last)
            if fast is None:
                return False
            # Code that reads the memory itself (as_strided) may run and give other values. Dropout differs anyway.
            if not training and float((fast - plain).abs().max()) > 1e-2 * float(plain.abs().max()):
                return False
    return True


def _run(network: Network, images: Tensor, training: bool, memory_format: torch.memory_format) -> Tensor | None:
    """Logits of a copy that ran forward and backward in a memory format; None if it failed."""
    trial = copied(network).train(training)
    without_probes(trial)
    try:
        with torch.enable_grad():
            trial.to(memory_format=memory_format)
            logits = trial(images.to(memory_format=memory_format).requires_grad_())
            if logits.requires_grad:
                logits.sum().backward()
    except Exception:  # whatever the user's forward() raises
        return None
    return logits.detach()
