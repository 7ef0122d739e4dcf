"""From a directory of sweeps, or of their tidy data, to the files of the claims page."""

from pathlib import Path

from experiments.claims import page, store
from experiments.report.page import html, markdown


def is_study(workdir: Path | str) -> bool:
    """Whether the children of a directory are sweeps, or the tidy data of sweeps."""
    workdir = Path(workdir)
    return bool(store.sweeps_in(workdir) or store.tidy_in(workdir))


def write_claims(workdir: Path | str, out: Path | str) -> Path:
    """Writes README.md, index.html, the pictures, and data/, which they are made from.

    The tidy data of the sweeps in `workdir` takes the place of that of the same sweeps in
    OUT/data; others that are there stay, and so do the runs that a sweep in `workdir` has not
    finished and OUT/data has, under this sweep or another one: sweeps are run in parts and on
    several machines. The page is drawn from all of it.

    Args:
      workdir: of several sweeps, each a directory with sweep.json; or OUT/data itself or a copy of
        it, from which the page is drawn again without the runs.
      out: directory of the files, made where it is missing.

    Returns:
      The path of index.html.

    Raises:
      FileNotFoundError: if there is neither in the workdir.
      ValueError: if a finished run lacks the counts of its evaluations.
    """
    workdir, out = Path(workdir), Path(out)
    sweeps, data = store.sweeps_in(workdir), out / "data"
    if not sweeps:
        data = workdir
        if not store.tidy_in(data):
            raise FileNotFoundError(
                f"no sweeps in {workdir}: a sweep is a directory with sweep.json"
            )
    known = {path.name: store.read_tidy(path) for path in store.tidy_in(data)}
    for sweep in sweeps:
        if any(sweep.glob("runs/*/metrics.jsonl")):
            own_first = sorted(known.values(), key=lambda other: other.name != sweep.name)
            store.write_tidy(sweep, data / sweep.name, own_first)
            known[sweep.name] = store.read_tidy(data / sweep.name)
    out.mkdir(parents=True, exist_ok=True)
    study = {path.name: store.read_tidy(path) for path in store.tidy_in(data)}
    content, images = page.claims_page(study, data, out)
    for name, image in images.items():
        (out / f"{name}.png").write_bytes(image)
    (out / "README.md").write_text(markdown(content), encoding="utf-8")
    path = out / "index.html"
    path.write_text(html(content, files=True), encoding="utf-8")
    return path
