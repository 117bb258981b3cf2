"""Tasks: what an output is, how two networks are compared on it and how it is scored."""
