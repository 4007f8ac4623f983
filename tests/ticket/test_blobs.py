"""The names by which the Hub knows files are those that git and SHA-256 give them."""

import pytest

from hf_tickets.ticket.blobs import is_blob

# Of "hello\n": what `git hash-object` and `sha256sum` print.
GIT = "ce013625030ba8dba906f756967f9e9ca394464a"
SHA_256 = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"


@pytest.mark.parametrize("name", [GIT, SHA_256])
def test_a_file_has_the_content_of_its_name(tmp_path, name):
    (tmp_path / "right").write_text("hello\n")
    (tmp_path / "wrong").write_text("hullo\n")
    assert is_blob(tmp_path / "right", name) is True
    assert is_blob(tmp_path / "wrong", name) is False


@pytest.mark.parametrize("name", ["README.md", GIT[:39], SHA_256 + "0", GIT.upper(), ""])
def test_other_names_say_nothing(tmp_path, name):
    (tmp_path / "file").write_text("hello\n")
    assert is_blob(tmp_path / "file", name) is None
