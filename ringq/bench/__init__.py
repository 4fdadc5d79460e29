"""Cli: the benchmarks that `ringq bench` runs on the user's own machine, and what all benchmarks are made with.

A benchmark is a module with `run(options)`, which returns its figures by name: numbers, or spreads made by `measure`.
Those that compare ringq with other packages live in perf/, outside of what is installed.
"""
