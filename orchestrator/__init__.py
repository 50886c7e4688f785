"""Vision-language pre-training on Ray: streamed shards, DeepSpeed workers, comparable objectives.

This package imports nothing at its top, so that ``import orchestrator`` and ``orchestrator --help`` stay fast.
"""

__version__ = "0.1.0"
