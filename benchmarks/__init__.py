"""Benchmarks of npvae against what people would otherwise use: validate, then time. `python -m benchmarks --help`.

In reading order: `problem` (what is computed), `peers/` (who computes it), `serve` and `workers` (each contestant in a
process of its own), `contest` (validation, then interleaved rounds), `statistics`, `machine` and `peaks` (what the
processor could do), one module per benchmark, `tables` and `pictures`.
"""
