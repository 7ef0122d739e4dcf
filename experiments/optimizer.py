"""The optax update of a config; the learning rate may be a traced value."""

import optax


def make_optimizer(settings, learning_rate) -> optax.GradientTransformation:
    """Returns the optimiser of `config.optimizer` with this learning rate, warmed up linearly."""
    if settings.warmup_updates:
        rate = lambda count: learning_rate * (  # noqa: E731
            optax.linear_schedule(0.0, 1.0, settings.warmup_updates)(count + 1)
        )
    else:
        rate = learning_rate
    links = []
    if settings.max_gradient_norm:
        links.append(optax.clip_by_global_norm(settings.max_gradient_norm))
    if settings.name == "adamw":
        links.append(
            optax.adamw(
                rate,
                b1=settings.b1,
                b2=settings.b2,
                eps=settings.eps,
                weight_decay=settings.weight_decay,
            )
        )
    else:
        links += [optax.add_decayed_weights(settings.weight_decay), optax.sgd(rate)]
    return optax.chain(*links)
