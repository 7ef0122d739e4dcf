"""Runs that train adapters: the update, what a state and a checkpoint hold, resume, devices."""

import json
import math
from contextlib import closing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import advantages, learner, policy
from experiments.checkpoints import Checkpoints, tree_sha256
from experiments.config import ConfigError, default_config
from experiments.evaluation import evaluation_metrics, restore_params, restore_trained
from experiments.experiment import abstract_checkpoint, build_experiment, with_config
from experiments.export import export
from experiments.learner import hyperparameters
from experiments.metric_writer import Silent, read_lines
from experiments.models import huggingface, lora, transformer
from experiments.models.config import ModelConfig
from experiments.perf import flops, plan
from experiments.rollout import Rollouts, completion_log_probs
from experiments.sharding import make_mesh
from experiments.step_functions import parameter_shardings
from experiments.sweep import run_sweep
from experiments.tasks.base import Prompts
from experiments.train import train
from experiments.workdir import claim
from tests.experiments.models.test_lora import random_adapters
from tests.experiments.test_sharding import divisible_config
from tests.experiments.tiny_config import get_config as tiny_config

MODEL = ModelConfig(
    vocab_size=7, num_layers=2, d_model=8, num_heads=2, num_kv_heads=1, head_dim=4, d_ff=16,
    tied_head=False, max_positions=16, remat=True,
)  # fmt: skip
P, G, T = 4, 4, 3
RATE, RANK, ALPHA = 0.5, 2, 3.0
TIMING = ("tokens_per_second", "step_seconds", "eval/seconds")


def lora_config(**changes):
    """The tiny run with adapters, at a rate that moves its policy from the first step on."""
    config = tiny_config()
    config.lora.rank, config.lora.alpha = RANK, ALPHA
    config.optimizer.learning_rate = 3e-2
    config.advantage.name = "grpo"
    for field, value in changes.items():
        *sections, name = field.split("__")
        part = config
        for section in sections:
            part = part[section]
        part[name] = value
    return config


def lines_of(workdir):
    lines = read_lines(workdir / "metrics.jsonl")
    return [{k: v for k, v in line.items() if k not in TIMING} for line in lines]


def run(config, workdir, experiment=None):
    experiment = experiment or build_experiment(config)
    result = train(config, workdir, progress=Silent(), experiment=experiment)
    return result["params_sha256"], lines_of(workdir)


def resumed(config, workdir, experiment):
    """The outcome of a run that was cut off after two steps."""
    first = config.copy_and_resolve_references()
    first.steps = 2
    run(first, workdir, experiment)
    (workdir / "result.json").unlink()
    return run(config, workdir, experiment)


@pytest.fixture(scope="module", name="finished")
def finished_fixture(warm, tmp_path_factory):
    """(workdir, experiment, (params_sha256, lines)) of a whole run."""
    workdir = tmp_path_factory.mktemp("finished")
    config = lora_config(warm_start__workdir=warm)
    experiment = build_experiment(config)
    return workdir, experiment, run(config, workdir, experiment)


INIT = jax.jit(transformer.init_params, static_argnums=0)
LOG_PROBS = jax.jit(completion_log_probs, static_argnums=0)


def update(config, params, adapters=None):
    """One step of SGD on fixed rollouts of random tokens; returns (before, after)."""
    rng = np.random.default_rng(0)
    tokens = jnp.asarray(rng.integers(0, 7, (P, G, T)), jnp.int32)
    mask = jnp.asarray(np.arange(T) < rng.integers(1, T + 1, (P, G))[..., None], jnp.float32)
    lengths = jnp.array([3, 2, 3, 1], jnp.int32)
    prompts = Prompts(jnp.asarray(rng.integers(0, 7, (P, 3)), jnp.int32), lengths, ())
    rewards = jnp.asarray(rng.integers(0, 2, (P, G)), jnp.float32)
    config.optimizer.name, config.optimizer.learning_rate = "sgd", RATE
    config.advantage.name = "dr_grpo"
    members = advantages.members_of([("dr_grpo", {})])
    hyper = hyperparameters(config, members)
    before = learner.init_state(MODEL, config, members, hyper, params)
    if adapters is not None:
        before = before._replace(params=adapters)
    policy_now = policy.join(config, before.params, before.base)
    old = LOG_PROBS(MODEL, policy_now, prompts.tokens, lengths, tokens) * mask
    rollouts = Rollouts(tokens, mask, old, mask)
    step = jax.jit(
        lambda s: learner.policy_update(
            MODEL, config, members, s, hyper, prompts, rollouts, rewards
        )
    )
    return before, step(before)[0]


def test_policy_update_moves_adapters_by_the_chain_rule():
    """From the update of the merged weights W: ΔA = scale ΔW Bᵀ and ΔB = scale Aᵀ ΔW, of SGD."""
    params = INIT(MODEL, jax.random.key(0))
    adapters = random_adapters(params, RANK)
    merged = jax.jit(lambda p, a: lora.merge(lora.join(p, a, ALPHA / RANK)))(params, adapters)
    start, end = update(default_config(), merged)
    for microbatches in (1, 2):
        config = default_config()
        config.lora.rank, config.lora.alpha = RANK, ALPHA
        config.learner.microbatches = microbatches
        before, after = update(config, params, jax.tree.map(jnp.asarray, adapters))
        jax.tree.map(np.testing.assert_array_equal, after.base, params)
        for name, adapter in adapters["layers"].items():
            moved = np.float64(end.params["layers"][name])
            moved -= np.float64(start.params["layers"][name])
            a, b = np.float64(adapter["a"]), np.float64(adapter["b"])
            expected = {"a": moved @ np.swapaxes(b, 1, 2), "b": np.swapaxes(a, 1, 2) @ moved}
            for part, value in expected.items():
                found = np.asarray(after.params["layers"][name][part])
                found = found - before.params["layers"][name][part]
                np.testing.assert_allclose(
                    found, ALPHA / RANK * value, rtol=2e-3, atol=2e-3 * np.abs(found).max() + 1e-7
                )
            assert np.abs(moved).max() > 1e-3


def test_init_state_differs_by_seed_in_the_adapters_alone():
    params = INIT(MODEL, jax.random.key(0))
    states = []
    for seed in (0, 1):
        config = default_config()
        config.seed, config.lora.rank = seed, RANK
        members = advantages.members_of([("dr_grpo", {})])
        config.advantage.name = "dr_grpo"
        hyper = hyperparameters(config, members)
        states.append(learner.init_state(MODEL, config, members, hyper, params))
    one, other = (state.params["layers"]["up"]["a"] for state in states)
    assert np.all(one != other)
    jax.tree.map(np.testing.assert_array_equal, states[0].base, states[1].base)


def test_state_and_checkpoint_hold_adapters_alone(finished):
    """Counted by hand: rank (in + out) numbers for each of the seven linear maps."""
    workdir, experiment, _ = finished
    config = experiment.config
    width, kv, inner = 16, 8, 32
    pairs = [(width, width), (width, kv), (width, kv), (width, width)]
    pairs += [(width, inner), (width, inner), (inner, width)]
    numbers = RANK * sum(map(sum, pairs))
    with closing(Checkpoints(workdir / "checkpoints", keep=2)) as checkpoints:
        _, saved = checkpoints.restore(abstract_checkpoint(experiment))
    assert sum(x.nbytes for x in jax.tree.leaves(saved.params)) == 4 * numbers
    counts = [x.size for x in jax.tree.leaves(saved.opt_state)]
    assert sum(n for n in counts if n > 1) == 2 * numbers  # two moments
    assert saved.base == saved.initial_head == saved.past_params == ()
    state = plan.abstract_state(experiment, hyperparameters(config, experiment.methods))
    assert jax.tree.structure(state.base) == jax.tree.structure(
        plan.parameter_shapes(experiment.model)
    )


def test_bfloat16_base_is_in_the_dtype_of_the_computation():
    config = lora_config(model__dtype="bfloat16")
    experiment = build_experiment(config)
    state = plan.abstract_state(experiment, hyperparameters(config, experiment.methods))
    kinds = {x.dtype.name for x in jax.tree.leaves((state.params, state.opt_state))}
    assert kinds == {"float32", "int32"}
    assert state.base["layers"]["up"].dtype == jnp.bfloat16
    assert state.base["head"].dtype == state.base["final_norm"].dtype == jnp.float32


def test_train_learns_and_logs_no_head_rank(finished):
    workdir, _, (_, lines) = finished
    assert any(line.get("gradient_norm", 0) > 0 for line in lines)
    assert not any("rank_one_fraction" in line for line in lines)
    assert json.loads((workdir / "result.json").read_text())["step"] == 4


def test_resumed_run_has_the_same_bits(finished, tmp_path):
    _, experiment, whole = finished
    assert resumed(experiment.config, tmp_path, experiment) == whole


@pytest.mark.slow
def test_resumed_run_with_a_lag_and_a_reference_has_the_same_bits(warm, tmp_path):
    config = lora_config(
        warm_start__workdir=warm, learner__staleness=2, learner__kl__coefficient=0.1,
        learner__kl__refresh_every=3,
    )  # fmt: skip
    config.steps = 6
    experiment = build_experiment(config)
    whole = run(config, tmp_path / "whole", experiment)
    assert resumed(config, tmp_path / "resumed", experiment) == whole
    assert any(line.get("gradient_norm", 0) > 0 for line in whole[1])


def test_resume_refuses_another_or_no_warm_start(finished, tmp_path):
    workdir, experiment, _ = finished
    lost = experiment.config.copy_and_resolve_references()
    lost.warm_start.workdir = str(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"holds adapters alone; .*nowhere") as caught:
        restore_params(with_config(experiment, lost), workdir)
    assert "\n" not in str(caught.value)
    other = experiment.config.copy_and_resolve_references()
    other.warm_start.seed = 5
    with pytest.raises(ConfigError, match=r"holds a run with another config \(warm_start\.seed"):
        restore_params(with_config(experiment, other), workdir)


def test_reference_at_the_start_is_the_policy(warm, tmp_path):
    config = lora_config(warm_start__workdir=warm, learner__kl__measured=True)
    config.evaluation.every = config.steps
    _, lines = run(config, tmp_path)
    kl = [line["kl"] for line in lines if "kl" in line]
    assert kl[0] < 1e-10 < kl[-1]  # of the rounding of two programs, then of the steps between


@pytest.mark.slow
def test_reference_by_path_is_held_whole(finished, tmp_path):
    model = finished[1].model
    huggingface.save(tmp_path / "model", model, INIT(model, jax.random.key(3)))
    config = lora_config(learner__kl__measured=True, learner__kl__reference=str(tmp_path / "model"))
    config.learner.kl.refresh_every = 3
    config.warm_start.steps, config.evaluation.every = 0, config.steps
    _, lines = run(config, tmp_path / "run")
    kl = [line["kl"] for line in lines if "kl" in line]
    assert min(kl[:3]) > 1e-3 > kl[3]  # after 3 steps the policy itself is the reference


@pytest.mark.slow
def test_samplers_give_the_bits_of_lock_step(tmp_path):
    results = []
    for samplers in (4, 0):
        config = lora_config(learner__staleness=1)
        config.task.name, config.task.kwargs = "tests.experiments.letters_run.make", {}
        config.steps = config.evaluation.every = 4
        config.steps_per_call = 1
        config.warm_start.steps = 0
        config.mesh.data, config.mesh.samplers = 4, samplers
        results.append(run(config, tmp_path / str(samplers)))
    assert results[0] == results[1]


def test_restore_params_evaluates_as_the_run_did(finished):
    workdir, experiment, (digest, lines) = finished
    step, adapters = restore_trained(experiment, workdir)
    assert tree_sha256(adapters) == digest
    step, params = restore_params(experiment, workdir)
    found = evaluation_metrics(experiment, params, None, step)
    logged = next(line for line in reversed(lines) if "eval/pass@1" in line)
    for name in found.keys() - set(TIMING):
        np.testing.assert_allclose(found[name], logged[name], rtol=1e-5, err_msg=name)


def test_export_writes_merged_weights_or_adapters_and_base(finished, tmp_path):
    workdir, experiment, _ = finished
    _, adapters = restore_trained(experiment, workdir)
    _, merged = restore_params(experiment, workdir)
    export(workdir, tmp_path / "merged")
    jax.tree.map(
        np.testing.assert_array_equal, huggingface.load_model(tmp_path / "merged")[1], merged
    )
    export(workdir, tmp_path / "adapters", adapters=True)
    settings = json.loads((tmp_path / "adapters" / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == str(tmp_path / "adapters" / "base")
    base = huggingface.load_model(tmp_path / "adapters" / "base")[1]
    again = lora.merge(lora.join(base, adapters, settings["lora_alpha"] / settings["r"]))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), again, merged)


def test_export_refuses_adapters_of_a_full_run(tmp_path):
    claim(tiny_config(), tmp_path / "run")
    with pytest.raises(ConfigError, match=r"--adapters needs a run with config.lora.rank > 0"):
        export(tmp_path / "run", tmp_path / "out", adapters=True)


def test_trained_shardings_split_a_like_inputs_and_b_like_outputs():
    config = divisible_config()
    config.lora.rank = RANK
    mesh = make_mesh({"data": 2, "fsdp": 2, "tensor": 2})
    model = build_experiment(config).model
    found = policy.trained_shardings(config, model, mesh)["layers"]
    specs = {n: (tuple(x["a"].spec), tuple(x["b"].spec)) for n, x in found.items()}
    into = (None, "fsdp", None), (None, None, "tensor")
    back = (None, "tensor", None), (None, None, "fsdp")
    forward = dict.fromkeys(("query", "key", "value", "gate", "up"), into)
    assert specs == forward | dict.fromkeys(("output", "down"), back)


@pytest.mark.slow
def test_eight_devices_equal_one():
    """Rollouts and a step of SGD from random adapters, on rewards at random."""
    outcomes = []
    for mesh in ({"data": 1}, {"data": 2, "fsdp": 2, "tensor": 2}):
        config = divisible_config()
        config.lora.rank, config.advantage.name = RANK, "grpo"
        config.optimizer.name, config.optimizer.learning_rate = "sgd", 0.1
        config.mesh.update(mesh)
        experiment = build_experiment(config)
        rl = experiment.rl
        hyper = hyperparameters(config, experiment.methods)
        params = INIT(experiment.model, jax.random.key(0))
        adapters = random_adapters(params, RANK)
        state = rl.init(
            hyper, jax.device_put(params, parameter_shardings(experiment.model, experiment.mesh))
        )
        state = state._replace(params=jax.device_put(adapters, rl.state_shardings.params))
        prompts = experiment.task.train_prompts(0, 0, 8)._replace(verifier_inputs=())
        rollouts = rl.sample(state, prompts, 0)
        rewards = np.random.default_rng(0).integers(0, 2, (8, 4)).astype(np.float32)
        state, metrics = rl.update(state, hyper, prompts, rollouts, rewards)
        moved = jax.tree.map(lambda x, y: np.asarray(x) - y, state.params, adapters)
        outcomes.append(jax.device_get((rollouts.tokens, metrics["gradient_norm"], moved)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), *outcomes)
    assert max(np.abs(x).max() for x in jax.tree.leaves(outcomes[0][2])) > 1e-3


@pytest.mark.slow
def test_vmapped_runs_equal_runs_alone(warm, tmp_path):
    """In two sessions, so that the second begins from checkpoints."""
    config = lora_config(warm_start__workdir=warm)
    runs = {f"seed{seed}": {"seed": seed} for seed in (0, 1)}
    for mode, sessions in (("serial", (4,)), ("vmap", (2, 4))):
        config.sweep.mode = mode
        for steps in sessions:
            config.steps = steps
            run_sweep(config, runs, tmp_path / mode)
    for name in runs:
        alone, together = (lines_of(tmp_path / mode / "runs" / name) for mode in ("serial", "vmap"))
        assert any(line.get("gradient_norm", 0) > 0 for line in alone)
        for a, b in zip(alone, together, strict=True):
            for metric in ("reward", "loss", "eval/pass@1"):
                np.testing.assert_allclose(a.get(metric, 0), b.get(metric, 0), rtol=1e-3, atol=1e-5)


def compiled_learn(experiment):
    """The compiled train step; the rollout step, which a plan compiles too, is made trivial."""
    sample = jax.jit(lambda state, prompts: prompts.length)
    rl = experiment.rl._replace(sample=sample)
    return plan.compile_steps(experiment._replace(rl=rl))["learn"]


def test_update_holds_no_gradient_of_the_base():
    """The train step's own memory, by the compiler, beside the bytes of all weights."""
    temporary = {}
    for rank in (0, RANK):
        config = tiny_config()
        config.prompts, config.group_size = 2, 2
        config.model.num_layers, config.model.d_model, config.model.d_ff = 3, 256, 1024
        config.learner.head_rank, config.lora.rank = False, rank
        config.learner.microbatches = 2
        experiment = build_experiment(config)
        compiled = compiled_learn(experiment)
        temporary[rank] = compiled.temporary
        shapes = jax.tree.leaves(plan.parameter_shapes(experiment.model))
        weights = sum(4 * math.prod(x.shape) for x in shapes)
        assert compiled.outputs < 2048  # the state is donated, with the base in it
    assert temporary[0] > weights
    assert temporary[RANK] < weights / 2  # the weights of one layer of three, and activations


def test_plan_counts_the_base_and_the_adapters_of_one_device():
    from tests.experiments.perf.test_plan import MODEL as PLANNED
    from tests.experiments.perf.test_plan import config as planned_config
    from tests.experiments.perf.test_plan import parameters_by_hand

    config = planned_config("fsdp=4,tensor=2,lora.rank=16")
    experiment = plan.abstract_experiment(config, PLANNED)
    compiled = compiled_learn(experiment)
    state = plan.abstract_state(experiment, hyperparameters(config, experiment.methods))
    resident = flops.state_bytes(state)
    width, heads, kv, inner, layers = 64, 64, 32, 128, 3
    sizes = [(width // 4, heads // 2), (width // 4, kv // 2), (width // 4, kv // 2)]
    sizes += [(heads // 2, width // 4), (width // 4, inner // 2), (width // 4, inner // 2)]
    sizes += [(inner // 2, width // 4)]
    adapters = 4 * 16 * layers * sum(map(sum, sizes))
    norms = (2 * layers + 1) * width // 4
    head = 256 * width // 8
    base = 2 * (parameters_by_hand(4, 2) - norms - head) + 4 * (norms + head)  # bfloat16
    assert resident["weights"] == adapters + base
    assert 2 * adapters <= resident["optimizer"] < 2 * adapters + 64
    work = flops.work_of(experiment)
    assert flops.learn_bytes(work, state)["gradients"] == adapters * (1 + (work.microbatches > 1))
    assert compiled.arguments - sum(resident.values()) < 2**14  # the batch
