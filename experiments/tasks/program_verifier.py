"""Verifies batches of completions that are programs, in sandboxes of its own.

Below: programs, experiments.sandbox.
"""

from collections.abc import Sequence

from experiments.sandbox import Limits, Sandbox, SandboxError, SandboxPool, UnavailableError
from experiments.tasks.programs import Problem, check, program_of
from experiments.tasks.verdict import Verdict, VerificationError


class ProgramVerifier:
    """Checks programs, several at a time; a context manager."""

    def __init__(
        self,
        workers: int = 1,
        backend: str = "bubblewrap",
        disk_bytes: int = Limits().disk_bytes,
    ):
        """Starts two sandboxes for each worker, one for programs and one for their tests.

        Args:
          workers: programs checked at once; one for each processor core is enough.
          backend: of the sandboxes: "bubblewrap", "sandlock" or "unsafe".
          disk_bytes: of the files that a program writes. All other limits come with the problems.

        Raises:
          ValueError: for an impossible value, naming it; or what to install, if the backend is not
            on this machine.
          VerificationError: if a sandbox does not start.
        """
        try:
            self._pool = SandboxPool(workers, backend, sandboxes=2, disk_bytes=disk_bytes)
        except UnavailableError as error:
            raise ValueError(str(error)) from error
        except SandboxError as error:
            raise VerificationError(str(error)) from error

    def __enter__(self) -> "ProgramVerifier":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends all sandboxes."""
        self._pool.close()

    def verify(self, texts: Sequence[str], problems: Sequence[Problem]) -> list[Verdict]:
        """Verifies completions; the same program for the same problem is run once.

        Args:
          texts: completions, without special tokens.
          problems: that of each text.

        Returns:
          Their verdicts, in order. One of "unknown" has the reward NaN.

        Raises:
          ValueError: if there are not as many problems as texts.
          VerificationError: if nothing can be said about any program.
        """
        if len(texts) != len(problems):
            raise ValueError(
                f"problems must be as many as texts, {len(texts)}, got {len(problems)}"
            )
        programs = [program_of(text, problem) for text, problem in zip(texts, problems)]
        # Problems are told apart by identity: ids of different data sets may be the same.
        keys = [(id(problem), program) for program, problem in zip(programs, problems)]
        distinct = {key: p for key, p in zip(keys, problems) if key[1] is not None}

        def work(sandboxes: tuple[Sandbox, ...], item: tuple[str, Problem]) -> Verdict:
            return check(*item, sandboxes)

        items = [
            (program, problem) for (_, program), problem in distinct.items() if program is not None
        ]
        verdicts = dict(zip(distinct, self._pool.map(work, items)))
        if verdicts and all(verdict.kind == "unknown" for verdict in verdicts.values()):
            detail = next(iter(verdicts.values())).detail
            raise VerificationError(f"none of {len(verdicts)} programs could be checked: {detail}")
        return [verdicts.get(key, Verdict(0.0, "no answer", "no code")) for key in keys]
