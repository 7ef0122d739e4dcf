import html
import json
import re

from experiments.report.runs import Run, to_frame
from experiments.report.samples import (
    code_span,
    fenced,
    markdown_samples,
    samples_of_methods,
)
from experiments.report.write import write_report


def line(index, reward, completion, **more):
    fields = {"prompt": f"question {index}", "tokens": 5, "verdict": "wrong", "detail": ""}
    return fields | {"index": index, "completion": completion, "reward": reward} | more


def run_with(directory, files, method="fade", seed=0):
    (directory / "samples").mkdir(parents=True)
    for step, lines in files.items():
        text = "".join(json.dumps(x) + "\n" for x in lines)
        (directory / "samples" / f"{step}.jsonl").write_text(text)
    evaluations = to_frame([{"step": max(files)}])
    return Run(f"{method}-seed{seed}", method, {}, to_frame(()), evaluations, None, directory)


def titles(columns):
    return [(step, [(c.title, c.text) for c in completions]) for step, completions in columns]


def test_samples_of_methods_picks_the_best_and_the_worst(tmp_path):
    files = {
        0: [line(0, 0.0, "a"), line(0, 0.0, "b"), line(0, None, "?", verdict="unknown")],
        20: [line(0, 0.5, "c"), line(0, 1.0, "d", verdict="right"), line(0, 0.25, "e", tokens=9)],
    }
    (found,) = samples_of_methods([run_with(tmp_path / "a", files)])
    assert found.run == "fade-seed0"
    (prompt,) = found.prompts
    assert (prompt.number, prompt.text) == (0, "question 0")
    assert titles(prompt.columns) == [
        (0, [("best: reward 0, wrong, 5 tokens", "a"), ("worst: reward 0, wrong, 5 tokens", "b")]),
        (
            20,
            [
                ("best: reward 1, right, 5 tokens", "d"),
                ("worst: reward 0.25, wrong, 9 tokens", "e"),
            ],
        ),
    ]


def test_samples_of_methods_takes_one_run_of_each_method_and_four_prompts(tmp_path):
    many = {5: [line(i, 0.0, "x") for i in range(6)]}
    runs = [
        run_with(tmp_path / "a", many),
        run_with(tmp_path / "b", {9: [line(3, None, "y", verdict="unknown")]}, seed=1),
        run_with(tmp_path / "c", {5: []}, "grpo"),
    ]
    (found,) = samples_of_methods(runs)
    assert found.run == "fade-seed1"  # it got further
    assert [c.title for _, cs in found.prompts[0].columns for c in cs] == [
        "the only one: reward unknown, wrong, 5 tokens".replace("wrong", "unknown")
    ]
    (found,) = samples_of_methods(runs[:1])
    assert [prompt.number for prompt in found.prompts] == [0, 1, 2, 3]


def test_samples_show_parts_details_and_at_most_2000_characters(tmp_path):
    long = line(0, 0.5, "z" * 2005, detail="test 2:\nexpected 3", **{"reward/format": 1.0})
    (found,) = samples_of_methods([run_with(tmp_path, {1: [long]})])
    (completion,) = found.prompts[0].columns[0][1]
    assert completion.title == "the only one: reward 0.5, wrong, format 1, 5 tokens"
    assert completion.detail == "test 2: expected 3"
    assert completion.text == "z" * 2000 + "\n[5 more characters]"


def test_samples_leave_damaged_lines_and_control_characters_out(tmp_path, caplog):
    run = run_with(tmp_path, {1: [line(0, 1.0, "a\x1b[31m\x00\ud800b\n\tc")]})
    path = tmp_path / "samples" / "1.jsonl"
    path.write_text('{"index": \n[3]\n' + path.read_text())
    (found,) = samples_of_methods([run])
    assert found.prompts[0].columns[0][1][0].text == "a�[31m�?b\n\tc"
    assert "1.jsonl: line 1 is damaged" in caplog.text
    assert "1.jsonl: line 2 is damaged" in caplog.text


def test_fenced_text_cannot_close_its_fence():
    assert fenced("a\n```\nb") == "````text\na\n```\nb\n````"
    assert fenced("a") == "```text\na\n```"
    assert code_span("a``b") == "``` a``b ```"
    assert code_span("a") == "`a`"


def test_markdown_samples_equal_the_page_by_hand(tmp_path):
    files = {
        0: [line(2, 0.0, "```python\nx", verdict="cut off")],
        4: [line(2, 0.0, "y", detail="a`b")],
    }
    found = samples_of_methods([run_with(tmp_path, files)])
    assert markdown_samples(found) == (
        "### fade-seed0\n\nPrompt 2:\n\n```text\nquestion 2\n```\n\n"
        "Step 0, the only one: reward 0, cut off, 5 tokens\n\n````text\n```python\nx\n````\n\n"
        "Step 4, the only one: reward 0, wrong, 5 tokens: `` a`b ``\n\n```text\ny\n```"
    )


def test_write_report_escapes_completions(tmp_path):
    hostile = "<script>alert('x')</script> ```\n</pre></td>" + "w" * 1500
    lines = [line(0, 1.0, hostile, prompt=hostile, verdict="right", detail="<b>bold</b>")]
    run_with(tmp_path, {0: lines, 3: lines})
    (tmp_path / "metrics.jsonl").write_text('{"step": 3, "eval/pass@1": 0.5}\n')
    page = write_report(tmp_path)
    text, markdown = page.read_text(), (page.parent / "report.md").read_text()
    assert "<script" not in text
    assert "<b>" not in text
    assert [html.unescape(x) for x in re.findall("<pre>(.*?)</pre>", text, re.S)] == [hostile] * 3
    assert re.findall("<p>(Step .), ", text) == ["Step 0", "Step 3"]
    assert markdown.count(f"\n````text\n{hostile}\n````\n") == 3
    outside = re.sub(r"````text\n.*?\n````", "", markdown, flags=re.S)
    assert "<script" not in outside
    assert "`<b>bold</b>`" in outside
