"""What is wrong with the samples of one shard: members, keys, images and captions, seen one after the other."""

import hashlib
import re
from collections import Counter
from dataclasses import dataclass

from orchestrator.data.captions import find_caption_faults
from orchestrator.data.decode import open_image
from orchestrator.data.problems import Problem
from orchestrator.data.sample import BadSampleError, RawSample
from orchestrator.spec.job import ShardsSpec

DIGEST_BYTES = 16
_REDUCTION = 8  # a JPEG is parsed to its last byte at any size; at an eighth it costs a fraction
_OBJECT = re.compile(r" <[\w.]+ object at 0x[0-9a-f]+>")  # Pillow names the buffer that it was given


@dataclass(frozen=True)
class SampleRules:
    """What a sample must hold; see ``spec.job.ShardsSpec``."""

    image_fields: tuple[str, ...] = ShardsSpec.model_fields["image_fields"].default
    caption_fields: tuple[str, ...] = ShardsSpec.model_fields["caption_fields"].default
    max_image_pixels: int = ShardsSpec.model_fields["max_image_pixels"].default

    @property
    def fields(self) -> frozenset[str]:
        """Members that are looked into."""
        return frozenset((*self.image_fields, *self.caption_fields))


class SampleAudit:
    """Takes the samples of one shard in order; keeps findings, keys and digests, no content."""

    def __init__(self, shard: str, rules: SampleRules) -> None:
        self._shard = shard
        self._rules = rules
        self.problems: list[Problem] = []
        self.keys: list[str] = []
        self.digests = bytearray()
        """``DIGEST_BYTES`` a sample, over its image and captions; zeros where it has no image."""
        self.num_images = 0
        self._seen: set[str] = set()
        self._extensions: list[frozenset[str]] = []

    def add(self, sample: RawSample, extensions: frozenset[str] | None = None) -> None:
        """Look at the next sample.

        Args:
            extensions: of all its members, where ``sample`` carries only those that are looked into.
        """
        self._check_key(sample.key, extensions or frozenset(sample.members))
        if sample.refused:
            self._note("member_refused", sample.key, sample.refused)
            self.digests += bytes(DIGEST_BYTES)
            return
        image = next((sample.members[field] for field in self._rules.image_fields if field in sample.members), None)
        if image is None:
            self._note("image_missing", sample.key, f"none of {', '.join(self._rules.image_fields)}")
            self.digests += bytes(DIGEST_BYTES)
        else:
            self.num_images += 1
            self._check_image(sample.key, image)
            self.digests += self._digest(image, sample)
        for reason, detail in find_caption_faults(sample, self._rules.caption_fields):
            self._note(reason, sample.key, detail)

    def check_members(self) -> None:
        """At the end: which samples lack a member that more than half of them have, beside image and captions."""
        counts = Counter(extension for extensions in self._extensions for extension in extensions)
        common = {extension for extension, count in counts.items() if 2 * count > len(self.keys)} - self._rules.fields
        for key, extensions in zip(self.keys, self._extensions, strict=True):
            if extensions and (missing := common - extensions):  # of a refused sample's members none may be known
                names = ", ".join(f"{name} ({counts[name]} of {len(self.keys)} have it)" for name in sorted(missing))
                self._note("member_missing", key, f"no {names}")

    def _check_key(self, key: str, extensions: frozenset[str]) -> None:
        if self.keys and self.keys[-1] == key:  # a repeated extension began another sample
            twice = ", ".join(sorted(extensions & self._extensions[-1]))
            self._note("member_duplicate", key, f"{twice}: it is read as two samples")
        elif key in self._seen:
            self._note("key_noncontiguous", key, "other samples lie between its members: it is read as two samples")
        self._seen.add(key)
        self.keys.append(key)
        self._extensions.append(extensions)

    def _check_image(self, key: str, image: bytes) -> None:
        try:
            open_image(image, self._rules.max_image_pixels).read_pixels(_REDUCTION)
        except BadSampleError as error:
            limit = f"more than {self._rules.max_image_pixels:,} pixels"
            said = f"{len(image):,} bytes: {_OBJECT.sub('', str(error.__cause__))}" if error.__cause__ else limit
            self._note(error.reason, key, said)

    def _digest(self, image: bytes, sample: RawSample) -> bytes:
        content = hashlib.blake2b(digest_size=DIGEST_BYTES)
        for part in (image, *(sample.members.get(field, b"") for field in self._rules.caption_fields)):
            content.update(len(part).to_bytes(8, "little"))
            content.update(part)
        return content.digest()

    def _note(self, reason: str, key: str, detail: str) -> None:
        self.problems.append(Problem(self._shard, reason, key, detail))
