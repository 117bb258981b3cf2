"""Run in two processes: each believes something else of time and machine, and they must plan the same run."""

import os
import time
from dataclasses import replace
from pathlib import Path

import torch
from helpers.networks import make_given, tiny_network

from dreamstill.engine import Hardware
from dreamstill.methods.ddad import DDAD
from dreamstill.runs import resolve
from dreamstill.runs.inputs import Inputs
from dreamstill.runs.settings import DistillSettings

ASKED = DistillSettings(device="cpu", precision="auto", compile="off", evaluations=0)


def main(folder):
    rank = int(os.environ["RANK"])
    torch.set_num_threads(1)
    resolve.choose = lambda *_: Hardware("cpu", ("32", "64")[rank], False)
    method = DDAD(batch_size=16, nz=8, width=4)
    given = make_given(tiny_network((6, 8), 0), tiny_network((3, 4), 1))
    found = []
    for budget in ({"minutes": 2.0}, {"steps": 7}):
        began = time.monotonic() - 50 * rank  # as if the second had taken that long to start
        settings, hardware = resolve._hardware(replace(ASKED, threads=1, **budget), method, given)
        resolved = resolve._measured(settings, method, Inputs(given), hardware, began)
        found.append((hardware, resolved.steps))
    (Path(folder) / f"{rank}.txt").write_text(repr(found))
