"""The corpus: deterministic, split by document, without repeats across the split."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from genesis_moe.studies.compare.corpus import (
    PACKAGES_LEFT_OUT,
    SEPARATOR,
    Corpus,
    CorpusError,
    Document,
    Roots,
    build,
)

LICENCE = "Permission is granted, in these words which many documents share, to do whatever you like.\n"


def paragraph(name: str, number: int) -> str:
    return f"{name} {number}: " + " ".join(f"{name}{number}word{i}" for i in range(12))


def text(name: str) -> str:
    return LICENCE + "\n" + "\n\n".join(paragraph(name, number) for number in range(6)) + "\n"


@pytest.fixture
def roots(tmp_path: Path) -> Roots:
    """Forty documents a domain, as an interpreter and wheels would have them."""
    library, packages = tmp_path / "lib", tmp_path / "site"
    files = {
        library / "pydoc_data" / "topics.py": f"topics = {{f't{{i}}': {text('topic')!r} for i in range(2)}}"
    }
    for i in range(40):
        files[library / f"m{i}.py"] = text(f"python{i}")
        files[packages / f"torch/include/h{i}.h"] = text(f"cpp{i}")
        files[packages / f"p{i}-1.dist-info/METADATA"] = f"Name: p{i}\n\n" + text(f"prose{i}")
        files[packages / f"p{i}-1.dist-info/sbom.json"] = text(f"tables{i}")
        files[packages / f"p{i}-1.dist-info/licenses/LICENSE"] = text(f"licences{i}")
    for path, content in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return Roots(library, packages)


def built(roots: Roots, **limits: int) -> Corpus:
    return build(roots, **{"minimum_training_bytes": 1000, "minimum_held_out_bytes": 100, **limits})


def paragraphs(part: np.ndarray) -> set[bytes]:
    return {p.strip() for document in part.tobytes().split(SEPARATOR) for p in document.split(b"\n\n")}


def test_packages_that_are_left_out_change_nothing(roots):
    """Such as this one, whose metadata names the folder that it was installed from."""
    first = built(roots)
    for package in PACKAGES_LEFT_OUT:
        folder = roots.site_packages / f"{package}-2.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Name: {package}\n\n" + text(package))
        (folder / "direct_url.json").write_text(text(package + "url"))
        (folder / "LICENSE").write_text(text(package + "licence"))
    assert built(roots).sha256 == first.sha256
    (roots.site_packages / "gguf_like-2.dist-info").mkdir()
    (roots.site_packages / "gguf_like-2.dist-info/METADATA").write_text("Name: x\n\n" + text("x"))
    assert built(roots).sha256 != first.sha256


def test_same_files_same_bytes(roots, tmp_path):
    first = built(roots)
    (tmp_path / "moved").mkdir()
    moved = Roots(
        roots.standard_library.rename(tmp_path / "moved/a"), roots.site_packages.rename(tmp_path / "moved/b")
    )
    assert built(moved).sha256 == first.sha256


def test_one_byte_changes_the_checksum(roots):
    first = built(roots).sha256
    path = roots.standard_library / "m7.py"
    path.write_text(path.read_text().replace("word3", "word4", 1))
    assert built(roots).sha256 != first


def test_nothing_is_on_both_sides_of_the_split(roots):
    corpus = built(roots)
    for domain in corpus.domains:
        common = paragraphs(corpus.training[domain]) & paragraphs(corpus.held_out[domain])
        assert not common, domain


def test_a_document_is_whole_on_one_side(roots):
    corpus = built(roots)
    for i in range(40):
        sides = [
            f"python{i} ".encode() in part["python"].tobytes() for part in (corpus.training, corpus.held_out)
        ]
        assert sides in ([True, False], [False, True])
        assert sides[1] == Document(f"m{i}.py", b"").held_out


def test_a_shared_paragraph_stays_once_and_in_training(roots):
    corpus = built(roots)
    shared = LICENCE.strip().encode()
    for domain in corpus.domains:
        assert corpus.training[domain].tobytes().count(shared) == 1
        assert corpus.held_out[domain].tobytes().count(shared) == 0


def test_equal_documents_and_binary_ones_are_left_out(roots):
    before = built(roots).documents["python"]
    (roots.standard_library / "copy.py").write_text((roots.standard_library / "m1.py").read_text() + "\n\n")
    (roots.standard_library / "nul.py").write_bytes(b"x" * 100 + b"\x00")
    (roots.standard_library / "latin.py").write_bytes(b"\xe9" * 100 + b" more text")
    (roots.standard_library / "test").mkdir()
    (roots.standard_library / "test/left_out.py").write_text(text("test"))
    assert sum(built(roots).documents["python"]) == sum(before)


def test_rules_of_punctuation_are_cut_short(roots):
    for document in roots.standard_library.glob("*.py"):
        document.write_text(document.read_text() + "\n\n" + "=" * 300 + "\n" + "ab" * 40 + " ======== ")
    text = b"".join(part.tobytes() for part in built(roots).training.values())
    assert b"========" in text
    assert b"=========" not in text
    assert b"ab" * 40 in text


def test_a_domain_that_is_too_small_is_named(roots):
    for path in (roots.site_packages / "torch/include").iterdir():
        path.unlink()
    with pytest.raises(CorpusError, match=r"domain 'cpp': 0 training bytes .* want at least 1000"):
        built(roots)


def test_saved_and_loaded(roots, tmp_path):
    corpus = built(roots)
    corpus.save(tmp_path / "corpus.npz")
    again = Corpus.load(tmp_path / "corpus.npz")
    assert again.describe() == corpus.describe()


def test_a_damaged_file_is_refused(corpus, tmp_path):
    path = tmp_path / "corpus.npz"
    corpus.save(path)
    with np.load(path) as file:
        arrays = {name: file[name].copy() for name in file.files}
    arrays["cpp/training"][5] ^= 1
    np.savez(path, **arrays)
    with pytest.raises(CorpusError, match="SHA-256"):
        Corpus.load(path)


def test_this_environment_holds_enough():
    corpus = build()
    training = sum(part.size for part in corpus.training.values())
    assert training > 3_000_000
