"""Runs an experiment, or all runs of a sweep:

    python -m experiments.run --config=configs/fade.py --workdir=DIR
    python -m experiments.run --config=configs/fade.py:smoke --config.seed=1 --workdir=DIR
    python -m experiments.run --config=configs/quickstart.py --workdir=DIR
    python -m experiments.run --config=configs/sweeps/core.py --workdir=DIR --shard=0/2

The same command goes on where it was stopped or killed, and ends with the same bits. A config file
that has a function sweep() is a sweep: get_config() is what its runs share, sweep(config) returns
the overrides of each run by name, put together by experiments.grid. --shard=i/n makes every n-th
run from the i-th on, for n hosts with i = 0..n-1; they may write to one directory, or their runs/
be copied into one. --noreport leaves out the report, which experiments.report draws.

--launcher=slurm makes the runs of a sweep by an array of SLURM jobs with the resources of
config.launcher, and waits for them; the same command waits again, and submits what is unfinished.

    python -m experiments.run --config=configs/sweeps/core.py --workdir=DIR --launcher=slurm \
        --config.launcher.partition=gpu --config.launcher.gpus=1 --config.launcher.at_once=8

One run may have several processes, each with its own devices of the mesh, started with the same
command but for the last number, in a workdir that all of them see; --distributed takes the place of
the three where JAX finds the processes itself, on a TPU pod or under SLURM:

    python -m experiments.run --config=configs/fade.py --workdir=DIR \
        --coordinator=HOST:PORT --num_processes=2 --process_id=0
"""

from absl import flags
from ml_collections import config_flags

from experiments.command import config_module, one_line_errors
from experiments.compilation import compile_quickly
from experiments.config import ConfigError, SweepError
from experiments.multihost import connect, is_first
from experiments.workdir import directory

_CONFIG = config_flags.DEFINE_config_file("config", None, "Config file of the run or sweep.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Directory for all that the run writes.")
_REPORT = flags.DEFINE_boolean("report", True, "Draw the report at the end.")
_COORDINATOR = flags.DEFINE_string("coordinator", None, "host:port of process 0 of several.")
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "How many processes share the run.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which of them this is, from 0 on.")
_DISTRIBUTED = flags.DEFINE_boolean("distributed", False, "Detect them: TPU pod, SLURM, Open MPI.")
_SHARD = flags.DEFINE_string("shard", "0/1", "Part i/n of the runs of a sweep, i = 0..n-1.")
_SAMPLERS = flags.DEFINE_list("samplers", [], "HOST:PORT of every experiments.sampler.")
_LAUNCHER = flags.DEFINE_enum("launcher", None, ("slurm", "local"), "Make a sweep by jobs.")


def main(argv):
    """Runs, then writes the report and prints its main table."""
    del argv
    if not _WORKDIR.value:
        raise ConfigError("--workdir must be a directory, got none")
    config, workdir, failed = _CONFIG.value, directory(_WORKDIR.value), None
    if config.get("quick_compile"):
        compile_quickly()
    sweep = getattr(config_module(), "sweep", None)
    several = (_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
    if sweep is not None:
        if _DISTRIBUTED.value or any(value is not None for value in several):
            raise ConfigError(
                "a sweep does not share its runs among processes: leave --coordinator,"
                " --num_processes, --process_id and --distributed out, and give each host its part"
                " with --shard=i/n"
            )
        if _SAMPLERS.value:
            raise ConfigError(f"--samplers={','.join(_SAMPLERS.value)} is for one run, not a sweep")
        if _LAUNCHER.value and flags.FLAGS["shard"].present:
            raise ConfigError(
                f"--launcher={_LAUNCHER.value} makes every part of the sweep: leave --shard out"
            )
        from experiments.jobs import parse_shard
        from experiments.launcher import launch_sweep
        from experiments.sweep import run_sweep

        shard = parse_shard(_SHARD.value)
        try:
            runs = sweep(config)
        except ConfigError:
            raise
        except Exception as error:  # the file's code may raise anything
            raise ConfigError(f"sweep() of --config: {type(error).__name__}: {error}") from error
        try:
            if _LAUNCHER.value:
                launch_sweep(config, runs, workdir, _LAUNCHER.value)
            else:
                run_sweep(config, runs, workdir, shard)
        except SweepError as error:  # after the report of the other runs
            failed = error
    else:
        for name in ("shard", "launcher"):
            if (flag := flags.FLAGS[name]).present:
                raise ConfigError(f"--{name}={flag.value} is for sweeps; {workdir} is for one run")
        connect(*several, detect=_DISTRIBUTED.value)
        from experiments.train import train

        train(config, workdir, samplers=_SAMPLERS.value)
    if _REPORT.value and is_first():
        from experiments.report import main_table, write_report
        from experiments.tracking import send_pictures

        try:
            report = write_report(workdir)
            if sweep is None:
                send_pictures(config, workdir, report.parent)
            print(f"\n{main_table(workdir)}\n\nreport: {report}")
        except FileNotFoundError:  # no run has begun
            if failed is None:
                raise
    if failed is not None:
        raise failed


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "workdir"])
    one_line_errors(main)
