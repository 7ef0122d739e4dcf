"""Collectives are counted with every trip of every loop, and bytes as a ring moves them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from experiments.perf.hlo import bytes_by_kind, collectives, partitioned


def test_collectives_bytes_of_all_kinds_in_nested_scans():
    """5 trips of each kind over an axis of 4, and 3 more sums over one of 2 inside each."""
    mesh = jax.make_mesh((2, 4), ("a", "b"), devices=jax.devices()[:8])

    def step(x, _):  # x: float32 [8, 16] on each device, 512 bytes
        gathered = jax.lax.all_gather(x, "b", tiled=True)  # gets 2048
        x = jax.lax.psum_scatter(gathered, "b", tiled=True)  # leaves 512
        x = jax.lax.psum(x, "b")
        x = jax.lax.all_to_all(x, "b", split_axis=0, concat_axis=0, tiled=True)
        x = jax.lax.ppermute(x, "b", [(0, 1), (1, 2), (2, 3), (3, 0)])
        inner = jax.lax.scan(lambda y, _: (jax.lax.psum(y * 0.5, "a"), None), x, length=3)[0]
        return inner, None

    spec = PartitionSpec("a", "b")
    run = jax.shard_map(
        lambda x: jax.lax.scan(step, x, length=5)[0],
        mesh=mesh,
        in_specs=spec,
        out_specs=spec,
        check_vma=False,
    )
    x = jax.ShapeDtypeStruct((16, 64), jnp.float32, sharding=NamedSharding(mesh, spec))
    lowered = jax.jit(run).lower(x)
    for _ in range(2):  # a cached program would leave no text behind
        found = collectives(partitioned(lowered)[0])
    assert bytes_by_kind(found) == {
        "all-gather": 5 * 3 / 4 * 2048,
        "reduce-scatter": 5 * 3 * 512,
        "all-reduce": 5 * 2 * 3 / 4 * 512 + 5 * 3 * 2 * 1 / 2 * 512,
        "all-to-all": 5 * 3 / 4 * 512,
        "collective-permute": 5 * 512,
    }
    assert {c.group for c in found if c.kind == "all-gather"} == {(0, 1, 2, 3)}
    assert {(c.group, c.times) for c in found if c.kind == "all-reduce"} == {
        ((0, 1, 2, 3), 5),
        ((0, 4), 15),
    }


def test_collectives_count_one_gather_per_layer():
    mesh = jax.make_mesh((8,), ("b",), (AxisType.Auto,), devices=jax.devices()[:8])
    rows = NamedSharding(mesh, PartitionSpec("b", None))

    def forward(x, weights):
        def layer(x, w):
            return jax.lax.with_sharding_constraint(jnp.tanh(x @ w), rows), None

        return jax.lax.scan(layer, x, weights)[0]

    x = jax.ShapeDtypeStruct((512, 64), jnp.float32, sharding=rows)
    split = NamedSharding(mesh, PartitionSpec(None, "b", None))
    weights = jax.ShapeDtypeStruct((6, 64, 64), jnp.float32, sharding=split)
    found = collectives(partitioned(jax.jit(forward).lower(x, weights))[0])
    assert bytes_by_kind(found)["all-gather"] == 6 * 7 / 8 * 64 * 64 * 4
    assert sum(bytes_by_kind(found).values()) == 6 * 7 / 8 * 64 * 64 * 4


PROGRAM = """
HloModule hand

%add (a: f32[], b: f32[]) -> f32[] {{
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}}

%body (p: (s32[], bf16[10])) -> (s32[], bf16[10]) {{
  %p = (s32[], bf16[10]{{0}}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %one = s32[] constant(1)
  %next = s32[] add(%i, %one)
  %x = bf16[10]{{0}} get-tuple-element(%p), index=1
  %y = bf16[10]{{0}} all-reduce(%x), channel_id=1, replica_groups={groups}, to_apply=%add
  ROOT %t = (s32[], bf16[10]{{0}}) tuple(%next, %y)
}}

%condition (q: (s32[], bf16[10])) -> pred[] {{
  %q = (s32[], bf16[10]{{0}}) parameter(0)
  %j = s32[] get-tuple-element(%q), index=0
  %bound = s32[] {bound}
  ROOT %less = pred[] compare(%j, %bound), direction=LT
}}

ENTRY %main (x: bf16[10], n: s32[]) -> bf16[10] {{
  %x.1 = bf16[10]{{0}} parameter(0)
  %start = s32[] constant(2)
  %tuple = (s32[], bf16[10]{{0}}) tuple(%start, %x.1)
  %loop = (s32[], bf16[10]{{0}}) while(%tuple), condition=%condition, body=%body
  ROOT %out = bf16[10]{{0}} get-tuple-element(%loop), index=1
}}
"""


@pytest.mark.parametrize(
    ("groups", "group"),
    [
        ("{{0,2},{1,3}}", (0, 2)),
        ("[2,4]<=[8]", (0, 1, 2, 3)),
        ("[4,2]<=[2,4]T(1,0)", (0, 4)),
        ("mesh['x'=2,'y'=4] {'x'}", (0, 4)),
        ("mesh['x'=2,'y'=2,'z'=2] {'x','z'}", (0, 1, 4, 5)),
        ("mesh['x'=2,'y'=4], device_ids=([4,2]T(1,0)) {'x'}", (0, 1)),
        ("mesh['x'=2,'y'=2], device_ids=(3,1,2,0) {'x'}", (3, 2)),
    ],
)
def test_collectives_groups_and_trip_counts(groups, group):
    (found,) = collectives(PROGRAM.format(groups=groups, bound="constant(9)"))
    members = len(group)
    assert (found.kind, found.times, found.group, found.dtype) == ("all-reduce", 7, group, "bf16")
    np.testing.assert_allclose(found.moved, 2 * (members - 1) / members * 20)


def test_collectives_need_trips_of_unbounded_loops():
    text = PROGRAM.format(groups="{{0,1}}", bound="get-tuple-element(%q), index=0")
    with pytest.raises(ValueError, match="no constant bound of the loop body"):
        collectives(text)
    assert collectives(text, unknown_trips=11)[0].times == 11
