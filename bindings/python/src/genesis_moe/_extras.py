"""What the optional parts of the package need."""

from __future__ import annotations

# The same as in pyproject.toml, whose metadata are not there in a checkout that is not installed.
EXTRAS = {
    "torch": ("torch>=2.6",),
    "transformers": ("torch>=2.6", "transformers>=5.7"),
    "plots": ("matplotlib>=3.8", "rich>=13"),
}


def install_command(extra: str) -> str:
    """The command for what an extra needs. It does not name this package, which is on no index."""
    return "pip install " + " ".join(f"'{requirement}'" for requirement in EXTRAS[extra])
