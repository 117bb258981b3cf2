"""Is a claimed mean and std plausible? The first batch-norm layer's memory of the training images tells."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from dreamstill.errors import InputError, first_line
from dreamstill.networks.network import Network, plain_copy
from dreamstill.networks.probes import bn_layers

# Usual ways to normalise images in [0, 1]: name, mean, std (one per channel, or one for all).
_HABITS: tuple[tuple[str, tuple[float, ...], tuple[float, ...]], ...] = (
    ("mean 0, std 1", (0.0,), (1.0,)),
    ("mean 0.5, std 0.5", (0.5,), (0.5,)),
    ("ImageNet's mean and std", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ("pixels of 0 to 255 (mean 0, std 1/255)", (0.0,), (1 / 255,)),
)
_LENGTHS = (0.0, 1.0, 3.0, 10.0)  # correlation lengths of the made-up images, in pixels; constant ones come on top
_DARKEST, _BRIGHTEST = 0.02, 0.98


class _ReachedError(Exception):
    """The first batch-norm layer was reached: the rest of the network need not run."""


def normalisation_check(network: Network) -> dict[str, Any]:
    """Is the claimed mean and std plausible, given what the first batch-norm layer remembers of the training images?

    If that layer reads an affine function of the images (a convolution or linear layer; this is tested, not assumed),
    its running mean is that function of the images' mean, borders included. Its running variance is that of their
    covariance. Least squares gives the mean that the network saw. The standard deviation follows from non-negative
    weights on the variances that images of several correlation lengths, from white noise to constant, would have given.
    The claim turns both into the brightness and the contrast that the training images must have had. They must lie in
    [0, 1], and values in [0, 1] with mean ``m`` have a standard deviation of at most ``sqrt(m (1 - m))``. ``contrast``
    is the share of that: about 0.5 for photographs, 0.8 to 0.95 for handwriting; above 1 is impossible, below 0.1 is
    nearly grey.

    On small networks trained on digits, MNIST and CIFAR-10, brightness came out within 0.07 and standard deviation
    within 15 %.

    It cannot detect a wrong claim that other real images would fit as well. A network trained on standardised images
    fits ImageNet's numbers as well as its own set's, and also 0.5 and 0.5 if its images were nearly black and white.
    One trained on unscaled [0, 1] images fits many claims. It cannot detect the order of colour channels either, or
    anything if an activation or pooling comes before the first batch norm.

    Args:
        network: left as it is.

    Returns:
        ``verdict`` (``plausible``, ``implausible``, ``unknown``) and ``why``. With an estimate also ``layer``;
        ``seen_mean`` (per channel) and ``seen_std``, of what the network received; ``implied_mean`` and
        ``implied_std`` (per channel, [0, 1] units), of the training images under the claim; ``contrast`` (None if the
        brightness is already impossible); ``would_fit``, the usual ways that are plausible if the claim is not.
    """
    try:
        layer, mean, error, std = _seen(network)
    except InputError as failure:
        return {"verdict": "unknown", "why": str(failure)}
    claim = (network.mean.flatten().cpu().double(), network.std.flatten().cpu().double())
    verdict, why, implied_mean, implied_std, contrast = _judge(mean, error, std, *claim)
    fits = []
    for name, habit_mean, habit_std in _HABITS:
        if len(habit_mean) in (1, network.channels):
            habit = (torch.tensor(v, dtype=torch.float64).expand(network.channels) for v in (habit_mean, habit_std))
            if _judge(mean, error, std, *habit)[0] == "plausible":
                fits.append(name)
    if verdict != "plausible" and fits:
        why += f"; {' or '.join(fits)} would fit"
    elif verdict == "plausible" and "mean 0, std 1" in fits and bool(claim[0].any()):
        why += "; unscaled [0, 1] images (mean 0, std 1) would fit as well, and the two cannot be told apart"
    if verdict != "plausible" and float(mean.abs().max()) < 0.5 and 0.7 < std < 1.4:
        why += "; the network seems to have seen images standardised by their own mean and std: give those"
    return {
        "verdict": verdict,
        "why": why,
        "layer": layer,
        "seen_mean": _rounded(mean),
        "seen_std": round(std, 4),
        "implied_mean": _rounded(implied_mean),
        "implied_std": _rounded(implied_std),
        "contrast": None if math.isnan(contrast) else round(contrast, 3),
        "would_fit": fits if verdict != "plausible" else [],
    }


def _rounded(values: Tensor) -> list[float]:
    return [round(float(v), 4) + 0.0 for v in values]  # no -0.0


def _judge(
    seen_mean: Tensor, error: Tensor, seen_std: float, mean: Tensor, std: Tensor
) -> tuple[str, str, Tensor, Tensor, float]:
    """Verdict, reason, implied mean and std (``c``) and contrast for a claimed mean and std (``c``)."""
    bright, spread, doubt = seen_mean * std + mean, seen_std * std, 2 * error * std
    # The brightness within the error that favours the claim most.
    likely = bright + torch.clamp(0.5 - bright, -doubt, doubt)
    shown = ", ".join(f"{round(float(v), 2) + 0.0:.2f}" for v in bright)
    text = f"the claim implies training images of mean {shown} and std {float(spread.mean()):.2g} in [0, 1] units"
    if bool((likely < _DARKEST).any()) or bool((likely > _BRIGHTEST).any()):
        return "implausible", f"{text}, a brightness that [0, 1] images cannot have", bright, spread, math.nan
    contrast = float(spread.mean() / (likely * (1 - likely)).sqrt().mean())
    if contrast > 1.1:  # the estimate is good to about 10 %
        return "implausible", f"{text}, a contrast that [0, 1] images cannot have", bright, spread, contrast
    if contrast < 0.1:
        return "implausible", f"{text}, all but uniform grey", bright, spread, contrast
    if contrast > 0.97:
        return "unknown", f"{text}, which only purely black and white images have", bright, spread, contrast
    if contrast < 0.2:
        return "unknown", f"{text}, of very little contrast", bright, spread, contrast
    tail = ", as of nearly black and white images (photographs have about half)" if contrast > 0.75 else ""
    return "plausible", f"{text}{tail}", bright, spread, contrast


def _seen(network: Network) -> tuple[str, Tensor, Tensor, float]:
    """The first batch-norm layer, and mean, its error (``c``) and std of the standardised training images."""
    name, layer, front = _front(network)
    running_mean, running_var = layer.running_mean.double(), layer.running_var.double()
    if not bool((running_mean.isfinite() & running_var.isfinite()).all()):
        raise InputError(f"the running statistics of {name} are not finite")
    if not bool(running_mean.any()) and bool((running_var == 1).all()):
        raise InputError(f"the running statistics of {name} are those of a fresh network")
    c, size = network.channels, network.image_size
    offset = front(torch.zeros(1, c, *size))
    if not _additive(front, offset, torch.randn(2, c, *size, generator=torch.Generator().manual_seed(0))):
        raise InputError(f"an activation or pooling lies between the images and {name}, the first batch-norm layer")
    live = running_var > 1e-6 * running_var.max()  # a dead filter says nothing, and divides by nearly nothing
    k = int(live.sum())
    if k == 0:
        raise InputError(f"{name} has no live channel")

    def of(images: Tensor) -> Tensor:
        """What images (``n c h w``) add to each live channel that enters the layer (``n k positions``)."""
        return (front(images) - offset)[:, live].reshape(len(images), k, -1)

    ones = torch.eye(c)[:, :, None, None].expand(c, c, *size).contiguous()
    base = offset[:, live].double().reshape(k, -1).mean(1)
    scale = running_var[live].sqrt()
    claim = (network.mean.flatten().cpu().double(), network.std.flatten().cpu().double())
    response = of(ones).double().mean(2).T / scale[:, None]
    mean, error, rest = _least_squares(response, (running_mean[live] - base) / scale, *claim)
    if rest > 0.4:
        raise InputError(f"no mean of the images explains the running means of {name}")
    # The border makes a constant image vary from place to place; that part of the variance is not the images'.
    flat = mean.float().view(1, -1, 1, 1).expand(1, c, *size).contiguous()
    border = of(flat)[0].double().var(1, correction=0)
    target = (running_var[live] - border).clamp_min(0.05 * running_var[live])
    return name, mean, error, _spread(_made_up(of, ones, size), target, name)


def _additive(front: Callable[[Tensor], Tensor], offset: Tensor, drawn: Tensor) -> bool:
    """Whether ``front`` without its offset is additive: its value for a sum of two images is the sum of both values."""
    a, b, both = (front(x) - offset for x in (drawn[:1], drawn[1:], drawn.sum(0, keepdim=True)))
    return float((both - a - b).abs().max()) <= 1e-3 * float(a.abs().max())


def _front(network: Network) -> tuple[str, Any, Callable[[Tensor], Tensor]]:
    """The first batch-norm layer that runs, by name, and the function from standardised images to what enters it."""
    module = plain_copy(network).module
    entered: dict[str, Any] = {}

    def stop_at(name: str) -> Callable[..., None]:
        def hook(_layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            entered.update(name=name, value=inputs[0])
            raise _ReachedError

        return hook

    layers = bn_layers(module)
    for name, layer in layers.items():
        layer.register_forward_pre_hook(stop_at(name))

    def front(images: Tensor) -> Tensor:
        try:
            with torch.no_grad():
                module(images)
        except _ReachedError:
            pass
        except Exception as error:
            raise InputError(f"the forward pass failed with {first_line(error)!r}") from error
        if "value" not in entered:
            raise InputError("no batch-norm layer with running statistics runs")
        return entered["value"]

    if not layers:
        raise InputError("the network has no batch-norm layer with running statistics")
    front(torch.zeros(1, network.channels, *network.image_size))
    return entered["name"], layers[entered["name"]], front


def _least_squares(a: Tensor, y: Tensor, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor, float]:
    """``x`` of ``a x = y`` (``k c``, ``k``), its standard error, and the root mean square of the residual.

    Filters often tell channels apart badly. Then the brightness of one channel is taken to be near the others' (a
    difference of 0.1 in [0, 1] units) and is not left to the noise.
    """
    alike = torch.eye(len(mean), dtype=a.dtype) - 1 / len(mean)
    noise = 0.1
    for _ in range(5):
        rows = torch.cat([a / noise, alike * std / 0.1])
        inverse = torch.linalg.pinv(rows.T @ rows, hermitian=True)
        x = inverse @ rows.T @ torch.cat([y / noise, -alike @ mean / 0.1])
        rest = float((a @ x - y).square().mean().sqrt())
        noise = max(rest, 0.02)  # running means drift by that much anyway
    return x, inverse.diagonal().sqrt(), rest


def _made_up(of: Callable[[Tensor], Tensor], ones: Tensor, size: tuple[int, int]) -> Tensor:
    """Variance of each channel (``k j``) over images of unit variance and ``j`` kinds of correlation."""
    c = len(ones)
    constant = of(ones).double()
    kinds = [constant.sum(0).square().mean(1), constant.square().sum(0).mean(1)]  # grey, and channels apart
    generator = torch.Generator().manual_seed(1)
    n = min(512, max(16, 2**18 // (size[0] * size[1])))
    for length in _LENGTHS:
        for colours in sorted({1, c}):
            images = torch.randn(n, colours, *size, generator=generator)
            if length:
                rows, columns = (_correlate(side, length) for side in size)
                images = rows @ images @ columns.T
            entering = of(images.expand(n, c, *size).contiguous())
            kinds.append(entering.square().mean((0, 2), dtype=torch.float64))
    return torch.stack(kinds, 1)


def _correlate(side: int, length: float) -> Tensor:
    """Matrix that gives white noise along one side a correlation of exp(-distance / length)."""
    at = torch.arange(side, dtype=torch.float64)
    return torch.linalg.cholesky(torch.exp(-(at[:, None] - at).abs() / length)).float()


def _spread(kinds: Tensor, target: Tensor, name: str) -> float:
    """Standard deviation of a mixture of the kinds (``k j``) whose variances are nearest, in ratio, to ``target``."""
    shares = kinds / target[:, None]
    weights = nonnegative_least_squares(shares, torch.ones(len(shares), dtype=shares.dtype))
    total = float(weights.sum())
    if float((shares @ weights - 1).abs().mean()) > 0.5 or total <= 0:
        raise InputError(f"no images explain the running variances of {name}")
    return math.sqrt(total)


def nonnegative_least_squares(a: Tensor, b: Tensor) -> Tensor:
    """``x >= 0`` with the least ``||a x - b||_2``: the active sets of Lawson and Hanson (1974, chapter 23)."""
    x, free = torch.zeros_like(a[0]), torch.zeros(a.shape[1], dtype=torch.bool)
    slack = 1e-12 * float(a.abs().max()) * float(b.abs().sum())  # less is rounding
    for _ in range(3 * len(x)):  # columns that differ by rounding alone could take turns for ever
        gain = torch.where(free, -torch.inf, a.T @ (b - a @ x))
        if float(gain.max()) <= slack:
            break
        free[gain.argmax()] = True
        while True:
            best = torch.zeros_like(x)
            best[free] = torch.linalg.lstsq(a[:, free], b[:, None]).solution[:, 0]
            falling = free & (best <= 0)
            if not falling.any():
                break
            # Go towards the best as far as all stay at zero or above. What reaches zero there is held at it.
            reach = torch.where(falling, torch.where(x > 0, x / (x - best), 0.0), torch.inf)
            x = x + reach.min() * (best - x)
            free &= reach > reach.min()
            x = torch.where(free, x, 0.0)
        x = best
    return x
