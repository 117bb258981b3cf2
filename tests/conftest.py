import copy
import sys
from pathlib import Path

import pytest
import torch
from helpers.networks import digits_network, tiny_network
from hypothesis import settings

from dreamstill import messages
from dreamstill.engine.hardware import keep_freed_memory
from dreamstill.report import plots
from dreamstill.runs import certificate

sys.path.insert(0, str(Path(__file__).parent / "workers"))  # functions that tests call in processes of their own

# The networks here are tiny: threads cost more than they bring, and two test processes run side by side.
torch.set_num_threads(1)
keep_freed_memory()
messages.to_terminal()  # as the command line does, so that tests can read what is said

settings.register_profile("suite", deadline=None, derandomize=True, max_examples=25)
settings.load_profile("suite")


@pytest.fixture
def network():
    return tiny_network


@pytest.fixture(scope="session")
def trained_on_digits():
    return digits_network()


@pytest.fixture
def digits_teacher(trained_on_digits):
    """A copy, which a test may change."""
    return copy.deepcopy(trained_on_digits)


@pytest.fixture(autouse=True)
def _short_end(request, monkeypatch):
    """A run's end is half of what a run of a few steps costs: without charts and with the smallest certificate.

    ``whole_end`` marks the tests that look at these. Fixtures of a module or a session have whole ends too.
    """
    if request.node.get_closest_marker("whole_end") is None:
        monkeypatch.setattr(plots, "undrawn", lambda: plots.UNDRAWN)
        monkeypatch.setattr(certificate, "LEAST", 0.0)
