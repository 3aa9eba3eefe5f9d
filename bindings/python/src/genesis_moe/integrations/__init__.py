"""Training frameworks that take their MoE layers from a configuration.

``genesis_moe.integrations.torchtitan`` and ``genesis_moe.integrations.megatron`` import the
framework that they are named after; nothing else here does.
"""
