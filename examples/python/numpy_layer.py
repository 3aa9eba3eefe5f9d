"""Routing and experts on NumPy arrays: no torch is imported."""

import numpy as np

from genesis_moe import functional

rng = np.random.default_rng(0)
T, H, intermediate, E, K = 6, 16, 32, 4, 2
x = rng.standard_normal((T, H), dtype=np.float32)
centroids = rng.standard_normal((E, H), dtype=np.float32)
gate_up_proj = rng.standard_normal((E, 2 * intermediate, H), dtype=np.float32) / 4
down_proj = rng.standard_normal((E, H, intermediate), dtype=np.float32) / 6

routing = functional.route(x, centroids, options=functional.RouterOptions(top_k=K))
y = functional.experts(x, routing.index, routing.weights, gate_up_proj, down_proj)
print(
    "experts of the first token:",
    routing.index[0],
    "with weights",
    routing.weights[0].round(3),
)
print("tokens of each expert:", routing.counts)
print("output:", y.shape, y.dtype)
