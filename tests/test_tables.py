"""Tables as CSV files."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from CardiacLDMLib import tables
from CardiacLDMLib.errors import VolumeError


def test_no_cell_of_a_table_is_a_formula() -> None:
    rows = [
        ["=1+1", "@x", "+4", "-2.5e3"],
        ["-rf", "a=b", "", '=HYPERLINK("http://x")\nnext'],
        ["\t=1", "-inf", "1", "x"],
    ]
    read = list(csv.reader(io.StringIO(tables.csv_text(rows), newline="")))
    assert read == [
        ["'=1+1", "'@x", "+4", "-2.5e3"], ["'-rf", "a=b", "", '\'=HYPERLINK("http://x")\nnext'],
        ["'\t=1", "-inf", "1", "x"],
    ]  # fmt: skip


@pytest.mark.parametrize(
    "content",
    [
        b"Case;Labels\na;1.nii\n", b"\xef\xbb\xbfcase,labels\r\n\r\n a , 1.nii \r\n",
        b"case\tlabels\na\t1.nii\textra\n",
    ],
)  # fmt: skip
def test_tables_are_read_as_spreadsheets_write_them(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    assert tables.read_rows(tmp_path / "t.csv", VolumeError, ("case",), "case") == [{"case": "a", "labels": "1.nii"}]


def test_old_spreadsheets_have_their_own_letters(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes("case\nMüller\n".encode("cp1252"))
    assert tables.read_rows(tmp_path / "t.csv", VolumeError, ("case",), "case") == [{"case": "Müller"}]


@pytest.mark.parametrize("content", [b"", b"other\n1\n", b"case\0\n"])
def test_what_is_no_table_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(VolumeError, match=r"t\.csv"):
        tables.read_rows(tmp_path / "t.csv", VolumeError, ("case",), "case")
    with pytest.raises(VolumeError, match=r"none\.csv"):
        tables.read_rows(tmp_path / "none.csv", VolumeError, ("case",), "case")
