import pytest
import torch
from helpers.networks import tiny_network
from hypothesis import settings

from dreamstill.engine.hardware import keep_freed_memory

# The networks here are tiny: threads cost more than they bring, and two test processes run side by side.
torch.set_num_threads(1)
keep_freed_memory()

settings.register_profile("suite", deadline=None, derandomize=True, max_examples=25)
settings.load_profile("suite")


@pytest.fixture
def network():
    return tiny_network
