"""Tar shards: what Python's tarfile writes is read, and damage is named instead of read past."""

import importlib.util
import sys
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from orchestrator.data import retry
from orchestrator.data.readers import read_chunk
from orchestrator.data.sample import RawSample
from orchestrator.data.shard import CHUNK_SAMPLES, ShardRow
from orchestrator.data.webdataset import scan_tar
from orchestrator.errors import ShardDamagedError, ShardReadError
from orchestrator.storage.local import LocalStore
