"""The formulas against the compiler's count of programs in which every loop runs once."""

import jax
import jax.numpy as jnp
import pytest

from experiments.models import transformer
from experiments.models.config import ModelConfig
from experiments.perf.flops import Work, attention, forward, learn_flops, sample_flops
from experiments.perf.seconds import DEVICES, link_rate, score_bytes
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
    plain = ModelConfig(**(MODEL.__dict__ | {"attention": "plain"}))
    for prompt, completion in ((512, 513), (513, 513), (512, 514), (1024, 1025)):
        sizes = work(plain, completion)._replace(prompt=prompt)
        over_prompts = 2 * prompt * prompt * by_score
        over_completions = 2 * 2 * (completion - 1) * (prompt + completion - 1) * by_score
        expected = over_prompts * (4 + (prompt > 512)) + over_completions * (4 + (completion > 513))
        assert learn_flops(sizes).attention == pytest.approx(expected)


@pytest.mark.parametrize(
    ("backend", "changes", "before", "tile"),
    [
        ("gpu", {"dtype": "bfloat16"}, "in_the_row", 128),
        ("tpu", {}, "apart", 128),
        ("gpu", {"attention": "blocks"}, "apart", 256),
    ],
)
def test_attention_of_long_sequences_leaves_out_what_is_hidden(backend, changes, before, tile):
    """Half of each causal square, and half a block at its edge; 4.5 passes with remat."""
    model = ModelConfig(**(MODEL.__dict__ | changes))
    sizes = work(model, 4097)._replace(prompt=1024, backend=backend)
    prompt = 1024 * (1024 + tile) / 2
    completion = 4096 * (1024 + (4096 + tile) / 2)
    if before == "in_the_row":
        completion = 5120 * (5120 + tile) / 2
    heads = model.num_heads
    assert [part.scores for part in attention(sizes)] == [
        2 * heads * prompt,
        2 * 2 * heads * completion,
    ]
    by_score = 4 * model.head_dim * 4.5
    expected = (2 * prompt + 4 * completion) * heads * by_score
    assert learn_flops(sizes).attention == pytest.approx(expected)


def test_score_bytes_of_a_kernel_grow_with_the_tokens():
    model = ModelConfig(**(MODEL.__dict__ | {"dtype": "bfloat16"}))
    sizes = [work(model, n + 1)._replace(prompt=1024, item=2) for n in (3072, 7168)]
    short, long = map(score_bytes, sizes)
    # Of 8 heads and 4 of keys and values of width 64: queries, keys, values and output in bfloat16.
    token = 2 * (8 + 4) * 64 * 2
    assert short == pytest.approx(4.5 * 2 * (1024 + 2 * 4096) * token)
    assert long == pytest.approx(4.5 * 2 * (1024 + 2 * 8192) * token)
    plain = [
        x._replace(model=ModelConfig(**(model.__dict__ | {"attention": "plain"}))) for x in sizes
    ]
    assert score_bytes(plain[1]) > 100 * long


def test_link_rate_shares_network_ports_beyond_the_island():
    h100, v5p = DEVICES
    assert link_rate(h100, tuple(range(8))) == 450e9
    assert link_rate(h100, tuple(range(16))) == 8 * 50e9
    assert link_rate(h100, (0, 4, 8, 12)) == 2 * 50e9
    assert link_rate(h100, (0, 8, 16)) == 50e9
    assert link_rate(v5p, tuple(range(256))) == v5p.link_rate
