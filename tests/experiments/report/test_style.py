from experiments.report.runs import Run
from experiments.report.style import method_lines


def _runs(*pairs):
    return [
        Run(f"{method}-seed{seed}", method, {"advantage": {"name": name}}, (), (), None)
        for method, name in pairs
        for seed in (0, 1)
    ]


def test_an_advantage_keeps_its_colour_from_report_to_report():
    three = method_lines(_runs(("fade", "fade"), ("grpo", "grpo"), ("power3", "power")))
    two = method_lines(_runs(("power2", "power"), ("my fade", "fade")))
    assert two["my fade"].colour == three["fade"].colour
    assert two["power2"].colour == three["power3"].colour


def test_no_two_methods_look_alike():
    pairs = [(f"power{i}", "power") for i in range(20)] + [("fade", "fade"), ("new", "new")]
    lines = method_lines(_runs(*pairs))
    assert list(lines) == [method for method, _ in pairs]
    assert len({(line.colour, line.dashes) for line in lines.values()}) == len(pairs)
