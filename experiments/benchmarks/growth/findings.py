"""What the page says beside its figures: how they are measured, and what grows why."""

from experiments.benchmarks.growth.fit import LIMIT

ABOUT = (
    "Every point is a process of its own on one core: the programs `sample` and `learn` of"
    " experiments.program are compiled, run once to warm up, and then repeated. No completion ends"
    " early. GFLOP are counted by experiments.plan.flops: matrix products only, masked scores"
    " included. CPU s and s are medians, of the processor's seconds and of the clock's; on an idle"
    " core they are the same. Peak is what the process held beyond one that has compiled and run"
    " and holds no arrays; program is the arguments, outputs and temporaries that the compiler"
    " plans, of all devices together.",
    f"▲ marks a point whose CPU seconds, or planned memory, have grown more than {LIMIT} times as"
    " much as its work since the row above.",
    "The base point lies on most axes and is measured once, with the first of them. The machine is"
    " a share of a larger one, whose speed changes within the half hour that all axes take by more"
    " than the repetitions of a point show: a base point that stands out by itself, against both"
    " its neighbours, is of another minute and no property of the step.",
)

_SHARED_CORE = (
    "The devices are fake ones that share the one core: the whole work of a step is the same at"
    " every point, and what grows is the cost of dividing it, no speed-up."
)

FINDINGS: dict[str, tuple[str, ...]] = {
    "batch": (
        "The rollout step grows slower than its work: one of few prompts has the fixed cost of"
        " every token's small products to spread. The train step grows about as its work.",
    ),
    "accumulated": (
        "With microbatches of one prompt the train step holds the activations of one prompt"
        " whatever the batch, at about the same rate: its planned memory is flat.",
    ),
    "group": (
        "Prompts are read once for the group, so that work grows slower than G. From where the"
        " caches of the completions leave the core's own, time grows a little faster than work,"
        " for the reasons under completion length.",
    ),
    "prompt": (
        "Attention among the tokens of a prompt is quadratic, and the counted work says so. The"
        " train step still grows faster: the table of attention alone, below, has the time of a"
        " score rise where an array of scores no longer fits the core's caches, for what the count"
        " leaves out (mask, maximum, exponential, sum) is passes over these arrays. Blocks of"
        " queries bound the arrays beyond 512 tokens.",
        "The planned memory of the rollout step rises by more than its work at 512 tokens: these"
        " are still one block, and hold the whole square of scores. From there on it is bounded.",
    ),
    "completion": (
        "The rollout step grows faster than its work, because a token's attention multiplies one"
        " query by its cache: it is bound by memory, where the projections are bound by"
        " arithmetic, and its share grows. Decoding alone, below: from 128 places on, the time of a"
        " token grows with the room of the cache. Every token goes over all T places, filled or"
        " not, which the count includes.",
        "The train step holds and goes over scores of T x (S + T) for every completion, which is"
        " why its memory turns from linear to quadratic; beyond 512 tokens blocks of queries bound"
        " it.",
    ),
    "vocabulary": (
        "The train step does not grow faster than its work: its fused head never holds the logits."
        " The rollout step does: what it does with a logit beside its 2 D = 256 FLOP (temperature,"
        " log-softmax, entropy, the cumulative sums of the draw) is not in the count and takes some"
        " nanoseconds, as those FLOP do.",
        "Drawing alone, below: jax.random.categorical takes noise for every logit and the largest"
        " sum. experiments.rollout.draw takes one random number for each token and finds where the"
        " cumulative probability exceeds it.",
    ),
    "layers": (
        "Work, time and memory are lines with an offset, the head and the embedding. The train"
        " step scans over its layers: its compilation does not grow with them. The rollout step"
        " does so for the prompts alone and decodes with each layer by itself, so that its"
        " compilation grows with them.",
    ),
    "data": (
        _SHARED_CORE,
        "Every device holds the whole parameters and optimiser state and makes the same update of"
        " them: hence the memory.",
    ),
    "fsdp": (
        _SHARED_CORE,
        "Parameters and optimiser state are divided, so that the train step's memory stays,"
        " beside the layer at hand. The rollout step gathers the parameters once and every device"
        " then holds them whole: its memory grows as along data.",
    ),
    "tensor": (
        _SHARED_CORE,
        "Heads, SwiGLU and vocabulary are divided; the residual stream is not. Every device keeps"
        " the activations between the layers of all tokens, which is the memory of the train step."
        " At 8 devices, more than the 4 heads, a device has half a head's columns to multiply.",
    ),
}
