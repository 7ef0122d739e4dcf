"""Why the sign ratio matters although h says it should not: 6 arms x 5 methods x 3 seeds.

On-policy the expected gradient of a prompt is h(p) ∇p. REINFORCE (successes alone), NSR (failures
alone) and RLOO (both alike) all have h = 1, exactly and at any group size: m_S/m_F is infinite, 0
and 1, and in expectation they are one method, with no factor between them to equalise.
(`learner.equalize_mass` would put one there, E[2pq]/E[p] for REINFORCE; so it is off.)
AsymGRPO(0.5) and (2) change the ratio and h = (q + p/δ)(1 - 1/G) at once.

Each arm changes one thing, so that it takes one cause out or puts one in:

| arm | differs from | in |
|---|---|---|
| adam | | one update per batch, Adam, 32 prompts: no reuse, and at ratio 1 nothing is clipped |
| batch | adam | 128 prompts: a quarter of the gradient's variance |
| sgd | adam | SGD without momentum: no division by the gradient's own size and noise |
| sgd_small | sgd | a quarter of the rate and four times the steps: finite steps |
| reuse | adam | four epochs on each batch, with bounds of the ratio that never bind |
| clip | reuse | the ratio clipped to [0.8, 1.2] |

Two readings of each arm, both 0 for a method that is RLOO in all but name, with 95% bootstrap
intervals over seeds and held-out prompts. D is the pass@100 of a method minus that of RLOO, both
where pass@1 first reaches 0.2, interpolated between evaluations: the length of the way, which the
arms change too, drops out. E is the gain of a method in pass@1 over the arm by that of RLOO, minus
1. (Before any run of this sweep configs/sweeps/methods.py had shown that NSR loses its pass@1 under
Adam instead of gaining any, which D cannot read: E was added for that. A run of RLOO under SGD, of
a seed of its own, had 0.26 at step 200: the level was lowered from 0.3, and the runs made shorter.)

* The sign ratio matters beyond h if in arm adam the interval of D, or E, of REINFORCE or NSR
  excludes 0.
* Noise, Adam or finite steps is a cause if taking it out brings |D|, or |E|, of that method nearer
  to 0, the interval of the change excluding 0: batch against adam, sgd against adam, sgd_small
  against sgd. It is the whole cause, as far as can be told here, if the interval of D, or E, then
  includes 0.
* Reuse or clipping is a cause if putting it in takes |D|, or |E|, farther from 0, the interval of
  the change excluding 0: reuse against adam, clip against reuse.
* Added after the runs, since reuse without clipping took all pass@1 from RLOO itself: E has no
  value in an arm where the interval of RLOO's own gain is not above 0, and both together are a
  cause as above by clip against adam.
* What is left of D and E in every arm comes from none of these alone.
* AsymGRPO's δ acts through h alone if its D keeps its sign, its interval excluding 0, in the arms
  where those of REINFORCE and NSR include 0.

Adam has the rate that configs/sweeps/tuning.py chose. SGD's is not tuned: the first gradients have
a norm of about 1.2, so at 0.1 its first steps are about as long as Adam's at 3e-4; at 0.3 the
reward of one run of RLOO fell from 0.10 to 0.08 in 20 steps. A method that does not reach the level
in an arm has no D there.

    python -m experiments.run --config=configs/sweeps/isolate_delta.py \
        --workdir=runs/sweeps/isolate_delta
    python -m experiments.run --config=configs/sweeps/isolate_delta.py:smoke \
        --workdir=runs/smoke/isolate_delta

90 runs of 200 steps: a minute each on one core, two in all arms but adam and sgd. The methods of
h = 1 come first. The 36 runs of AsymGRPO have not been made: NSR reaches the level in no arm in all
seeds, so that the criterion for them has nothing to judge.
"""

from configs import graph
from configs.sweeps.methods import chosen
from experiments.config import with_mode
from experiments.grid import chain, product, seeds

SGD_RATE = 0.1
NEVER_CLIPPED = {"learner.clip_low": 1.0, "learner.clip_high": 1e6}  # of a ratio above 0


def get_config(mode: str = ""):
    """Returns what the runs share; `mode` is empty or "smoke"."""
    config = graph.get_config()
    config.steps = 200
    config.sweep.seeds = 3
    return with_mode(config, mode)


def arms(config):
    """Returns the overrides of each arm; "adam" is what the others are compared with."""
    sgd = {"optimizer.name": "sgd", "optimizer.learning_rate": SGD_RATE}
    smaller = {
        "optimizer.name": "sgd",
        "optimizer.learning_rate": SGD_RATE / 4,
        "steps": 4 * config.steps,
        "evaluation.every": 4 * config.evaluation.every,
    }
    return {
        "adam": {},
        "batch": {"prompts": 4 * config.prompts},
        "sgd": sgd,
        "sgd_small": smaller,
        "reuse": {"learner.epochs": 4, **NEVER_CLIPPED},
        "clip": {"learner.epochs": 4},
    }


def sweep(config):
    """Returns the overrides of each run, by name."""
    same_h = chosen(config, "reinforce", "nsr", "rloo")
    other = chosen(config, "asym0.5", "asym2")
    return chain(*(product(arms(config), methods, seeds(config)) for methods in (same_h, other)))
