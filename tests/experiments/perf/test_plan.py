"""A scaled-down model on eight fake devices: what a plan says against what was compiled."""

import importlib
import json
import math
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from experiments.config import ConfigError
from experiments.experiment import abstract_state, build_experiment
from experiments.learner import hyperparameters
from experiments.models import transformer
from experiments.models.config import ModelConfig
from experiments.perf import flops, plan
from experiments.perf.hlo import collectives
from experiments.perf.plan_tables import Plan, fits, fraction_of_peak, plan_tables
from experiments.perf.seconds import DEVICES
from experiments.rollout import BLOCKS
from tests.experiments.tiny_config import get_config as tiny_config

L, D, HEADS, KV_HEADS, HEAD, F, V = 3, 64, 4, 2, 16, 128, 256
MODEL = ModelConfig(
    vocab_size=V,
    num_layers=L,
    d_model=D,
    num_heads=HEADS,
    num_kv_heads=KV_HEADS,
    head_dim=HEAD,
    d_ff=F,
    tied_head=False,
    qkv_bias=True,
    max_positions=64,
)
P, G, S, T = 16, 4, 8, 24


def config(mesh):
    config = importlib.import_module("configs.qwen2_5_7b").get_config("smoke")
    config.prompts, config.group_size = P, G
    config.task.kwargs.max_prompt, config.task.kwargs.max_completion = S, T
    config.evaluation.prompts = config.evaluation.prompts_per_call = 8
    return plan.with_mesh(config, mesh)


def abstract_state_of(experiment):
    return abstract_state(experiment, hyperparameters(experiment.config, experiment.methods))


@pytest.fixture(scope="module", name="experiment")
def experiment_fixture():
    return plan.abstract_experiment(config("data=1,fsdp=4,tensor=2,learner.microbatches=2"), MODEL)


@pytest.fixture(scope="module", name="compiled")
def compiled_fixture(experiment):
    return plan.compile_steps(experiment)


def parameters_by_hand(fsdp, tensor):
    """Numbers of one device: [.., embed] over fsdp; heads, SwiGLU and vocabulary over tensor."""
    attention = D * HEADS * HEAD * 2 + D * KV_HEADS * HEAD * 2
    biases = HEADS * HEAD + 2 * KV_HEADS * HEAD
    matrices = L * (attention + 3 * D * F) + 2 * V * D
    norms = (2 * L + 1) * D
    return matrices // (fsdp * tensor) + norms // fsdp + L * biases // tensor


def test_state_bytes_equal_shards_and_program_arguments(experiment, compiled):
    state = abstract_state_of(experiment)
    resident = flops.state_bytes(state)
    shard = 4 * parameters_by_hand(4, 2)
    assert resident["weights"] == shard
    counters = 2 * 4  # of Adam and of the warm-up
    assert resident["optimizer"] == 2 * shard + counters
    head = 4 * V * D // 8
    assert head < resident["rest"] < head + 64
    batch = P // 4 * 4 * (S + 1 + 4 * G * T + G)  # prompts, lengths, four of rollouts, rewards
    scalars = compiled["learn"].arguments - sum(resident.values()) - batch
    assert abs(scalars) <= 64  # hyperparameters and the key come, scalars that are not read go
    assert compiled["learn"].outputs < 1024  # the state is donated


def test_rollout_step_gathers_the_weights_once(experiment, compiled):
    found = collectives(compiled["sample"].partitioned)
    work = flops.work_of(experiment)
    matrices = L * (D * (2 * HEADS + 2 * KV_HEADS) * HEAD + 3 * D * F)
    copy = (2 * matrices + 2 * V * D + 4 * V * D) // 2  # bfloat16, the head float32; tensor = 2
    assert flops.copy_bytes(work) == copy
    norms = 4 * (2 * L + 1) * D
    gathers = [c for c in found if c.kind == "all-gather" and c.dtype in ("bf16", "f32")]
    gathered = sum(c.moved * c.times for c in gathers if c.group == (0, 2, 4, 6))  # over fsdp
    assert 0 <= gathered - 3 / 4 * (copy + norms) <= 2 * P * D  # the last hidden states, bfloat16
    # For each token, the half of the sums over the blocks of the vocabulary that is elsewhere.
    in_the_loop = [c for c in found if c.times >= T - 1 and c.kind == "all-gather"]
    sums = 4 * P // 4 * G * math.gcd(V, BLOCKS)
    assert [(c.group, c.moved) for c in in_the_loop] == [((0, 1), sums / 2)]


def test_train_step_gathers_bfloat16_and_reduces_no_activation(compiled):
    found = collectives(compiled["learn"].partitioned, unknown_trips=2)
    fsdp = [c for c in found if c.group == (0, 2, 4, 6)]
    assert max(c.times for c in fsdp) >= 2 * L
    matrices = [c for c in fsdp if c.kind == "all-gather" and c.times >= 2 * L]
    large = [c for c in matrices if c.moved > 4 * D]
    assert large
    assert {c.dtype for c in large if c.times % L == 0} == {"bf16"}
    largest = max(c.moved for c in fsdp if c.kind == "all-reduce" and c.times >= 2 * L)
    assert largest <= 2 * 3 / 4 * 2 * D * F  # the gradient of a matrix in bfloat16


@pytest.mark.slow
def test_memory_estimate_within_factor_two_of_compiler(monkeypatch):
    """In float32, where the CPU's compiler widens nothing, and with scores that fill the memory."""
    wide = config("fsdp=8,learner.microbatches=2,model.dtype='float32'")
    wide.task.kwargs.max_completion = 200
    model = ModelConfig(**(MODEL.__dict__ | {"max_positions": 256, "num_heads": 4}))
    experiment = plan.abstract_experiment(wide, model)
    compiled = plan.compile_steps(experiment)
    work, state = flops.work_of(experiment), abstract_state_of(experiment)
    for step, modelled in (
        ("learn", sum(flops.learn_bytes(work, state).values())),
        ("sample", sum(flops.sample_bytes(work).values())),
    ):
        assert 0.5 < compiled[step].temporary / modelled < 2, step


@pytest.mark.parametrize(
    ("mesh", "message"),
    [
        ("fsdp=3", "config.prompts must be a multiple of config.mesh.data x config.mesh.fsdp = 3"),
        ("fsdp=8,learner.microbatches=4", "the prompts of a microbatch must be a multiple"),
        ("tensor=3", "config.mesh.tensor = 3 must divide the vocab dimension 256"),
        ("fsdp=16", "config.mesh needs 16 devices, there are 8"),
        ("fsdp=8,learner.microbatches=3", "config.learner.microbatches must be a divisor"),
        ("model=2", "--mesh must be like data=1,fsdp=8,tensor=1"),
        ("fsdp", "--mesh: fsdp cannot be ''"),
        ("fsdp=0", "--mesh: fsdp must be a whole number in 1..65536, got 0"),
        ("fsdp=2,learner.microbatch=1", "learner.microbatches=4, got 'learner.microbatch=1'"),
    ],
)
def test_with_mesh_rejects_bad_meshes(mesh, message):
    with pytest.raises(ConfigError) as error:
        plan.compile_steps(plan.abstract_experiment(config(mesh), MODEL))
    assert message in str(error.value)


def test_with_mesh_sets_axes_and_fields():
    planned = config("fsdp=4, tensor=2,learner.microbatches=4")
    assert planned.mesh.to_dict() == {"data": 1, "fsdp": 4, "tensor": 2, "samplers": 0}
    assert planned.learner.microbatches == 4


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("qwen2_5_7b", 7_615_616_512),
        ("qwen2_5_7b_code", 7_615_616_512),
        ("qwen2_5_math", 7_615_616_512),
        ("qwen2_5_32b", 32_763_876_352),
        ("qwen2_5_32b_code", 32_763_876_352),
    ],
)
def test_architecture_has_published_parameter_count(name, count):
    model = importlib.import_module(f"configs.{name}").architecture()
    shapes = jax.eval_shape(lambda: transformer.init_params(model, jax.random.key(0)))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == count
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}


@pytest.mark.parametrize(
    ("name", "mesh", "prompts", "group", "completion"),
    [
        ("qwen2_5_7b_code", "fsdp=8", 56, 8, 8192),
        ("qwen2_5_32b_code", "fsdp=4", 60, 4, 30_720),
        ("qwen2_5_math", "fsdp=8", 64, 8, 4096),
    ],
)
def test_abstract_experiment_of_a_recipe_reads_no_file(
    name, mesh, prompts, group, completion, monkeypatch
):
    monkeypatch.setenv("FADE_JAX_DATA", "/nowhere")
    module = importlib.import_module(f"configs.{name}")
    planned = plan.with_mesh(module.get_config(), mesh)
    experiment = plan.abstract_experiment(planned, module.architecture())
    work = flops.work_of(experiment)
    assert (work.prompt, work.completion) == (1024, completion)
    rows = planned.mesh.fsdp
    assert (work.prompts, work.group, work.item) == (prompts // rows, group, 2)  # bfloat16


@pytest.mark.slow
def test_command_prints_plan_or_one_line_error(command, tmp_path):
    argv = "experiments.perf.plan", "--config=configs/fade.py:smoke"
    process = command(*argv, "--mesh=data=2,fsdp=2", f"--out={tmp_path / 'fade.json'}")
    refused = command(*argv, "--mesh=data=3")
    folder = command(*argv, "--mesh=data=2", f"--out={tmp_path}")
    searched = command(*argv, "--search=2", "--device=TPU v5p")
    out, err = process.communicate(timeout=400)
    assert process.returncode == 0, err
    assert "4 devices: data 2, fsdp 2, tensor 1; 1 microbatches" in out
    (saved,) = json.loads((tmp_path / "fade.json").read_text())["plans"]
    # 2 layers of width 32, SwiGLU of 64, 4 heads; split over fsdp alone.
    layers = 2 * (4 * 32 * 32 + 3 * 32 * 64 + 2 * 32)
    numbers = saved["resident"]["weights"] / 4 * 2 - layers - 32
    assert numbers % (2 * 32) == 0  # embedding and head, [vocabulary, 32] each
    _, err = refused.communicate(timeout=400)
    assert refused.returncode == 2
    assert err.strip().splitlines()[-1].startswith("error: config.prompts must be a multiple")
    _, err = folder.communicate(timeout=400)
    assert folder.returncode == 2
    assert err.strip().splitlines()[-1].startswith("error: --out must be a file in a directory")
    out, err = searched.communicate(timeout=400)
    assert searched.returncode == 0, err
    assert "best: --mesh=" in out
    assert "2 devices: data" in out


def test_plan_of_a_kernel_that_no_cpu_has(monkeypatch):
    """Lowered in blocks, counted as the kernel: no score goes through memory."""
    planned = config("fsdp=4,tensor=2,model.attention='cudnn'")
    experiment = plan.abstract_experiment(planned, MODEL)
    assert experiment.model.attention == "cudnn"
    monkeypatch.setattr(plan, "compile_step", lambda function, *shapes: function.lower(*shapes))
    assert "cudnn" not in plan.compile_steps(experiment)["learn"].as_text()
    work = flops.work_of(experiment)
    assert [part.name for part in flops.attention(work)] == ["cudnn", "cudnn"]


def test_plan_tables_values():
    work = {"projections": 1e12, "attention": 2e12, "head": 3e12}
    keys = ["prefill", "decode", "sample_collectives", "products", "scores", "learn_collectives"]
    keys += ["handover", "rollout", "learn", "learn_overlapped", "step"]
    seconds = dict.fromkeys(keys, 4.25)
    compiled = {"arguments": 3e9, "outputs": 0, "temporary": 1e9, "seconds": 12.0}
    toy = Plan(
        "toy",
        mesh={"data": 1, "fsdp": 8, "tensor": 2},
        samplers=0,
        options={
            "parameters": 7.6e9,
            "layers": 28,
            "width": 3584,
            "steps": 900,
            "prompts": 64,
            "group_size": 8,
            "microbatches": 2,
            "prompt": 256,
            "completion": 8192,
            "dtype": "bfloat16",
        },
        resident={"weights": 1e9, "optimizer": 2e9, "rest": 0},
        learning=dict.fromkeys(["gradients", "residuals", "layer", "attention", "head"], 2.2e9),
        sampling={"copy": 1e9, "apart": 1e9, "cache": 2e9, "logits": 0},
        flops={"sample": work, "learn": work},
        collectives={"sample": {"all-gather": 7e9}, "learn": {"all-gather": 9.5e9}},
        compiled={"sample": compiled, "learn": compiled},
        handover={"received": 0, "sent": 0},
        seconds={device.name: seconds for device in DEVICES},
    )
    assert toy.peak_bytes == pytest.approx(14e9)
    text = plan_tables([toy])
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    assert ["", "16 devices: data 1, fsdp 8, tensor 2; 2 microbatches"] in rows
    assert ["**alive together in the rollout step**: state and its rows", "7"] in rows
    assert ["**alive together in the train step**: state and its rows", "14.0"] in rows
    assert ["**peak** (estimated)", "14.0"] in rows
    assert ["**peak**, % of the memory of one H100 SXM", "17.5"] in rows
    assert ["train step: all-gather", "9.5"] in rows
    assert ["rollout step: projections, TFLOP", "1"] in rows
    assert ["train step: seconds to compile", "12.0"] in rows
    assert ["H100 SXM, **train step**, nothing overlapped", "4.2"] in rows
    assert ["model", "7.6 billion parameters, 28 layers of width 3584"] in rows
    assert ["lengths", "256 tokens + 8192"] in rows
    fit = "**fits**: 14.0 of 80.0 GB in the train step, 3 of them exact"
    assert [
        "H100 SXM: memory",
        f"{fit}; also with 2 times more than estimated",
    ] in rows
    assert ["H100 SXM: completion tokens a second", "986,895"] in rows  # 64 x 8 x 8192 / 4.25
    # 2 x 6e12 FLOP in 4.25 s of 989.4e12 FLOP/s.
    assert ["H100 SXM: FLOP/s, % of the peak", "0.29"] in rows
    assert ["H100 SXM: hours of 900 steps", "1.1, 17.0 device-hours"] in rows  # 3825 s, 16 devices
    beside = toy._replace(samplers=48, handover={"received": 1.5e9, "sent": 4.5e9})
    assert beside.peak_bytes == pytest.approx(14e9)  # 3 + 11 of a device that trains
    text = plan_tables([beside])
    assert "16 devices and 48 samplers: data 1, fsdp 8, tensor 2; 2 microbatches" in text
    assert "weights that a training device sends (exact)" in text


@pytest.mark.parametrize(
    ("memory", "answer"),
    [
        (2.9e9, "**does not fit**: the state alone has 3 GB (exact)"),
        (8.4e9, "**does not fit**: 14.0 of 8.4 GB in the train step, 3 of them exact; nor with 2"),
        (8.6e9, "**does not fit** by the estimate: 14.0 of 8.6 GB in the train step"),
        (
            14.1e9,
            "**fits** by the estimate: 14.0 of 14.1 GB in the train step, 3 of them exact; not",
        ),
        (25.1e9, "**fits**: 14.0 of 25.1 GB in the train step, 3 of them exact; also with 2 times"),
    ],
)
def test_fits_says_how_sure_it_is(memory, answer):
    """3 GB of state and 11 GB that are estimated within a factor 2: 8.5 to 25 GB."""
    empty: Any = {key: {} for key in Plan._fields}
    toy = Plan(
        **(empty | {"samplers": 0, "resident": {"weights": 3e9}, "learning": {"head": 11e9}})
    )
    assert fits(toy, memory).startswith(answer)


def test_fraction_of_peak_with_samplers_counts_both_sides():
    empty: Any = {key: {} for key in Plan._fields}
    device = DEVICES[0]._replace(flops=1e12)
    toy = Plan(**empty)._replace(
        mesh={"data": 1, "fsdp": 2, "tensor": 1},
        samplers=6,
        flops={"sample": {"head": 2e12}, "learn": {"head": 10e12}},
        seconds={device.name: {"step": 20.0}},
    )
    assert fraction_of_peak(toy, device) == pytest.approx((6 * 2 + 2 * 10) / (8 * 20))
    together = toy._replace(samplers=0)
    assert fraction_of_peak(together, device) == pytest.approx((2 * 2 + 2 * 10) / (2 * 20))


def test_plan_with_samplers_counts_the_weights_way():
    """One layer of width 16 in bfloat16 but norms and head, to each of two sampling devices."""
    planned = tiny_config()
    planned.learner.staleness, planned.model.dtype = 1, "bfloat16"
    planned = plan.with_mesh(planned, "fsdp=4,samplers=2")
    made = plan.make_plan("tiny", planned, None)
    vocabulary = build_experiment(tiny_config()).model.vocab_size
    head_dim = 8
    layer = 16 * 16 * 2 + 2 * 16 * head_dim + 3 * 16 * 32  # query, output; key, value; SwiGLU
    norms = 3 * 16
    whole = 2 * (layer + vocabulary * 16) + 4 * (norms + vocabulary * 16)
    assert made.handover == {"received": whole, "sent": whole * 2 / 4}
    seconds = made.seconds["H100 SXM"]
    assert seconds["handover"] == pytest.approx(whole / (50e9 * 0.8))
    longer = max(seconds["rollout"], seconds["learn_overlapped"])
    assert seconds["step"] == pytest.approx(longer + seconds["handover"])
