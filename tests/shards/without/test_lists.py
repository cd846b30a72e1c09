"""Lists of documents to leave out: what a line may be, and which lines are refused."""

from pathlib import Path

import pytest

from epochal.common.errors import RequestError
from epochal.common.text import content_key, normalise
from epochal.shards.without.lists import read_list

KEY = "0123456789abcdef" * 2


def written(tmp_path: Path, text: str) -> str:
    (tmp_path / "list.txt").write_bytes(text.encode())
    return str(tmp_path / "list.txt")


def test_a_plain_line_is_looked_for_as_a_key_an_id_and_a_text(tmp_path: Path) -> None:
    found = read_list(written(tmp_path, f"\ufeff{KEY}\r\n\n  doc7 \n{KEY.upper()}\n"))
    assert found.name == "list.txt"
    assert len(found.lines) == 3
    assert [kind for kind, _ in found.lines[0]] == ["key", "id", "text"]
    assert found.lines[1] == (("id", "doc7"), ("text", content_key(normalise("doc7"))))
    assert found.values("key") == [bytes.fromhex(KEY)]


def test_lines_are_counted_once_as_what_they_name(tmp_path: Path) -> None:
    found = read_list(written(tmp_path, f"{KEY}\ndoc7\ndoc7\nsome text\nnothing\n"))
    keys, ids = {bytes.fromhex(KEY), content_key("some text")}, {"doc7"}
    assert found.found(keys, ids) == {"key": 1, "id": 2, "text": 1, None: 1}


def test_json_lines_say_what_they_are_and_the_first_of_key_id_text_counts(tmp_path: Path) -> None:
    lines = f'{{"id": 7}}\n{{"text": "a\\nb "}}\n{{"text": "x", "id": "d", "key": "{KEY}"}}\n'
    found = read_list(written(tmp_path, lines))
    assert found.lines == ((("id", "7"),), (("text", content_key("a\nb")),), (("key", bytes.fromhex(KEY)),))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("\n \n", "is empty"),
        ('{"url": "x"}\n', "line 1: it names no document"),
        ('{"id": "x"}\n\n{"id": tru}\n', "line 3: it is not JSON"),
        ('{"id": true}\n', "line 1: its id is neither text nor a whole number"),
        ('{"key": "12"}\n', "line 1: a key has 32 hexadecimal digits"),
        ('{"id": "x"}\nplain\n', "line 2: it is not JSON"),
    ],
)
def test_what_cannot_be_read_is_refused_in_a_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        read_list(written(tmp_path, text))


def test_a_missing_list_and_bytes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="is no file"):
        read_list(str(tmp_path / "none"))
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RequestError, match="is not UTF-8"):
        read_list(str(tmp_path / "bytes"))
