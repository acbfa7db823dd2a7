"""The whole tree: nothing belongs to one machine; README, changelog and Makefile agree."""

import os
import re

import pytest

from tests.repo.tree import ROOT, make_targets, project_files, pyproject

# Each is put together from pieces, so that this file does not match itself.
FORBIDDEN = {
    "a path of one machine": re.compile(
        r"(?<![\w.$}>-])/" + r"(?:work/|tmp/v\b|tmp/brief|root/|home/\w+/|Users/\w+/)"
    ),
    "a path beside the checkout": re.compile(r"\.\./" + r"shared\b"),
    "the host of a package registry": re.compile(
        r"\b(?:" + r"pypi\.(?:org|python)|files\.pythonhosted\.|registry\.npmjs\.|crates\.io|"
        r"proxy\.golang\.|rubygems\.org|ghcr\.io|registry-1\.docker\." + r")",
        re.IGNORECASE,
    ),
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_file_names(what: str) -> None:
    found = []
    for path in project_files():
        text = path.read_bytes().decode("utf-8", errors="replace")
        for number, line in enumerate(text.splitlines(), start=1):
            if FORBIDDEN[what].search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}")
    assert found == []


@pytest.mark.parametrize(
    ("what", "line"),
    [
        ("a path of one machine", "see /" + "work/main/limiter"),
        ("a path of one machine", "#!/" + "tmp/v/bin/python"),
        ("a path of one machine", '"/' + 'home/ann/limiter"'),
        ("a path beside the checkout", ".." + "/shared/data"),
        ("the host of a package registry", "https://" + "pypi" + ".org/simple"),
        ("the host of a package registry", "files." + "pythonhosted.org"),
    ],
)
def test_the_patterns_catch(what: str, line: str) -> None:
    assert FORBIDDEN[what].search(line)


@pytest.mark.parametrize(
    "line", ["homework/", "a/work/b", "tmp/value", "$HOME/limiter", "/var/lib"]
)
def test_the_patterns_allow(line: str) -> None:
    assert [what for what, pattern in FORBIDDEN.items() if pattern.search(line)] == []


def test_text_files_end_with_one_newline_and_have_no_trailing_blanks() -> None:
    found = []
    for path in project_files():
        content = path.read_bytes()
        if b"\0" in content or not content or "vendor" in path.parts or path.suffix == ".svg":
            continue
        if not content.endswith(b"\n") or content.endswith(b"\n\n"):
            found.append(f"{path.relative_to(ROOT)}: end of file")
        if re.search(rb"[ \t\r]\n", content):
            found.append(f"{path.relative_to(ROOT)}: trailing blanks")
    assert found == []


def test_scripts_with_a_shebang_are_executable() -> None:
    scripts = [path for path in project_files() if path.read_bytes().startswith(b"#!")]
    assert ROOT / ".ci" / "run" in scripts
    assert [str(path) for path in scripts if not os.access(path, os.X_OK)] == []


def test_the_changelog_tells_what_this_version_is() -> None:
    headings = re.findall(
        r"^## \[([^\]]+)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert headings[0] == "Unreleased" or headings[0] == pyproject()["project"]["version"]
    assert len(headings) == len(set(headings))


def test_readme_names_only_targets_that_make_has() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    code = re.findall(r"```.*?```|`[^`\n]+`", readme, flags=re.DOTALL)
    named = {
        target
        for block in code
        for target in re.findall(r"(?:^|[`\s;&])make ([a-z][a-z-]*)", block)
    }
    assert {"run", "test"} <= named
    assert named <= make_targets()
