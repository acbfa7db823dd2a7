"""How scripts are joined from their pieces, and how errors find the way back to them."""

from __future__ import annotations

from pathlib import Path

import pytest

from limiter.errors import ScriptError
from limiter.redis.scripts import Script, ScriptSet
from tests.support.clock import DRIVEN_NOW, DrivenClock
from tests.support.driver import Driver
from tests.support.servers import Server


def write(folder: Path, files: dict[str, str]) -> Path:
    (folder / "lib").mkdir()
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


def test_a_piece_takes_the_place_of_its_first_include_and_comes_once(tmp_path: Path) -> None:
    folder = write(
        tmp_path,
        {
            "main.lua": '-- include "a"\n-- include "b"\nreturn 3\n',
            "lib/a.lua": '-- include "b"\nlocal a = 2\n',
            "lib/b.lua": "local b = 1\n",
        },
    )
    script = ScriptSet(folder)["main"]
    assert script.text == "local b = 1\nlocal a = 2\nreturn 3\n"
    assert script.origins == (("lib/b.lua", 1), ("lib/a.lua", 2), ("main.lua", 3))


def test_an_indented_include_serves_its_function_alone(tmp_path: Path) -> None:
    folder = write(
        tmp_path,
        {
            "main.lua": (
                '-- include "a"\n'
                "local function seldom()\n"
                '  -- include "a"\n'
                '  -- include "b"\n'
                "end\n"
                '-- include "b"\n'
            ),
            "lib/a.lua": "local a = 1\n",
            "lib/b.lua": '-- include "a"\nlocal b = 2\n',
        },
    )
    # What is known outside is known inside, and not the other way about.
    assert ScriptSet(folder)["main"].text.splitlines() == [
        "local a = 1",
        "local function seldom()",
        "local b = 2",
        "end",
        "local b = 2",
    ]


def test_a_missing_include_is_named_with_its_file_and_line(tmp_path: Path) -> None:
    folder = write(tmp_path, {"main.lua": '-- one\n-- include "nowhere"\n'})
    with pytest.raises(ScriptError, match=r"^main\.lua:2: no such include: 'nowhere'$"):
        ScriptSet(folder)


def test_a_missing_include_of_a_piece_is_named_with_the_piece(tmp_path: Path) -> None:
    files = {"main.lua": '-- include "a"\n', "lib/a.lua": '\n\n-- include "nowhere"\n'}
    with pytest.raises(ScriptError, match=r"^lib/a\.lua:3: no such include: 'nowhere'$"):
        ScriptSet(write(tmp_path, files))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"main.lua": '-- include "a"\n', "lib/a.lua": '-- x\n-- include "a"\n'},
            r"^lib/a\.lua:2: circular include: a -> a$",
        ),
        (
            {
                "main.lua": '-- include "a"\n',
                "lib/a.lua": '-- include "b"\n',
                "lib/b.lua": '-- x\n-- y\n-- include "a"\n',
            },
            r"^lib/b\.lua:3: circular include: a -> b -> a$",
        ),
    ],
)
def test_a_circular_include_is_named_with_its_way(
    tmp_path: Path, files: dict[str, str], message: str
) -> None:
    with pytest.raises(ScriptError, match=message):
        ScriptSet(write(tmp_path, files))


def test_every_line_of_every_script_has_its_origin(scripts: ScriptSet) -> None:
    for name in scripts.names:
        script = scripts[name]
        assert len(script.origins) == script.text.count("\n")
        assert script.origins[-1][0] == f"{name}.lua"


FAILING_NOW = {
    "an index of nothing": "local nothing\n  return nothing.field",
    "a wrong call": "local zero = 0\n  return redis.call('HGET', KEYS[1])",
    "an explicit error": "local zero = 0\n  error('out of order')",
}


@pytest.mark.parametrize("failure", FAILING_NOW)
def test_an_error_names_the_piece_and_its_line(
    real_server: Server, clock: DrivenClock, scripts: ScriptSet, failure: str
) -> None:
    Driver(real_server.client, scripts).load()
    piece = f"local function now_ms(clock)\n  {FAILING_NOW[failure]}\nend\n"
    driver = Driver(real_server.client, ScriptSet(pieces={"now": piece}))
    for call in (driver.check, driver.usage):
        with pytest.raises(ScriptError, match=r"^lib/now\.lua:3: "):
            call()


def test_an_error_in_an_entry_point_names_its_line(real_server: Server, tmp_path: Path) -> None:
    text = '-- header\n-- include "args"\nlocal sum = 1\nreturn sum.of.nothing\n'
    (tmp_path / "load_chat.lua").write_text(text)
    driver = Driver(real_server.client, ScriptSet(tmp_path, pieces={"args": "local a\nlocal b\n"}))
    with pytest.raises(ScriptError, match=r"^load_chat\.lua:4: "):
        driver.load_chat("c1")


def test_an_error_without_a_line_is_named_with_the_script() -> None:
    script = Script("check", "return 1\n", (("check.lua", 1),))
    assert str(script.locate("ERR out of memory")) == "check: ERR out of memory"


def test_the_driven_clock_replaces_the_piece_and_nothing_else() -> None:
    driven = ScriptSet(pieces={"now": DRIVEN_NOW})["check"]
    lines = [
        line
        for line, (file, _) in zip(driven.text.splitlines(), driven.origins, strict=True)
        if file == "lib/now.lua"
    ]
    assert "\n".join(lines) + "\n" == DRIVEN_NOW
    rest = [origin for origin in driven.origins if origin[0] != "lib/now.lua"]
    usual = [origin for origin in ScriptSet()["check"].origins if origin[0] != "lib/now.lua"]
    assert rest == usual
