"""Advantages of OpenRLHF, by its experience maker without the models that it would ask."""

from importlib.metadata import version
from types import SimpleNamespace

import torch  # pyright: ignore[reportMissingImports]
from openrlhf.trainer.ppo_utils.experience import (  # pyright: ignore[reportMissingImports]
    Experience,
)
from openrlhf.trainer.ppo_utils.experience_maker import (  # pyright: ignore[reportMissingImports]
    RemoteExperienceMaker,
)

from experiments.audit.estimators import Estimator, Report, of_one_group, shown

# (advantage estimator, claim, whether it reads the whole batch)
_ESTIMATORS = [
    ("reinforce", "p", True),
    ("rloo", "p", False),
    ("reinforce_baseline", "p", True),
    ("group_norm", "2 arcsin √p", False),
    ("dr_grpo", "p", False),
]


def report() -> Report:
    """Returns OpenRLHF's estimators without a critic."""
    estimators = [_make(*row) for row in _ESTIMATORS]
    off = _make("group_norm", "2 arcsin √p", False, no_std_norm=True)
    statements = [
        (
            "--algo.advantage.no_std_norm disables dividing by std; group_norm, rewards 1, 0, 0, 0",
            shown(of_one_group(off, [1, 0, 0, 0])),
        )
    ]
    return Report("OpenRLHF", version("openrlhf"), estimators, {}, statements)


def _make(name, claim, whole_batch, no_std_norm=False):
    def advantages(rewards, index, lengths):
        args = SimpleNamespace(
            algo=SimpleNamespace(
                advantage=SimpleNamespace(
                    estimator=name, gamma=1.0, lambd=1.0, no_std_norm=no_std_norm
                )
            ),
            rollout=SimpleNamespace(n_samples_per_prompt=int((index == index[0]).sum())),
            reward=SimpleNamespace(
                clip_range=None,
                overlong_buffer_len=None,
                overlong_penalty_factor=None,
                stop_properly_penalty_coef=None,
            ),
        )
        maker = RemoteExperienceMaker(
            None, None, None, None, SimpleNamespace(value=0.0), SimpleNamespace(args=args), None
        )
        lengths = torch.as_tensor(lengths)
        mask = torch.arange(int(lengths.max())) < lengths[:, None]
        experience = Experience(
            index=list(range(len(rewards))),
            rewards=torch.as_tensor(rewards),
            action_mask=mask,
            kl=torch.zeros(mask.shape),
            info={},
        )
        maker.compute_advantages_and_returns([experience])
        return experience.advantages[:, 0].numpy()

    return Estimator(name, claim, advantages, whole_batch=whole_batch)
