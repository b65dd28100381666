import os

import pytest

from stages.native_notes import NOTES, without_notes


def test_notes_are_left_out_and_all_else_comes_out(capfd: pytest.CaptureFixture[str]) -> None:
    with without_notes():
        for note in NOTES:
            os.write(2, note + b" and so on\n")
        os.write(2, b"ERROR: a real one\n")
    os.write(2, b"afterwards\n")
    assert capfd.readouterr().err == "ERROR: a real one\nafterwards\n"


def _break() -> None:
    os.write(2, b"why it is broken")
    raise ValueError("broken")


def test_what_led_to_an_exception_comes_out(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="broken"), without_notes():
        _break()
    assert capfd.readouterr().err == "why it is broken"
