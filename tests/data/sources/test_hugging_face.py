import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gristmill.core.errors import UserError
from gristmill.data.documents import Document
from gristmill.data.sources.hugging_face import HuggingFace


def read(path: Path | str, cuts: int = 1, **options: Any) -> list[Document]:
    source = HuggingFace(dataset=str(path), **options)
    return [found for item in source.inputs() for part in source.ranges(item, max(1, item.size // cuts))
            for found in source.read(part, "hf") if isinstance(found, Document)]


CARD = """---
license: cc-by-4.0
configs:
- config_name: small
  data_files: [{split: train, path: "data/small-*.parquet"}]
- config_name: big
  default: true
  data_files: [{split: train, path: "data/big-*.parquet"}, {split: test, path: "held/*.parquet"}]
---
# A card
"""


def test_a_folder_with_a_card(tmp_path: Path) -> None:
    for name in ("data/small-0.parquet", "data/big-0.parquet", "data/big-1.parquet", "held/x.parquet"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        pq.write_table(pa.table({"text": [f"{name} {n}" for n in range(50)]}), tmp_path / name, row_group_size=9)
    (tmp_path / "README.md").write_text(CARD)
    whole = read(tmp_path)
    assert {d.metadata["path"] for d in whole} == {"data/big-0.parquet", "data/big-1.parquet"}
    assert whole[0].metadata["license"] == "cc-by-4.0"
    assert whole[3].id == "hf/data/big-0.parquet@3"
    assert read(tmp_path, cuts=9) == whole
    assert len(read(tmp_path, subset="small")) == 50
    assert len(read(tmp_path, split="test")) == 50
    assert len(read(tmp_path, split="all")) == 150
    with pytest.raises(UserError, match=r"(?s)no file of split 'validation'.*small, big"):
        read(tmp_path, split="validation")


@pytest.mark.verify
def test_as_the_public_library_reads_it(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="the package datasets is not installed")
    rows = {"text": [f"row {n}" for n in range(100)], "n": list(range(100))}
    parts = datasets.DatasetDict(train=datasets.Dataset.from_dict(rows), test=datasets.Dataset.from_dict(
        {"text": ["held"], "n": [0]}))
    parts.save_to_disk(str(tmp_path / "saved"))
    (tmp_path / "files").mkdir()
    for split, part in parts.items():
        part.to_parquet(str(tmp_path / "files" / f"{split}-00000-of-00001.parquet"))
    for split in ("train", "test"):
        theirs = datasets.load_from_disk(str(tmp_path / "saved"))[split]["text"]
        assert [d.text for d in read(tmp_path / "saved", split=split)] == list(theirs)
        assert [d.text for d in read(tmp_path / "files", split=split)] == list(theirs)
    parts["train"].save_to_disk(str(tmp_path / "one"))
    assert [d.text for d in read(tmp_path / "one")] == rows["text"]


def test_a_loading_script_is_refused_and_never_run(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "set.py").write_text(f"open({str(ran)!r}, 'w')")
    with pytest.raises(UserError, match="scripts are never run"):
        read(tmp_path / "set")
    assert not ran.exists()


def test_the_hub_needs_its_package_and_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="neither a folder nor a hub id"):
        HuggingFace(dataset="/no/such/folder").inputs()
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"gristmill\[hub\]"):
        HuggingFace(dataset="owner/name").inputs()
