"""Runs programs that a model wrote. Imports neither JAX nor the rest of the project."""

from experiments.sandbox.pool import SandboxPool
from experiments.sandbox.protocol import Limits, Result, SandboxError, UnavailableError
from experiments.sandbox.running import Running
from experiments.sandbox.sandbox import Sandbox

__all__ = [
    "Limits",
    "Result",
    "Running",
    "Sandbox",
    "SandboxError",
    "SandboxPool",
    "UnavailableError",
]
