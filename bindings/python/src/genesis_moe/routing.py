"""What a router says: which experts each token goes to, and how much of each."""

from __future__ import annotations

from typing import Any, NamedTuple


class Routing(NamedTuple):
    """The routing of T tokens over E experts in K slots per token.

    NumPy arrays or torch tensors, as the hidden states were. Absent slots (a budgeted
    token that needs fewer experts) hold the index E and the weight 0.
    """

    index: Any
    """[T, K] int64: the experts of each token, best first."""
    weights: Any
    """[T, K] float32 (float64 for float64 input): the gates."""
    logits: Any
    """[T, E], dtype of the weights: -u (hamiltonian) or the linear logits."""
    counts: Any
    """[E] int64: the number of tokens that chose each expert."""
