"""Token ids worked out by hand on a small byte-pair vocabulary, from GGUF and tokenizer.json."""

import json

import pytest

from experiments.models import huggingface, tokenizer
from tests.experiments.models.checkpoints import VOCABULARY, write_gguf
from tests.experiments.models.common import FIXTURES


@pytest.fixture(scope="module")
def write(tmp_path_factory):
    config, params = huggingface.load_model(FIXTURES / "llama_tied")

    def make(**kwargs):
        path = tmp_path_factory.mktemp("gguf") / "model.gguf"
        write_gguf(path, "llama", config, params, **kwargs)
        return path

    return make


@pytest.fixture(scope="module", params=["gguf", "directory"])
def tokens(request, write, tmp_path_factory):
    from_gguf = tokenizer.load(write())
    if request.param == "gguf":
        return from_gguf
    directory = tmp_path_factory.mktemp("saved")
    from_gguf.save(directory)
    return tokenizer.load(directory)


def pieces(tokens, text):
    return [VOCABULARY[i] for i in tokens.encode(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hello hello", ["hello", "Ġhello"]),
        ("help", ["he", "l", "p"]),
        ("12+1", ["1", "2", "+", "1"]),  # digits one by one, though "12" is in the vocabulary
        ("   1", ["ĠĠ", "Ġ", "1"]),  # and spaces apart from a digit, though "Ġ1" is
        ("  a", ["Ġ", "Ġ", "a"]),  # of several spaces the last belongs to the word
        ("a\n", ["a", "Ċ"]),
        ("é", ["Ã©"]),
        ("a<|end|>a", ["a", "<|end|>", "a"]),
        ("a<kept>a", ["a", "<kept>", "a"]),
        ("", []),
    ],
)
def test_encode(tokens, text, expected):
    assert pieces(tokens, text) == expected


@pytest.mark.parametrize("text", ["hello  12 + 3 = é\n", "a<kept>'ll", ""])
def test_decode_inverts_encode(tokens, text):
    assert tokens.decode(tokens.encode(text)) == text


def test_decode_keeps_special_tokens_and_unknown_ids(tokens):
    assert tokens.decode(tokens.encode("7<|pad|>2")) == "7<|pad|>2"
    seven, two = tokens.encode("72")
    assert tokens.decode([seven, len(VOCABULARY), two]) == "7\ufffd2"


CHAT = (
    "{% for m in messages %}{{ '<|pad|>' + m['role'] + '_' + m['content'] + '<|pad|>\\n' }}"
    "{% endfor %}"
)


@pytest.mark.parametrize(
    ("template", "end"),
    [
        (CHAT, [1]),
        ([{"name": "tools", "template": "x"}, {"name": "default", "template": CHAT}], [1]),
        ("{% for m in messages %}{{ m.content }} {{ eos_token }}{% endfor %}", []),  # 0 is there
        ("{% for m in messages %}{{ m.content }}.{% endfor %}", []),
        ("{{ raise_exception('no') }}", []),
    ],
)
def test_load_ends_with_every_end_token(tokens, tmp_path, template, end):
    tokens.save(tmp_path)
    named = {"eos_token": "<|end|>", "chat_template": template}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(named))
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": 7}))
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [7, 9]}))
    assert tokenizer.load(tmp_path).eos_ids == (0, 7, 9, *end)


def test_load_ends_with_every_end_token_of_gguf(write):
    path = write(metadata=[("tokenizer.chat_template", CHAT)])
    assert tokenizer.load(path).eos_ids == (0, 1)


def test_save_keeps_end_tokens(write, tmp_path):
    found = tokenizer.load(write(metadata=[("tokenizer.chat_template", CHAT)]))
    found.save(tmp_path)
    again = tokenizer.load(tmp_path)
    assert (again.eos_ids, again.pad_id) == ((0, 1), 1)


def test_load_special_ids(tokens):
    assert (tokens.eos_id, tokens.pad_id) == (0, 1)
    assert tokens.vocab_size == len(VOCABULARY)


def test_load_pads_with_eos_by_default(write):
    tokens = tokenizer.load(write(leave_out=["tokenizer.ggml.padding_token_id"]))
    assert (tokens.eos_id, tokens.pad_id) == (0, 0)


def test_load_splits_as_gpt2_by_default(write):
    tokens = tokenizer.load(write(leave_out=["tokenizer.ggml.pre"]))
    assert pieces(tokens, "12 12") == ["12", "Ġ", "12"]  # "1 2" is the earlier merge


@pytest.mark.parametrize(
    ("split", "text", "expected"),
    [
        ("qwen2", "12", ["1", "2"]),
        ("qwen2", "e\u0301", ["Ã©"]),  # composed first
        ("qwen2", "+\n\n", ["+", "Ċ", "Ċ"]),
        ("llama-bpe", "12", ["12"]),
        ("llama-bpe", "1212", ["12", "1", "2"]),  # three digits, then the rest
        ("gpt-2", "   1", ["ĠĠ", "Ġ1"]),
    ],
)
def test_encode_splits(write, split, text, expected):
    path = write(leave_out=["tokenizer.ggml.pre"], metadata=[("tokenizer.ggml.pre", split)])
    assert pieces(tokenizer.load(path), text) == expected


def test_load_reads_eos_from_both_configs(tokens, tmp_path):
    tokens.save(tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    (tmp_path / "generation_config.json").unlink()
    with pytest.raises(ValueError, match=r"neither tokenizer_config.json nor config.json names an"):
        tokenizer.load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": [5, 6]}))
    found = tokenizer.load(tmp_path)
    assert (found.eos_id, found.pad_id) == (5, 5)
    named = {"eos_token": {"content": "<|pad|>"}, "pad_token": "<|end|>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(named))
    found = tokenizer.load(tmp_path)
    assert (found.eos_id, found.pad_id) == (1, 0)


def test_load_raises_on_missing_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no tokenizer.json in"):
        tokenizer.load(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no tokenizer at .*nowhere"):
        tokenizer.load(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"leave_out": ["tokenizer.ggml.pre"], "metadata": [("tokenizer.ggml.pre", "viking")]},
            "a split among gpt-2, smollm, qwen2, llama-bpe; got 'gpt2' with 'viking'",
        ),
        ({"leave_out": ["tokenizer.ggml.eos_token_id"]}, "eos_token_id is missing"),
    ],
)
def test_load_raises(write, changes, message):
    path = write(**changes)
    with pytest.raises(ValueError, match=message):
        tokenizer.load(path)
