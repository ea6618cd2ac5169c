"""The documents: they are there, their links lead somewhere, and each ADR has its five parts."""

from __future__ import annotations

import re
from pathlib import Path

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


def test_the_documents_are_there() -> None:
    wanted = ("README", "ARCHITECTURE", "CONTRIBUTING", "CHANGELOG", "SECURITY")
    for name in (*(f"{stem}.md" for stem in wanted), "LICENSE"):
        assert (ROOT / name).stat().st_size > 200, name


def test_links_within_the_tree_lead_somewhere() -> None:
    links = [
        (document, match["target"])
        for document in DOCUMENTS
        for match in LINK.finditer(FENCE.sub("", document.read_text()))
        if "://" not in match["target"] and not match["target"].startswith("mailto:")
    ]
    assert links
    assert not [f"{relative(document)}: {link}" for document, link in links if dead(document, link)]


def dead(document: Path, link: str) -> bool:
    target, _, anchor = link.partition("#")
    place = (document.parent / target).resolve() if target else document
    if not place.is_relative_to(ROOT) or not place.exists():
        return True
    return bool(anchor) and anchor not in anchors(place)


def test_the_changelog_has_an_unreleased_section_with_entries() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    _, _, rest = text.partition("\n## [Unreleased]\n")
    assert re.search(r"^### (Added|Changed|Deprecated|Removed|Fixed|Security)$", rest, re.MULTILINE)
    assert re.search(r"^- ", rest, re.MULTILINE)


def test_an_adr_has_its_parts_and_is_decided() -> None:
    for adr in ADRS:
        text, name = adr.read_text(), relative(adr)
        parts = re.findall(r"^## (.+)$", text, re.MULTILINE)
        assert parts == ["Status", "Context", "Decision", "Consequences", "Rejected"], name
        decided = re.search(r"^## Status\n\n(Accepted|Superseded by )", text, re.MULTILINE)
        assert decided, name
        assert len(text.split()) < 700, f"{name}: longer than a page"


def test_adr_numbers_are_unique_and_without_gaps() -> None:
    numbers = [int(path.name[:4]) for path in ADRS]
    assert numbers == list(range(1, len(numbers) + 1))


def test_the_architecture_links_to_every_room() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    rooms = [p.name for p in (ROOT / "tunneld").iterdir() if (p / "__init__.py").exists()]
    assert not [room for room in rooms if f"tunneld/{room}" not in text]
