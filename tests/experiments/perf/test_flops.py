"""The formulas against the compiler's count of programs in which every loop runs once."""

import jax
import jax.numpy as jnp
import pytest

from experiments.models import transformer
from experiments.models.config import ModelConfig
from experiments.perf.flops import Work, forward, learn_flops, sample_flops
from experiments.perf.seconds import DEVICES, link_rate
from experiments.rollout import completion_log_probs, sample

MODEL = ModelConfig(
    vocab_size=1024,  # one chunk of the head
    num_layers=1,
    d_model=512,
    num_heads=8,
    num_kv_heads=4,
    head_dim=64,
    d_ff=1024,
    tied_head=False,
    max_positions=512,
    remat=True,
)


ONE_DEVICE = {"tensor": 1, "updates": 1, "microbatches": 1, "epochs": 1, "item": 4}


def work(model, completion):
    return Work(model, prompts=2, group=2, prompt=64, completion=completion, **ONE_DEVICE)


def counted(function, *shapes):
    params = jax.eval_shape(lambda: transformer.init_params(MODEL, jax.random.key(0)))
    return jax.jit(function).lower(params, *shapes).cost_analysis()["flops"]


def prompts():
    return jax.ShapeDtypeStruct((2, 64), jnp.int32), jax.ShapeDtypeStruct((2,), jnp.int32)


@pytest.mark.parametrize(
    "options",
    [{"remat": True}, {"remat": True, "remat_keeps": "products"}, {"remat": False}],
    ids=["remat", "products_kept", "no_remat"],
)
def test_learn_flops_equals_compiler_count(options):
    model = ModelConfig(**(MODEL.__dict__ | options))
    completions = jax.ShapeDtypeStruct((2, 2, 129), jnp.int32)

    def loss(params, *batch):
        return jnp.sum(completion_log_probs(model, params, *batch))

    flops = counted(loss, *prompts(), completions)
    assert flops == pytest.approx(forward(work(model, 129)).total, rel=0.05)
    flops = counted(jax.grad(loss), *prompts(), completions)
    assert flops == pytest.approx(learn_flops(work(model, 129)).total, rel=0.05)


def test_sample_flops_equals_compiler_count():
    def draw(params, tokens, length):
        key = jax.random.key(0)
        limits = {"group_size": 2, "max_tokens": 2, "eos_id": 1, "pad_id": 0}
        return sample(MODEL, params, tokens, length, key, **limits)

    flops = counted(draw, *prompts())
    assert flops == pytest.approx(sample_flops(work(MODEL, 2)).total, rel=0.05)


def test_learn_flops_scales_with_layers_and_tensor_axis():
    one = learn_flops(work(MODEL, 129))
    deep = learn_flops(work(ModelConfig(**(MODEL.__dict__ | {"num_layers": 3})), 129))
    half = learn_flops(work(MODEL, 129)._replace(tensor=2))
    assert deep.total - deep.head == pytest.approx(3 * (one.total - one.head))
    assert half.total == pytest.approx(one.total / 2)


def test_learn_flops_recomputes_blocks_of_queries():
    """Of the prompts and of the completions each by its own length; 512 queries are one block."""
    by_score = 4 * MODEL.num_heads * MODEL.head_dim
    for prompt, completion in ((512, 513), (513, 513), (512, 514), (1024, 1025)):
        sizes = work(MODEL, completion)._replace(prompt=prompt)
        over_prompts = 2 * prompt * prompt * by_score
        over_completions = 2 * 2 * (completion - 1) * (prompt + completion - 1) * by_score
        expected = over_prompts * (4 + (prompt > 512)) + over_completions * (4 + (completion > 513))
        assert learn_flops(sizes).attention == pytest.approx(expected)


def test_link_rate_shares_network_ports_beyond_the_island():
    h100, v5p = DEVICES
    assert link_rate(h100, tuple(range(8))) == 450e9
    assert link_rate(h100, tuple(range(16))) == 8 * 50e9
    assert link_rate(h100, (0, 4, 8, 12)) == 2 * 50e9
    assert link_rate(h100, (0, 8, 16)) == 50e9
    assert link_rate(v5p, tuple(range(256))) == v5p.link_rate
