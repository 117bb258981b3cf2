"""dreamstill: data-free knowledge distillation. A trained network in, a small student out, no data."""

__version__ = "0.1.0"
