"""A run's files and its life."""
