"""What a network is: load one, look inside, build, export."""
