"""Benchmarks of the whole path, run by `make bench`; each prints one JSON line a measurement."""
