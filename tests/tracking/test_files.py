"""Test how artifacts are written: whole, or not at all."""

import os

import pytest

from nnexp.tracking import files


def test_what_a_killed_process_left_of_a_part_goes_when_the_part_is_written_with_other_content(
    tmp_path, monkeypatch
):
    class Killed(BaseException):
        pass

    def killed(*arguments, **keywords):
        raise Killed

    folder = os.open(tmp_path, os.O_RDONLY)
    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(Killed):
        files.write_file(folder, f"part-000000.001.{'a' * 16}.parquet", b"some", is_synced=False)
    monkeypatch.undo()
    assert [path.suffix for path in tmp_path.iterdir()] == [".half"]
    files.write_file(folder, f"part-000000.001.{'b' * 16}.parquet", b"more", is_synced=False)
    os.close(folder)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        f"part-000000.001.{'b' * 16}.parquet": b"more"
    }
