"""Plain advantages as transformations without state, and `lift`, which makes them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial, update_wrapper
from typing import Any

import jax

from fade_jax import advantages as plain
from fade_jax.advantages.pass_at_k import PKPO_BASELINES
from fade_jax.checks import (
    check_finite,
    check_integer,
    check_not_negative,
    check_one_of,
    check_positive,
    check_probability,
    check_rate,
    check_zero_or_one,
)
from fade_jax.transforms.base import AdvantageTransformation, stateless

Factory = Callable[..., AdvantageTransformation]


def lift(
    fn: Callable[..., jax.Array], *statistics: str, **checks: Callable[[str, Any], None]
) -> Factory:
    """Turns a plain advantage into a factory of transformations, in the way of optax.

        lift(fn)(**hyperparameters).update(rewards, state) = fn(rewards, **hyperparameters), state

    Args:
      fn: `fn(rewards, ...)`, rewards `[..., group]` to advantages of that shape. The mask goes to
        its keyword `where`. A default may be set by `functools.partial`.
      *statistics: names of those parameters of `fn` that `update` takes as statistics.
      **checks: by hyperparameter, a function of its name and value that raises a ValueError. The
        factory calls it, so that a bad value is found before the first update.

    Returns:
      a factory with the name of `fn`. Its parameters are those of `fn`, by position or by keyword,
      without the rewards, `where` and the statistics.
    """
    named = fn.func if isinstance(fn, partial) else fn
    signature = inspect.signature(fn)
    _, *parameters = signature.parameters.values()
    parameters = [
        p.replace(kind=p.POSITIONAL_OR_KEYWORD) if p.kind is p.KEYWORD_ONLY else p
        for p in parameters
        if p.name not in ("where", *statistics)
    ]
    # Keywords may come in any order, positions only with the required ones first.
    parameters.sort(key=lambda p: (p.kind, p.default is not p.empty))
    signature = inspect.Signature(parameters, return_annotation=AdvantageTransformation)

    def factory(*args: Any, **kwargs: Any) -> AdvantageTransformation:
        signature.bind(*args, **kwargs)
        hyperparameters = dict(zip(signature.parameters, args)) | kwargs
        for name, value in hyperparameters.items():
            if name in checks:
                checks[name](name, value)
        return stateless(partial(fn, **hyperparameters), *statistics)

    update_wrapper(factory, named, assigned=("__name__", "__qualname__"), updated=())
    factory.__doc__ = (
        f"Lifts `{factory.__name__}`: `update` takes its rewards, mask and statistics.\n\n"
        f"{inspect.getdoc(named) or ''}"
    )
    vars(factory)["__signature__"] = signature
    return factory


center: Factory = lift(plain.center)
standardize: Factory = lift(plain.standardize, ddof=check_zero_or_one, eps=check_not_negative)
reinforce: Factory = lift(plain.reinforce, baseline=check_finite)
psr: Factory = lift(plain.psr)
nsr: Factory = lift(plain.nsr)
w_reinforce: Factory = lift(plain.w_reinforce, positive_weight=check_not_negative)
rloo: Factory = lift(plain.rloo)
dr_grpo: Factory = lift(plain.dr_grpo)
grpo: Factory = lift(plain.grpo, ddof=check_zero_or_one, eps=check_not_negative)
opo: Factory = lift(plain.opo, "lengths")
quantile: Factory = lift(partial(plain.quantile, level=0.4), level=check_rate)
reinforce_plus_plus: Factory = lift(plain.reinforce_plus_plus)
gpg: Factory = lift(plain.gpg)
f_grpo: Factory = lift(plain.f_grpo, gamma=check_not_negative)
a_grae: Factory = lift(plain.a_grae, omega=check_probability, threshold=check_positive)
max_rl: Factory = lift(plain.max_rl)
log_mean_exp: Factory = lift(partial(plain.log_mean_exp, beta=2.0), beta=check_positive)
pkpo: Factory = lift(
    plain.pkpo,
    k=partial(check_integer, least=1),
    baseline=partial(check_one_of, allowed=PKPO_BASELINES),
)
pass_at_k_training: Factory = lift(plain.pass_at_k_training, k=partial(check_integer, least=1))
leave_one_out_pass_at_g: Factory = lift(plain.leave_one_out_pass_at_g)
