"""`mitosis`: does growth pay?

A small byte-level language model starts with few experts and lets them split, against as many
experts from the start, as few to the end, splits at random times and splits of random experts.
The text, the model, its training and the checkpoints are those of the study `compare`.
"""

from genesis_moe.studies.mitosis.command import add_arguments, run

__all__ = ["add_arguments", "run"]
