"""What the files of the benchmark share: tasks, methods, rates, and how results are judged.

Four tasks of different kinds, each with a start of its own, 256 held-out prompts x 128 samples:

* graph: walks around forbidden nodes; the setting of configs/graph.py.
* countdown: four numbers to a target; that of configs/sweeps/countdown.py.
* subset_sum: a selection with a given sum. Sparse: from the warm start the mean solve rate is 2%.
* coloring: colour ten edges' eight nodes. Every prompt has many right answers, of which
  `eval/distinct` counts those that 128 samples find.

Equal compute: all methods of a task have the same steps, prompts, group size and evaluations. Each
has the rate of the three of its task that is best in tuning.py, whose seed no result is drawn from.

Criteria, written before any run of all.py. All intervals are 95%, over seeds and held-out prompts,
of differences paired by both.

* Method A is above B in a metric on a task if the interval of A - B lies above 0.
* The metrics are pass@1, pass@10 and pass@100 at the last step, the area under the curve of
  pass@100 against pass@1, entropy, distinct right answers, and the first step whose pass@1 reaches
  the final one of the best static method of the task (the one of the largest mean; FADE, scheduled
  pass@k and tempered_by_* are not static).
* The lead of the tempered likelihood with β = ½ holds if it is above GRPO and above FADE in each of
  pass@1, pass@10 and pass@100 on graph, and on at least two of the other three tasks it is below
  neither in pass@1 and above both in pass@100. It fails if GRPO or FADE is above it in pass@1 on
  two tasks. Otherwise it is undecided.
* Over all tasks methods are ordered by their mean rank in each metric; the interval of a rank is
  that of a bootstrap over seeds and prompts.
"""

from typing import NamedTuple

from configs import graph
from configs.sweeps import methods as earlier
from experiments.config import with_mode
from experiments.grid import Sweep, axis, chain, methods, product


class Task(NamedTuple):
    """A task of the benchmark.

    Attributes:
      steps: of RL, at most.
      warm_start: steps of imitation, at most.
      rates: that tuning.py tries.
    """

    steps: int
    warm_start: int
    rates: tuple[float, float, float]


TASKS = {
    "graph": Task(400, 280, (3e-4, 6e-4, 1.2e-3)),
    "countdown": Task(300, 280, (5e-5, 1e-4, 3e-4)),
    "subset_sum": Task(400, 280, (1e-4, 3e-4, 6e-4)),
    "coloring": Task(300, 1500, (3e-4, 6e-4, 1.2e-3)),
}
# Of each task, the best rates of tuning.py; the middle one where a method is not named.
TUNED: dict[str, dict[str, float]] = {
    "graph": {},
    "countdown": {},
    "subset_sum": {},
    "coloring": {},
}
OWN = "fade"  # config.advantage.name, unless the user sets it


def get_config(mode: str = ""):
    """Returns what the runs share; `mode` is empty or "smoke"."""
    config = graph.get_config()
    config.steps = max(task.steps for task in TASKS.values())
    config.warm_start.steps = max(task.warm_start for task in TASKS.values())
    config.evaluation.every = 50
    config.sweep.seeds = 10
    config.advantage.name = OWN
    config.advantage.kwargs = {}
    return with_mode(config, mode)


def advantages(config):
    """Returns (factory, arguments) of every method, by name; PSR is REINFORCE and left out."""
    chosen = earlier.advantages(config)
    chosen.pop("psr")
    return chosen | {
        "f_grpo1": ("f_grpo", {"gamma": 1.0}),
        "a_grae0.7": ("a_grae", {"omega": 0.7}),
        "quantile0.4": ("quantile", {"level": 0.4}),
        "reinforce_pp": ("reinforce_plus_plus", {}),
        "scheduled_pass_at_k": ("scheduled_pass_at_k", {}),
        "tempered0.25": ("tempered_likelihood", {"beta": 0.25}),
        "tempered0.5": ("tempered_likelihood", {"beta": 0.5}),
        "tempered0.75": ("tempered_likelihood", {"beta": 0.75}),
        "tempered_by_solve_rate": ("tempered_by_solve_rate", {"hard": 1.0, "easy": 0.0}),
    }


def task(name: str, config) -> Sweep:
    """Returns one run with the overrides of a task; a config with fewer steps keeps them."""
    steps = min(TASKS[name].steps, config.steps)
    warm_start = min(TASKS[name].warm_start, config.warm_start.steps)
    return {name: {"task.name": name, "steps": steps, "warm_start.steps": warm_start}}


def runs(config, *names: str) -> Sweep:
    """Returns the runs of the benchmark on the tasks with these names, seed by seed.

    A method of one's own joins by `--config.advantage.name=my_module.my_advantage`, at the rate of
    `--config.optimizer.learning_rate`.
    """
    every = chain(*(_of_task(name, config) for name in names))
    every = product(every, axis("seed", range(config.sweep.seeds)))
    # What is done of an interrupted sweep compares all methods.
    return dict(sorted(every.items(), key=lambda run: run[1]["seed"]))


def _of_task(name: str, config) -> Sweep:
    rates, tuned = TASKS[name].rates, TUNED[name]
    tried = {
        method: overrides | {"optimizer.learning_rate": tuned.get(method, rates[1])}
        for method, overrides in methods(advantages(config)).items()
    }
    if config.advantage.name != OWN:
        own = {"name": config.advantage.name, "kwargs": config.advantage.kwargs.to_dict()}
        tried["own"] = {
            "advantage": own,
            "optimizer.learning_rate": config.optimizer.learning_rate,
        }
    return product(task(name, config), tried)
