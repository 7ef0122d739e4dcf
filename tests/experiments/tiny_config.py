"""A run small enough for a test, whose policy finds some paths: 16 nodes, one layer, one device."""

from experiments.config import default_config, smoke_run


def get_config():
    """Returns the config; a few steps after a warm start of 40."""
    config = smoke_run(default_config())
    config.quick_compile = False
    config.task.kwargs = {
        "nodes": 16,
        "forbidden": 2,
        "min_distance": 1,
        "max_distance": 3,
        "max_path": 5,
        "max_walk": 4,
        "min_walk": 1,
    }
    config.model.num_layers = 1
    config.model.d_model = 16
    config.model.d_ff = 32
    config.model.num_heads = 2
    config.model.num_kv_heads = 1
    config.prompts = 8
    config.group_size = 4
    config.optimizer.learning_rate = 1e-2
    config.warm_start.steps = 40
    config.warm_start.batch = 64
    config.warm_start.learning_rate = 1e-2
    config.mesh.data = 1
    return config
