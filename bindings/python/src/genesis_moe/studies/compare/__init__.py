"""`compare`: one small language model, trained with different routers.

Question: what does a router do to held-out loss, and what do its experts cost in FLOPs
and time? Everything but the feed-forward part is equal: tokens, their order, active
parameters, initial values; see `arms` for what differs, `corpus` for the text.
"""

from genesis_moe.studies.compare.command import add_arguments, main, run

__all__ = ["add_arguments", "main", "run"]
