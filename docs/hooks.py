"""What mkdocs does not do itself: the C reference from the header, Sphinx roles in docstrings, a study's figures."""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

FIGURES = Path(__file__).resolve().parents[1] / "bench" / "scale" / "figures"
HEADER = Path(__file__).resolve().parents[1] / "include" / "genesis_moe.h"
MARK = "<!-- from genesis_moe.h -->"
SECTION = re.compile(r"/\* -+ (?P<title>[\w ,-]+) \*/")
COMMENT = re.compile(r"/\*(?P<text>.*?)\*/\n(?P<code>(?:(?!/\*|\n\n).*\n)*(?:.*\n)*?)(?=\n)", re.S)


ROLE = re.compile(r":(?:class|meth|func|mod|attr):(?=<code>)")


def on_files(files: Any, config: Any) -> Any:
    """The hook for the list of files: figures stay where the study wrote them."""
    for figure in sorted(FIGURES.glob("*.png")):
        files.append(File.generated(config, f"figures/{figure.name}", abs_src_path=str(figure)))
    return files


def on_page_content(html: str, **_: Any) -> str:
    """The hook for each page's HTML: `:class:` before a name is for editors, not for readers."""
    return ROLE.sub("", html)


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """The hook for each page's text: fills docs/reference/c.md with the header."""
    return (
        markdown.replace(MARK, reference(HEADER.read_text()))
        if page.file.src_uri == "reference/c.md"
        else markdown
    )


def reference(header: str) -> str:
    """The header as a page: a heading a section, and for each declaration its comment and its text."""
    _, _, body = header.partition('extern "C" {\n#endif\n')
    body, _, _ = body.partition("#ifdef __cplusplus")
    lines = []
    for block in re.split(r"\n{2,}", body):
        if found := SECTION.fullmatch(block.strip()):
            lines += [f"## {found['title'].capitalize()}", ""]
            continue
        comment, code = split(block.strip("\n"))
        if name := name_of(code):
            lines += [f"### `{name}`", ""]
        if comment:
            lines += [comment, ""]
        if code:
            lines += ["```c", code, "```", ""]
    return "\n".join(lines)


def split(block: str) -> tuple[str, str]:
    """The comment that a block begins with, and the rest."""
    if not block.startswith("/*"):
        return "", block
    comment, _, code = block.partition("*/")
    text = re.sub(r"^(/\*| \*) ?", "", comment, flags=re.M).strip()
    return text.replace("<", "&lt;").replace("*", "\\*"), code.strip("\n")


def name_of(code: str) -> str | None:
    """The function, else the struct, that a block declares."""
    patterns = (
        r"\b(gmoe_\w+)\(",
        r"^\} (gmoe_\w+);",
        r"typedef struct \w+ (gmoe_\w+);",
        r"typedef \w+ (gmoe_\w+);",
        r"#define (GMOE_\w+)",
    )
    for pattern in patterns:
        if found := re.search(pattern, code, re.M):
            return found[1]
    return None
