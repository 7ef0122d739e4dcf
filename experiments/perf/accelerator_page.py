"""The Markdown page of `experiments.perf.accelerator`. Standard library only."""

from typing import Any

# Published dense bfloat16 rates, FLOP/s, and memory rates, bytes/s, by a part of the device's name.
# NVIDIA's data sheets of A100 80GB SXM, H100 SXM and H200 SXM.
PUBLISHED = {
    "A100": (312e12, 2.04e12),
    "H100": (989.4e12, 3.35e12),
    "H200": (989.4e12, 4.8e12),
}

_UNITS = {
    "tflops": "TFLOP/s",
    "gbps": "GB/s",
    "tokens_per_s": "tokens/s",
    "seconds": "s",
    "compile_s": "s to compile",
    "memory_gb": "memory, GB",
    "of_product": "of the product's rate",
    "of_published": "of the published rate",
}


def page(about: dict[str, Any], results: list[dict]) -> str:
    """Returns the page as Markdown.

    Args:
      about: of the machine, the device and the command.
      results: of the sections so far, as from `accelerator.run_sections`.
    """
    parts = [f"# {about.get('device', 'Accelerator')}"]
    if about.get("rehearsal"):
        parts.append("A rehearsal: sizes are tiny, and no number says anything about the device.")
    parts.append("\n".join(f"- {name}: {value}" for name, value in about.items() if value != ""))
    rates = _rates(results)
    for result in results:
        parts.append(f"## {result['title']}")
        if result["status"] != "ok":
            parts.append(f"{result['status'][:1].upper()}{result['status'][1:]}.")
        rows = [_with_fractions(row, rates, about.get("device", "")) for row in result["rows"]]
        if rows:
            parts.append(table(rows))
        parts += _conclusions(result)
        parts.append(f"{result['seconds']:.0f} s.")
    return "\n\n".join(parts)


def table(rows: list[dict]) -> str:
    """Formats dicts as a Markdown table; a column is there if some row has it."""
    columns = list(dict.fromkeys(name for row in rows for name in row if name != "flop"))
    lines = [
        [_UNITS.get(name, name.replace("_", " ")) for name in columns],
        ["---:" if _is_number(rows[0].get(name, "")) else "---" for name in columns],
        *([_cell(row.get(name, "")) for name in columns] for row in rows),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _rates(results) -> dict[str, float]:
    """The measured rate of a product, FLOP/s."""
    rows = [row for result in results if result["name"] == "roofline" for row in result["rows"]]
    return {row["work"]: row["tflops"] * 1e12 for row in rows if "tflops" in row}


def _with_fractions(row: dict, rates: dict[str, float], device: str) -> dict:
    """Adds the FLOP/s of a row, and what part they are of the measured and of the published."""
    row = dict(row)
    if "flop" in row and "tflops" not in row:
        row["tflops"] = row["flop"] / row["seconds"] / 1e12
    product = max(rates.values(), default=0)
    if "flop" in row and product:
        row["of_product"] = row["tflops"] * 1e12 / product
    for name, (flops, memory) in PUBLISHED.items():
        if name in device:
            if "tflops" in row:
                row["of_published"] = row["tflops"] * 1e12 / flops
            elif "gbps" in row:
                row["of_published"] = row["gbps"] * 1e9 / memory
    return row


def _conclusions(result) -> list[str]:
    """Sentences on rows that are to be compared."""
    seconds = {
        (row.get("work"), row["implementation"]): row["seconds"]
        for row in result["rows"]
        if "implementation" in row and "seconds" in row
    }
    found = []
    for (work, implementation), time in seconds.items():
        base = {"attention": "plain", "sweep": "run after run"}.get(result["name"], "fade_jax")
        if implementation == base or (work, base) not in seconds:
            continue
        ratio = seconds[work, base] / time
        if base == "fade_jax":
            found.append(f"{work}: fade_jax is {1 / ratio:.2f} times as fast as {implementation}.")
        else:
            found.append(f"{work}: {implementation} is {ratio:.2f} times as fast as {base}.")
    if result["name"] == "sweep" and found:
        found.append("The goal for 16 runs is 4.")
    return ["\n".join(f"- {line}" for line in found)] if found else []


def _is_number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _cell(value) -> str:
    if not _is_number(value):
        return str(value).replace("|", "/")
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"
