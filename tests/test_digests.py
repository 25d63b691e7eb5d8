"""A folder whose files changed on the disk is told from one that is whole."""

from __future__ import annotations

import json

import pytest

from pixel_reasoner_jax import digests


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "long").write_bytes(bytes(range(256)) * 100)
    (tmp_path / "a" / "short").write_text("x")
    (tmp_path / "empty").touch()
    digests.write_digests(tmp_path, "a folder")
    return tmp_path


def test_a_folder_as_it_was_is_whole(folder):
    (folder / "a" / "later").write_text("more")
    assert digests.find_damage(folder, "a folder") is None


@pytest.mark.parametrize("bit", [0, 1234, 8 * 25_599 + 7])
def test_every_flipped_bit_is_found(folder, bit):
    file = folder / "a" / "b" / "long"
    content = bytearray(file.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    file.write_bytes(content)
    assert digests.find_damage(folder, "a folder") == "a/b/long has changed"


def test_flipped_bits_of_the_digests_are_found(folder):
    file = folder / digests.FILE
    content = file.read_bytes()
    for position in range(len(content)):
        flipped = bytearray(content)
        flipped[position] ^= 1 << position % 8
        file.write_bytes(flipped)
        assert digests.find_damage(folder, "a folder"), flipped
    file.write_bytes(content)
    assert digests.find_damage(folder, "a folder") is None


def test_what_is_missing_or_of_another_length_is_said(folder):
    (folder / "a" / "b" / "long").write_bytes(b"cut")
    assert digests.find_damage(folder, "a folder") == "a/b/long has 3 bytes, and had 25600"
    (folder / "a" / "b" / "long").unlink()
    assert digests.find_damage(folder, "a folder") == "a/b/long is missing"
    (folder / "a" / "b" / "long").mkdir()
    assert digests.find_damage(folder, "a folder") == "a/b/long cannot be read: Is a directory"
    (folder / digests.FILE).unlink()
    with pytest.raises(FileNotFoundError):
        digests.find_damage(folder, "a folder")


def test_several_processes_look_at_all_files_together(folder):
    (folder / "a" / "short").write_text("y")
    found = [digests.find_damage(folder, "a folder", share, 3) for share in range(3)]
    assert sorted(filter(None, found)) == ["a/short has changed"]


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"files":{}}', '{"files":[]}', '{"files":{"a":1}}', "[" * 100_000]
)
def test_digests_that_say_nothing_are_damaged(folder, content):
    (folder / digests.FILE).write_text(content)
    assert digests.find_damage(folder, "a folder") == "digests.json is damaged"


def test_a_folder_under_the_name_of_another_is_told(folder):
    assert digests.find_damage(folder, "7") == "it is 'a folder' by its digests.json, moved to '7'"
    earlier = json.loads((folder / digests.FILE).read_text())
    del earlier["name"]
    (folder / digests.FILE).write_text(json.dumps(earlier))
    assert digests.find_damage(folder, "7") is None
