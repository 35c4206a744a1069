"""Every benchmark, by name: a module here that defines `BENCHMARKS` adds its benchmarks to the command."""

from __future__ import annotations

import pkgutil
from functools import cache
from importlib import import_module

from instructdiffusion.model.benchmark import Benchmark
from instructdiffusion.model.errors import ConfigError


@cache
def benchmarks() -> dict[str, Benchmark]:
    """Every benchmark by name."""
    return {
        benchmark.name: benchmark
        for module in sorted(m.name for m in pkgutil.iter_modules(__path__))
        for benchmark in getattr(import_module(f"{__name__}.{module}"), "BENCHMARKS", ())
    }


def benchmark_named(name: str) -> Benchmark:
    """Look a benchmark up.

    Raises:
        ConfigError: there is no such benchmark; lists those there are.
    """
    if name not in benchmarks():
        raise ConfigError(f"no benchmark {name!r}; choose one of {', '.join(benchmarks())}")
    return benchmarks()[name]
