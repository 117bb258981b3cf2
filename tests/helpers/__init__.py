"""What several tests use. Import it as ``helpers``; no test imports another."""
