"""Benchmarks: each module measures one promise and writes `results/<name>-<device>.json`."""
