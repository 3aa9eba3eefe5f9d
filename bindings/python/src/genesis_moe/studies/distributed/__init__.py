"""`distributed`: is it the same training in 1, 2 and 4 processes?

The smoke tier of the study `compare`, its model, text, batches and training code, with the
batch cut between processes: replicated (DDP), sharded (FSDP2) and with the experts spread.
"""

from genesis_moe.studies.distributed.command import main

__all__ = ["main"]
