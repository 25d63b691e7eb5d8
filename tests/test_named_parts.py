"""Parts of one's own, and what is said of names that are none."""

from __future__ import annotations

import abc
import os
import subprocess
import sys

import pytest

from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.named_parts import find_part, make_part

OURS = {"half": lambda value: value / 2}
CONSTANT = 7


def double(value):
    return value * 2


def test_a_part_is_ours_by_its_name_or_ones_own():
    assert find_part("half", OURS, "number") is OURS["half"]
    assert find_part(f"{__name__}:double", OURS, "number") is double


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("halve", "unknown number 'halve'; known: half, or module:function of your own"),
        ("no_such_module:f", "number 'no_such_module:f' cannot be imported: No module named 'no_such_module';"
         " it is looked for in the folder where the command is started and in PYTHONPATH"),
        (f"{__name__}:treble", "number '.*:treble' cannot be imported: module .* has no attribute 'treble'$"),
        (f"{__name__}:CONSTANT", "number '.*:CONSTANT' is 7: it must be a function, or something else to call"),
        ("./mine.py:f", "number './mine.py:f' cannot be imported: .*name a module as `import` does, such as"
         " my_module:function$"),
        (".mine:f", "number '.mine:f' cannot be imported: .*name a module as `import` does"),
        ("mine.py:f", "number 'mine.py:f' cannot be imported: .*name a module as `import` does"),
    ],
)  # fmt: skip
def test_what_is_no_part_says_what_to_do(name, message):
    with pytest.raises(UserError, match=message):
        find_part(name, OURS, "number")


def test_the_program_finds_modules_where_it_is_started(tmp_path):
    """The installed command, unlike `python -m`, begins with its own folder and not with the present one."""
    (tmp_path / "mine.py").write_text("def style(responses):\n    return responses.correct\n")
    program = (
        "import sys; sys.path.remove(''); from pixel_reasoner_jax.commands import cli, program;"
        "from pixel_reasoner_jax.named_parts import find_part;"
        "cli.main = lambda: find_part('mine:style', {}, 'term').__name__ != 'style'; sys.exit(program.main())"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.getcwd()},
        capture_output=True,
        text=True,
    )
    assert (ended.returncode, ended.stderr) == (0, "")


class Base(abc.ABC):
    @abc.abstractmethod
    def run(self):
        pass


class Lacking(Base):
    pass


class Sound(Base):
    def run(self):
        return 1


class Asking(Sound):
    def __init__(self, size):
        self.size = size


def test_a_class_of_ones_own_is_made_or_says_what_it_lacks():
    assert make_part(f"{__name__}:Sound", {}, "thing", Base, "house.Base").run() == 1
    for name, message in (
        ("Lacking", "thing '.*:Lacking' lacks run: a class of house.Base must define them"),
        ("Asking", "thing '.*:Asking' must be made without arguments: missing a required argument: 'size'"),
        ("double", "thing '.*:double' must be made without arguments: missing a required argument: 'value'"),
        ("test_a_part_is_ours_by_its_name_or_ones_own", "makes a NoneType, which is no house.Base"),
    ):
        with pytest.raises(UserError, match=message):
            make_part(f"{__name__}:{name}", {}, "thing", Base, "house.Base")
