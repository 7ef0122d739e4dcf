"""The optax update of a config; the learning rate may be a traced value."""

import jax.numpy as jnp
import optax


def make_optimizer(settings, learning_rate) -> optax.GradientTransformation:
    """Returns the optimiser of `config.optimizer`, the learning rate warmed up linearly.

    Args:
      settings: config.optimizer.
      learning_rate: float32 [], reached after `warmup_updates` updates.
    """

    def rate(count):
        return learning_rate * jnp.minimum((count + 1) / max(settings.warmup_updates, 1), 1.0)

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
        links.append(optax.add_decayed_weights(settings.weight_decay))
        links.append(optax.sgd(rate, momentum=settings.momentum or None))
    return optax.chain(*links)
