"""``dreamstill synthesize``: take up a run's networks and write what its student learnt from, for others to use."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from dreamstill.data.storage import nearest
from dreamstill.data.transfer_set import ROWS, kept, write_set
from dreamstill.engine import Engine
from dreamstill.errors import InputError
from dreamstill.files import atomic_write
from dreamstill.messages import say
from dreamstill.methods import Method
from dreamstill.networks import builtin, state_dicts
from dreamstill.networks.load import WHOLE
from dreamstill.networks.network import Network
from dreamstill.networks.pixels import to_uint8
from dreamstill.networks.predict import predict
from dreamstill.networks.reused_classifier import NAME, base_of
from dreamstill.networks.trust import refuse_own_code
from dreamstill.runs.checkpoints import Checkpoints
from dreamstill.runs.config_file import read_run
from dreamstill.runs.inputs import gather_images, resolve_student, resolve_teacher
from dreamstill.runs.manifest import read_manifest
from dreamstill.runs.random_numbers import kept_random_streams
from dreamstill.runs.settings import DistillSettings, build_method, check_seed, method_spec

DEFAULT_IMAGES = 1000


@kept_random_streams()
def write_images(
    run: str, n: int | None, out: str | None, seed: int, unsafe_load: bool, trust_code: bool = False, **given: Any
) -> str:
    """Carry out :func:`dreamstill.api.synthesize`."""
    if n is not None and n < 1:
        raise InputError(f"n is {n}: make at least 1 image")
    check_seed(seed)
    if out is not None and Path(out).suffix not in (".parquet", ".safetensors"):
        raise InputError(f"out is {out}: give a file name that ends in .parquet or .safetensors")
    folder = Path(run)
    networks = {role: network for role, network in given.items() if network is not None}
    engine, method, settings, fingerprint = _restored(folder, seed, unsafe_load, trust_code, networks)
    teacher = engine.given.teacher
    bank = method.transfer_set()
    path = Path(out) if out else folder / ("images.safetensors" if bank is None else "transfer.parquet")
    about = {"run": folder.name, "seed": seed, **teacher.description()}
    task = engine.given.task
    if path.suffix == ".parquet" and task.name == "segmentation":
        raise InputError(
            f"{path.name} would hold a row of logits an image, and this teacher gives a map of them: write "
            ".safetensors, which holds the images with the teacher's class of every pixel"
        )
    about |= {"teacher_sha256": fingerprint, "outside": read_manifest(folder)["outside_information"]}
    if path.suffix == ".parquet":
        made = kept(bank, n) if bank is not None else _fresh(method, engine, n or DEFAULT_IMAGES)
        count = write_set(path, made, teacher, _classes(folder, teacher), {**about, "method": settings.method})
    else:
        pixels = to_uint8(method.synthesise(engine, n or DEFAULT_IMAGES)).cpu().contiguous()
        count = len(pixels)
        if task.name == "segmentation":  # maps of logits would be hundreds of times as large as the images
            answers = {"labels": task.predict(teacher, pixels)}
        else:
            answers = {"logits": predict(teacher, pixels)}
        atomic_write(path, save({"pixels": pixels, **answers}, metadata={"dreamstill": json.dumps(about)}))
    what = "classes of every pixel" if task.name == "segmentation" else "logits"
    say(f"{count} images and the teacher's {what}: {path}")
    return str(path)


def _restored(
    folder: Path, seed: int, unsafe_load: bool, trust_code: bool, networks: dict[str, Any]
) -> tuple[Engine, Method, DistillSettings, str]:
    """The run's engine and method, as its last checkpoint left them, its settings, and its teacher's fingerprint."""
    settings = _settings_of(folder, unsafe_load, trust_code, networks)
    method, teacher = build_method(settings.method), resolve_teacher(settings)
    fingerprint = state_dicts.fingerprint(teacher.module)  # before the engine gives it another precision
    given, _, _ = gather_images(settings, method, teacher, resolve_student(settings, teacher))
    engine = Engine(
        given,
        device=settings.device,
        precision=settings.precision,  # type: ignore[arg-type]  # resolved: not auto
        seed=seed,
        steps=settings.steps,  # type: ignore[arg-type]  # likewise
        scratch=nearest(folder),
    )
    method.setup(engine)
    state = Checkpoints(folder / "checkpoint").load(engine.banks)
    if state is None:
        raise InputError(f"{folder} has no checkpoint: the run must have got as far as its first one")
    engine.load(state["engine"])
    engine.begin(state["progress"]["iteration"], 1.0)
    return engine, method, settings, fingerprint


def _settings_of(folder: Path, unsafe_load: bool, trust_code: bool, given: dict[str, Any]) -> DistillSettings:
    """The run's own, after making sure that both networks can be built again and that no code is called unasked."""
    config = folder / "config.yaml"
    if not config.exists():
        raise InputError(f"{folder} holds no run: give the folder of a run that dreamstill distill wrote")
    saved = read_run(config)
    if not isinstance(saved, DistillSettings):
        raise InputError(
            f"{folder} holds a network that dreamstill train wrote, which makes no images: give the folder of a run "
            "that dreamstill distill wrote"
        )
    for role in {"teacher", "student"} - set(given):
        _check_can_be_built(getattr(saved, role), role, folder)
    built = read_manifest(folder).get("student")  # runs of earlier versions do not have it
    args = saved.student_args if built is None else built["kwargs"]
    if not (unsafe_load or trust_code):
        networks = {"teacher": (saved.teacher, saved.teacher_args), "student": (saved.student, args)}
        named = [network for role, network in networks.items() if role not in given]
        spec = method_spec(saved.method)
        named += [base_of({"name": n, "kwargs": k or {}}) for n, k in named] + [(spec.pop("name"), spec)]
        for name, kwargs in named:
            refuse_own_code(name, config, kwargs)
    # The student's trained weights are in the checkpoint.
    return replace(
        saved, student_args=args, student_checkpoint=None, unsafe_load=unsafe_load, trust_code=trust_code, **given
    )


def _fresh(method: Method, engine: Engine, n: int) -> Iterator[Tensor]:
    """``n`` images made in pieces (uint8 ``b c h w``)."""
    for start in range(0, n, ROWS):
        yield to_uint8(method.synthesise(engine, min(ROWS, n - start))).cpu()


def _check_can_be_built(name: str, role: str, folder: Path) -> None:
    if ":" in name or name == NAME or name in WHOLE:
        return
    try:
        builtin.find(name)
    except InputError as error:
        raise InputError(
            f"the {role} of the run in {folder} is a {name} that was given in Python, and nothing says how to build it "
            f"again: give it as --{role} package.module:factory, or in Python {role}=YourNetwork()"
        ) from error


def _classes(folder: Path, teacher: Network) -> list[str]:
    """The classes' names where the run knew them, else their numbers."""
    try:
        named = json.loads((folder / "summary.json").read_text()).get("classes")
    except (OSError, ValueError):
        named = None
    return list(named) if named else [str(i) for i in range(teacher.num_classes)]
