"""Losses: plain functions of logits and tensors, one file a family. The class dimension is 1."""
