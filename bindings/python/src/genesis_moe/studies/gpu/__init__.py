"""What can only be known on a GPU, in one unattended run: ``make gpu``.

Each step is a module that runs in a process of its own under a time limit, so that one
that fails, hangs or loses the device does not hide the others:

==============  ================================================================================
``facts``         driver, versions, clocks, power limit
``correctness``   every operation against float64 on the CPU: shapes, dtypes, flags, determinism
``graphs``        forward, backward and update captured in a CUDA graph and replayed
``tests``         the tests of PyTorch and transformers on CUDA (bindings/python/tests/cuda)
``inference``     few tokens and many small experts, without gradients; few tokens beside reading the weights
``benchmark``     the layer beside grouped_mm and dense products, up to 32768 tokens
``sanitizer``     compute-sanitizer's memcheck, racecheck and synccheck over small shapes
``hopper``        the experts again with ``GENESIS_MOE_EXPERT_KERNELS=hopper``, and which kernels ran
``hopper_benchmark``  the benchmark again with them
``hopper_plain``  only when it is asked for: the same with ``GENESIS_MOE_EXPERT_ORDER=plain``
``energy``        only when it is asked for (``make gpu-energy``): the counter's updates, a minute idle and one
                  under load by the counter and by the integral of power, J/token of a layer, and a trace
==============  ================================================================================

Where the kernels for Hopper fail: the steps before them do not use them; ``--steps facts,hopper`` runs
them alone, each case names what differs, and a kernel that waits for ever ends itself after 20 seconds.
"""
