"""GSM8K's files as tensorflow-datasets lays them out, with a few records of our own."""

import json

from array_record.python.array_record_module import ArrayRecordWriter

FIELDS = ("annotation", "answer", "question", "short_answer")


def write(root, **splits):
    """Writes `split=[(question, answer), ...]` under root/gsm8k/1.0.0."""
    folder = root / "gsm8k" / "1.0.0"
    folder.mkdir(parents=True)
    described = []
    for name, rows in splits.items():
        path = folder / f"gsm8k-{name}.array_record-00000-of-00001"
        writer = ArrayRecordWriter(str(path), "group_size:1")
        records = [_example(question, answer) for question, answer in rows]
        for record in records:
            writer.write(record)
        writer.close()
        described.append(
            {
                "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
                "name": name,
                "numBytes": str(sum(map(len, records))),
                "shardLengths": [str(len(records))],
            }
        )
    info = {
        "fileFormat": "array_record",
        "moduleName": "tensorflow_datasets.text.gsm8k.gsm8k",
        "name": "gsm8k",
        "splits": described,
        "version": "1.0.0",
    }
    (folder / "dataset_info.json").write_text(json.dumps(info))
    text = {"pythonClassName": "tensorflow_datasets.core.features.text_feature.Text", "text": {}}
    features = {
        "pythonClassName": "tensorflow_datasets.core.features.features_dict.FeaturesDict",
        "featuresDict": {"features": dict.fromkeys(FIELDS, text)},
    }
    (folder / "features.json").write_text(json.dumps(features))


def _example(question, answer):
    """A serialised tf.train.Example: message fields 1 within 1, as protocol buffers nest them."""
    values = {"question": question, "answer": answer, "annotation": "", "short_answer": ""}
    entries = b"".join(
        _field(1, _field(1, name.encode()) + _field(2, _field(1, _field(1, value.encode()))))
        for name, value in values.items()
    )
    return _field(1, entries)


def _field(number, payload):
    return _varint(number << 3 | 2) + _varint(len(payload)) + payload


def _varint(value):
    encoded = b""
    while value > 127:
        encoded += bytes([value & 127 | 128])
        value >>= 7
    return encoded + bytes([value])
