"""``dreamstill.train``."""

from __future__ import annotations

from typing import Any

from dreamstill.runs.settings import ClassWeights, Compile, Precision, TrainSettings

MYPY = False
if MYPY:  # for type checkers; under TYPE_CHECKING jsonargparse would import it, and torch with it, for --help
    from dreamstill.networks.network import Network


def train(
    network: Any = None,
    data: str | None = None,
    *,
    split: str = "test",
    data_root: str | None = None,
    network_args: dict[str, Any] | None = None,
    image_size: int | list[int] | None = None,
    set_size: int | list[int] | None = None,
    channels: int | None = None,
    epochs: float = 20.0,
    batch_size: int = 128,
    lr: float = 0.1,
    weight_decay: float = 5e-4,
    momentum: float = 0.9,
    warmup: float = 0.05,
    label_smoothing: float = 0.0,
    crop: int = 4,
    flip: bool | None = None,
    scale: float = 1.0,
    relight: float = 0.0,
    class_weights: ClassWeights = "none",
    limit: int | None = None,
    seed: int = 0,
    precision: Precision = "auto",
    compile: Compile = "auto",
    device: str = "auto",
    out: str | None = None,
    resume: bool = False,
    checkpoint_seconds: float = 60.0,
    evaluations: int = 10,
    quiet: bool = False,
) -> Network:
    """Train a network on labelled images, ordinarily: for teachers, and for yardsticks that may see the data.

    SGD with Nesterov momentum, linear warm-up, cosine to zero, crop and flip; the delivered weights are the
    average at the end of the schedule, never the best epoch on the test set.

    Args:
        network: a built-in name, or package.module:factory. In Python also any nn.Module.
        data: the set to train on.
        split: which split of it is scored; another than test where settings are chosen by their scores.
        data_root: the folder that holds the named sets.
        network_args: arguments for building the network.
        image_size: side of the images, or [height, width]; the set's own without it.
        set_size: sides that the set's images are brought to, larger than image_size: every step cuts windows of
            image_size anywhere out of them; scored is the whole for segmentation, the centre for classification.
        channels: 1 or 3; the set's own without it.
        epochs: passes over the training images.
        batch_size: images a step.
        lr: peak learning rate.
        weight_decay: on all parameters.
        momentum: of SGD.
        warmup: share of the run in which the learning rate rises.
        label_smoothing: 0 to 1.
        crop: pad-and-crop shift in pixels.
        flip: mirror at random; without it, only for sets of 3-channel photographs.
        scale: below 1, in place of crop: a random rectangle of at least that share of the area, scaled up.
        relight: random change of brightness and contrast, 0 to 1.
        class_weights: of the cross-entropy: none; median: rare classes count more, by the median class's share of the
            labels over their own; root: by its square root.
        limit: only the first so many training images.
        seed: of everything random.
        precision: 32, bf16 (mixed), 64, or auto.
        compile: on, off or auto.
        device: cpu, cuda (or gpu), mps, or auto.
        out: the run folder; without it a new one under runs/.
        resume: go on with the run in --out from its last checkpoint, with its own network, data and settings.
        checkpoint_seconds: seconds between two checkpoints.
        evaluations: how often along the run the network is scored, for the curve.
        quiet: no progress display.
    """
    from dreamstill.commands.train import run_training

    settings = TrainSettings(
        network=network, data=data, split=split, data_root=data_root, network_args=network_args,
        image_size=image_size, set_size=set_size, channels=channels, epochs=epochs, batch_size=batch_size,
        lr=lr, weight_decay=weight_decay, momentum=momentum, warmup=warmup, label_smoothing=label_smoothing,
        crop=crop, flip=flip, scale=scale, relight=relight, class_weights=class_weights, limit=limit, seed=seed,
        precision=precision, compile=compile, device=device, out=out, resume=resume,
        checkpoint_seconds=checkpoint_seconds, evaluations=evaluations, quiet=quiet,
    )  # fmt: skip
    return run_training(settings)
