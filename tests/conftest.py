import copy
import sys
from pathlib import Path

import pytest
import torch
from helpers.networks import digits_network, tiny_network
from hypothesis import settings

from dreamstill import messages
from dreamstill.engine.hardware import keep_freed_memory

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
