"""The documents: they are there, their links lead somewhere, and each ADR has its five parts."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.repo.source import ROOT, files, relative

DOCUMENTS = files(".md")
ADRS = tuple(path for path in files(".md", under="docs/adr") if path.name[0].isdigit())
LINK = re.compile(r"\[[^\]]*\]\((?P<target>[^)\s]+)\)")
HEADING = re.compile(r"^#+ +(?P<text>.+)$", re.MULTILINE)
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def anchors(document: Path) -> set[str]:
    """Returns the anchors of a document's headings, as GitHub names them."""
    found = set()
    for match in HEADING.finditer(FENCE.sub("", document.read_text())):
        text = re.sub(r"[`*]", "", match["text"]).strip().lower()
        found.add(re.sub(r"[^\w\- ]", "", text).replace(" ", "-"))
    return found


@pytest.mark.parametrize(
    "name",
    ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "LICENSE"],
)
def test_the_documents_are_there(name: str) -> None:
    assert (ROOT / name).stat().st_size > 200


@pytest.mark.parametrize("document", DOCUMENTS, ids=relative)
def test_links_within_the_tree_lead_somewhere(document: Path) -> None:
    for match in LINK.finditer(FENCE.sub("", document.read_text())):
        target, _, anchor = match["target"].partition("#")
        if "://" in target or target.startswith("mailto:"):
            continue
        place = (document.parent / target).resolve() if target else document
        assert place.is_relative_to(ROOT), match[0]
        assert place.exists(), match[0]
        if anchor:
            assert anchor in anchors(place), match[0]


def test_the_changelog_has_an_unreleased_section_with_entries() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    _, _, rest = text.partition("\n## [Unreleased]\n")
    assert re.search(r"^### (Added|Changed|Deprecated|Removed|Fixed|Security)$", rest, re.MULTILINE)
    assert re.search(r"^- ", rest, re.MULTILINE)


@pytest.mark.parametrize("adr", ADRS, ids=relative)
def test_an_adr_has_its_parts_and_is_decided(adr: Path) -> None:
    text = adr.read_text()
    parts = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert parts == ["Status", "Context", "Decision", "Consequences", "Rejected"]
    assert re.search(r"^## Status\n\n(Accepted|Superseded by )", text, re.MULTILINE)
    assert len(text.split()) < 700, "longer than a page"


def test_adr_numbers_are_unique_and_without_gaps() -> None:
    numbers = [int(path.name[:4]) for path in ADRS]
    assert numbers == list(range(1, len(numbers) + 1))


def test_the_architecture_links_to_every_room() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    rooms = [p.name for p in (ROOT / "tunneld").iterdir() if (p / "__init__.py").exists()]
    assert not [room for room in rooms if f"tunneld/{room}" not in text]
