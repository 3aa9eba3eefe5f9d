"""What can only be known on a GPU, in one unattended run: ``make gpu``.

Each step is a module that runs in a process of its own under a time limit, so that one
that fails, hangs or loses the device does not hide the others:

===============  ================================================================================
``facts``         driver, versions, clocks, power limit
``correctness``   every operation against float64 on the CPU: shapes, dtypes, flags, determinism
``inference``     few tokens and many small experts, without gradients
``hopper``        the experts again with the kernels for Hopper, and which kernels ran
``sanitizer``     compute-sanitizer's memcheck, racecheck, synccheck and initcheck over small shapes
``tests``         the tests of PyTorch and transformers on CUDA (bindings/python/tests/cuda)
``benchmark``     each set of our kernels, transformers' and torch's grouped products, a rival in Triton and dense
                  products in turn: speed, share of the dense rate, memory, few tokens beside reading the weights,
                  routing's share
``fp8``           experts in float8_e4m3fn, for inference, by the portable kernels and by those for Hopper: against
                  float64, and beside bfloat16 and torch's grouped products in that type
``joules``        J/token of the same, of the two orders of tiles, and of layers with and without a budget
``ncu``           Nsight Compute's counters of each kernel, where there is one and it may read them
``graphs``        forward, backward and update captured in a CUDA graph and replayed
``compare``       ``genesis-moe compare --tier h200``, as far as time is left; goes on where an earlier call ended
``energy``        only when it is asked for (``make gpu-energy``): the counter's updates, a minute idle and one
                  under load by the counter and by the integral of power, J/token of a layer, and a trace
===============  ================================================================================

Those that time nothing run side by side, before the others. A step that fails or has no time left is recorded as such.
Kernels for Hopper run in processes of their own. Where they fail, ``--steps facts,hopper`` runs them
alone, each case names what differs, and a kernel that waits for ever ends itself after 20 seconds.
"""
