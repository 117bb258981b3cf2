"""Controls: the yardsticks that every method is held against. Same contract as a method."""
