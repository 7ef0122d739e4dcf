"""The steps of the sweep's runs alone, for the time that nothing can go below without faster steps.

All methods are in the program, as in a sweep.
"""

import jax

from configs.sweeps.benchmark import METHODS, get_config
from experiments.benchmarks.works import Work
from experiments.experiment import starting_params
from experiments.learner import hyperparameters
from experiments.perf.worker import Once, serve
from experiments.train import compile_for


def prepare(work: Work) -> tuple[Once, dict]:
    """For `serve`: `work.steps` steps of one run."""
    config = get_config()
    parts, members, program, _ = compile_for(config, list(METHODS.values()))
    hyper = hyperparameters(config, members)
    carry = [program.init(hyper, starting_params(parts))]

    def once():
        carry[0], metrics = program.advance(carry[0], parts.task, hyper, work.steps)
        jax.block_until_ready((carry, metrics))

    return once, {}


if __name__ == "__main__":
    serve(prepare, ("jax",))
