"""Benchmarks: each is one command, prints a table and writes JSON: `python -m benchmarks.codec --json codec.json`."""
