"""Mitosis: experts that split where the data is dense.

``gm.MoE(..., max_experts=16)`` keeps slots for 16 experts. An expert that is overloaded, whose
tokens fall into two groups, and whose two groups pull its weights in opposite directions,
becomes a *clan*: the router sees what it saw, and inside the clan a hyperplane sends each token
to one of two children, which start as copies. So a split changes neither the function nor the
FLOPs, and the children then learn apart. See docs/concepts/mitosis.md.
"""

from genesis_moe.mitosis.clans import Clans
from genesis_moe.mitosis.growth import split
from genesis_moe.mitosis.options import MitosisOptions
from genesis_moe.mitosis.report import MitosisEvent, MitosisReport

__all__ = ["Clans", "MitosisEvent", "MitosisOptions", "MitosisReport", "split"]
