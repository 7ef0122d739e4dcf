"""What a run writes while it trains, and how it is read again."""

from experiments.metric_writer import read_lines


def test_read_lines_names_a_damaged_line_and_keeps_those_after_it(tmp_path, caplog):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2, "rew\n[3]\n{"step": 4}\n{"step": 5, "lo')
    assert read_lines(path) == [{"step": 1}, {"step": 4}]
    messages = [record.getMessage() for record in caplog.records]
    assert messages == [f"{path}: line {n} is damaged and is left out" for n in (2, 3)]


def test_read_lines_of_a_file_that_is_not_there_is_empty(tmp_path):
    assert read_lines(tmp_path / "metrics.jsonl") == []
