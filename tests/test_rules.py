"""Rules, budgets and files that code and docs cite: each is defined, shown by a test, and there."""

import io
import os
import re
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MUTANTS = ROOT / "tests" / "simulation" / "mutants"
HERE = Path(__file__).resolve().relative_to(ROOT).as_posix()

READ = (".py", ".md", ".proto", ".toml", ".yml")
SKIPPED = ("_pb2.py", "_pb2_grpc.py")
"""Generated; their comments are those of the .proto files."""

FOLDERS = ("profiler", "sharder", "logstore", "coordinator", "bench", "tests", "docs")

DEFINERS = ("docs/rules.md", "docs/reference/budgets.md", "docs/requirements.md")

CITED = re.compile(
    r"([ABFGHIPRS])(?<![\w./#-].)(\d{1,2})(?:(?:-|–| to )\1(\d{1,2}))?((?:\.\d+)?)(?![\w-])"
)
FILE = re.compile(r"\.(?:py|md|proto)(?![\w.]|\s+import)")
NAME = re.compile(r"(?<![\w./*-])(?:\.\./)*(?:[\w.-]+/)*[\w-]+$")
"""What stands before the ending of a file's name."""
NAME_CHARS_MAX = 120
MODULE = re.compile(rf"python -m ((?:{'|'.join(FOLDERS)})(?:\.\w+)*)")
MADE = re.compile(r"^\+\+\+ (\S+)$", re.MULTILINE)
"""Files that a how-to makes or changes; tests/acceptance/howto proves that it can."""
NOTE = re.compile(r"\bnotes? (\d{4})\b")
LINK = re.compile(r"\]\(([^)\s#]*)(?:#([^)\s]+))?\)")
RULE = re.compile(
    r'^### <a id="(?P<id>\w+)"></a>(?P=id) .+\n'
    r"- \*\*Law\.\*\* (?P<law>.+)\n"
    r"- \*\*Hole\.\*\* (?P<hole>.+)\n"
    r"- \*\*Kept in\*\* (?P<kept>.+)\n"
    r"- \*\*Shown by\*\* (?P<shown>.+)$",
    re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class Rule:
    """`kept`: module -> names in it; `shown`: test files; `mutants`: numbers."""

    id: str
    kept: dict[str, list[str]]
    shown: list[str]
    mutants: list[int]


# ---- what is there -------------------------------------------------------------------------------


@cache
def files() -> frozenset[str]:
    """Each file of the repository, by its path."""
    found = []
    for folder, folders, names in os.walk(ROOT):
        hidden = (f for f in folders if f.startswith(".") and f != ".ci")
        folders[:] = sorted(set(folders) - {*hidden, "__pycache__", "node_modules", "build"})
        found += [(Path(folder) / name).relative_to(ROOT).as_posix() for name in names]
    return frozenset(found)


@cache
def endings() -> frozenset[str]:
    """Each ending of a path, from a folder or name on: docs name files by their last parts."""
    parts = (path.split("/") for path in files())
    return frozenset("/".join(p[i:]) for p in parts for i in range(len(p)))


@cache
def texts() -> dict[str, str]:
    """Code and docs, this file apart: it cites what is not there."""
    kept = {}
    for path in sorted(files() - {HERE}):
        named = path.endswith(READ) or Path(path).name in ("Makefile", "Dockerfile", "run")
        if named and not path.endswith(SKIPPED):
            kept[path] = (ROOT / path).read_text(encoding="utf-8")
    return kept


def rules(text: str) -> list[Rule]:
    """The blocks of docs/rules.md."""
    found = []
    for block in RULE.finditer(text):
        kept = re.findall(r"`([\w./]+)`(?: \(([^)]+)\))?", block["kept"])
        found.append(
            Rule(
                block["id"],
                {path: re.findall(r"`(\w+)`", names) for path, names in kept},
                re.findall(r"`(tests/[\w./]+)`", block["shown"]),
                numbers(block["shown"].partition("mutant")[2]),
            )
        )
    return found


def numbers(text: str) -> list[int]:
    """`30 to 37, 39` as a list."""
    found: list[int] = []
    for first, last in re.findall(r"\b(\d{2,3})(?: to (\d{2,3}))?\b", text):
        found += range(int(first), int(last or first) + 1)
    return found


@cache
def defined() -> frozenset[str]:
    """Ids of rules, budgets and requirement rows."""
    return frozenset(
        re.findall(
            r'<a id="([A-Z]\d+(?:\.\d+)?)"></a>', "".join(texts()[page] for page in DEFINERS)
        )
    )


def has_mutant(number: int) -> bool:
    """Whether a patch is named by the number, or a list of mutants has it."""
    if any(re.match(rf"{number:02}-", path.name) for path in MUTANTS.iterdir()):
        return True
    lists = (path.read_text(encoding="utf-8") for path in MUTANTS.glob("*.py"))
    return any(re.search(rf"\bnumber=0?{number}\b", text) for text in lists)


# ---- what is cited -------------------------------------------------------------------------------


def cited(text: str) -> set[str]:
    """Ids in the text, ranges (`F1-F4`) in full."""
    found = set()
    for letter, first, last, row in CITED.findall(text):
        for number in range(int(first), int(last or first) + 1):
            found.add(f"{letter}{number}{row}")
    return found


def prose(source: str) -> str:
    """Comments and strings of a Python file; `noqa` has numbers of its own."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    wanted = (t.string for t in tokens if t.type in (tokenize.COMMENT, tokenize.STRING))
    return "\n".join(text for text in wanted if "noqa" not in text)


def undefined(path: str, text: str) -> set[str]:
    """Ids that the file cites and nothing defines."""
    found = cited(text) - defined()
    if found and path.endswith(".py"):  # a name in the code may look like an id
        found = cited(prose(text)) - defined()
    return found


def missing(path: str, text: str) -> Iterator[str]:
    """Files, modules and design notes that the file at `path` names and that are not there."""
    made = MADE.findall(text)
    for ending in FILE.finditer(text):
        stem = NAME.search(text[max(ending.start() - NAME_CHARS_MAX, 0) : ending.start()])
        if stem is None:
            continue
        name = stem[0] + ending[0]
        if name in made:
            continue
        if path.startswith("tests/") and name.partition("/")[0] not in FOLDERS:
            continue  # a scratch file of the test
        beside = os.path.normpath(Path(path).parent / name)
        package = ROOT / name.replace(".", "/")  # `logstore.proto`
        if name not in endings() and beside not in files() and not package.is_dir():
            yield name
    for module in MODULE.findall(text):
        at = module.replace(".", "/")
        if not {f"{at}.py", f"{at}/__main__.py"} & files():
            yield f"python -m {module}"
    for number in NOTE.findall(text):
        if not any(p.startswith(f"docs/design/{number}-") for p in files()):
            yield f"note {number}"


def anchors(text: str) -> set[str]:
    """What a link into a Markdown page may name."""
    prose_only = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    titles = re.findall(r"^#+ (.*)$", prose_only, re.MULTILINE)
    bare = (re.sub(r"<[^>]*>|\]\([^)]*\)|[^\w\s-]", "", t).strip().lower() for t in titles)
    return {t.replace(" ", "-") for t in bare} | set(re.findall(r'<a id="([^"]+)">', text))


def broken_links(path: str, text: str) -> Iterator[str]:
    """Links of a Markdown page to files or headings that are not there."""
    for target, anchor in LINK.findall(re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
        if ":" in target:
            continue
        at = os.path.normpath(Path(path).parent / target) if target else path
        if not (ROOT / at).exists():
            yield target
        elif anchor and at.endswith(".md") and anchor not in anchors(texts().get(at, text)):
            yield f"{target}#{anchor}"


# ---- the checks ----------------------------------------------------------------------------------


def test_each_cited_id_is_defined() -> None:
    found = {path: ids for path, text in texts().items() if (ids := undefined(path, text))}
    assert not found, f"not in {DEFINERS}: {found}"


def test_each_rule_is_complete() -> None:
    """Law, hole, where it is kept, what shows it: a block that lacks one is not parsed."""
    page = texts()["docs/rules.md"]
    titles = re.findall(r'^### <a id="(\w+)">', page, re.MULTILINE)
    found = [rule.id for rule in rules(page)]
    assert found == titles
    assert len(set(found)) == len(found) > 30
    assert all(f"[{id_}](#{id_})" in page for id_ in found), "a rule is not in the first table"


@pytest.mark.parametrize("rule", rules(texts()["docs/rules.md"]), ids=lambda rule: rule.id)
def test_each_rule_is_kept_and_shown(rule: Rule) -> None:
    assert rule.kept
    assert rule.shown
    gone = [path for path in (*rule.kept, *rule.shown) if path not in texts()]
    assert gone == []
    absent = [
        f"{path}: {name}"
        for path, names in rule.kept.items()
        for name in names
        if not re.search(rf"\b{name}\b", texts()[path])
    ]
    assert absent == [], "names that the modules do not have"
    silent = [path for path in rule.shown if rule.id not in cited(texts()[path])]
    assert silent == [], f"tests that do not name {rule.id}"
    assert [number for number in rule.mutants if not has_mutant(number)] == []


def test_each_named_file_is_there() -> None:
    found = {path: gone for path, text in texts().items() if (gone := set(missing(path, text)))}
    assert not found, f"named and not there: {found}"


def test_each_link_leads_somewhere() -> None:
    pages = {path: text for path, text in texts().items() if path.endswith(".md")}
    found = {path: gone for path, text in pages.items() if (gone := set(broken_links(path, text)))}
    assert not found, f"links to nowhere: {found}"


# ---- the finders find ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ('"""Old (P99), new (P2)."""', {"P99"}),
        ("# a requirement, R4.9", {"R4.9"}),
        ("x = 1  # S4-S6", {"S6"}),
        ('raise ValueError("hand over (H7)")', {"H7"}),
        ("I80, P99 = 1, 2  # names, not ids", set()),
        ("from a import b  # noqa: F401", set()),
    ],
)
def test_a_planted_id_is_found(text: str, ids: set[str]) -> None:
    assert undefined("x.py", text) == ids


@pytest.mark.parametrize(
    "text",
    [
        "see `logstore/nowhere.py`",
        "(design.md, 7)",
        "`python -m bench.nothing`",
        "design note 0999",
    ],
)
def test_a_planted_file_is_found(text: str) -> None:
    assert list(missing("docs/x.md", text))
    assert not list(
        missing("docs/x.md", "`logstore/node/appends/writer.py`, note 0005, tests/test_rules.py")
    )
    assert not list(missing("docs/x.md", "+++ docs/made.md\n see `docs/made.md`"))


def test_a_planted_link_is_found() -> None:
    assert list(
        broken_links("docs/x.md", "[a](nowhere.md) [b](rules.md#P99) [c](rules.md#P9)")
    ) == [
        "nowhere.md",
        "rules.md#P99",
    ]


def test_a_rule_that_lacks_a_line_and_an_unknown_mutant_are_found() -> None:
    whole = '### <a id="P1"></a>P1 a\n- **Law.** b\n- **Hole.** c\n- **Kept in** `d.py` (`e`).\n'
    shown = "- **Shown by** `tests/f.py`; mutants 30 to 32, 41.\n"
    assert rules(whole) == []
    assert rules(whole + shown) == [Rule("P1", {"d.py": ["e"]}, ["tests/f.py"], [30, 31, 32, 41])]
    assert has_mutant(13)
    assert not has_mutant(999)
