"""`scale`: what expert parallelism costs on 8 to 4,096 GPUs, on paper.

An alpha-beta model of dispatch and combine with published figures of links, over routing traces of the
study `compare`; checked against all-to-alls of Gloo between local processes.
"""

from genesis_moe.studies.scale.command import add_arguments, run

__all__ = ["add_arguments", "run"]
