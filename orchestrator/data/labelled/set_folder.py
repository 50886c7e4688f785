"""The folder of a labelled set with what the job says of it, and the small files that describe the set."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.errors import DatasetError
from orchestrator.spec.cluster import S3Spec
from orchestrator.spec.evaluation import LayoutSpec
from orchestrator.spec.load import join_uri
from orchestrator.storage.store import ObjectNotFoundError, Store, open_object

_IMAGES_TRIED = 16  # a request for each folder they may lie in: enough to tell missing images from a wrong folder


@dataclass(frozen=True)
class SetFolder:
    """Where a set lies."""

    store: Store
    options: LayoutSpec
    s3: S3Spec

    @property
    def uri(self) -> str:
        """Of the folder."""
        return self.store.uri

    def has(self, path: str) -> bool:
        """Whether there is such a file."""
        return self.store.stat(path) is not None

    def error(self, fault: str) -> DatasetError:
        """``fault`` as an error about this set."""
        return DatasetError(f"evaluation.sets: {self.uri}: {fault}")

    def misread(self, name: str, error: Exception) -> DatasetError:
        """What reading ``name`` failed with, as an error about this set."""
        fault = f"lacks {error}" if isinstance(error, KeyError) else f"is not of its layout's form: {error}"
        return self.error(f"{name} {fault}; docs/evaluation.md says what each layout holds")

    def read_lines(self, location: str | None, default: str, *, by_place: bool = False) -> list[str] | None:
        """The lines of a text file, empty ones left out; none where no file is named and ``default`` is absent.

        Args:
            by_place: lines are known by their place, so that one that is left out would move all behind it.

        Raises DatasetError for what is not UTF-8, for a named file that is absent, and, ``by_place``, for an empty line
        before the last one that is not.
        """
        uri = join_uri(self.uri, location or default)
        store, name = open_object(uri, self.s3)
        try:
            content = store.read_bytes(name).decode("utf-8-sig")
        except ObjectNotFoundError as error:
            if location is None:
                return None
            raise self.error(f"there is no {uri}, which evaluation.layouts names") from error
        except UnicodeDecodeError as error:
            raise self.error(f"{uri} is not UTF-8: {error}") from error
        lines = [line.strip() for line in content.rstrip().split("\n")]  # splitlines would split within a name, too
        if by_place and "" in lines:
            raise self.error(
                f"line {lines.index('') + 1} of {uri} is empty, and a line's place says which class it "
                f"names; write a name into it, or take it out"
            )
        return [line for line in lines if line]

    def read_json(self, path: str) -> dict[str, Any]:
        """The object in a JSON file."""
        try:
            content = json.loads(self.store.read_bytes(path))
        except ValueError as error:
            raise self.error(f"{path} is not JSON: {error}") from error
        if not isinstance(content, dict):
            raise self.error(f"{path} is not a JSON object")
        return content

    def find_images(self, names: Sequence[str], folders: Sequence[str]) -> str:
        """Which of ``folders`` (each with a slash behind it, or empty) the images ``names`` lie in.

        Some may be missing: the first that is there tells, of the first and others in even distances.
        """
        tried = names[:: -(-len(names) // _IMAGES_TRIED)]
        for name in tried:
            for folder in folders:
                if self.has(f"{folder}{name}"):
                    return folder
        raise self.error(
            f"no image where its annotations put the first: {', '.join(f'{one}{names[0]}' for one in folders)}; nor is "
            f"any of {len(tried) - 1} others there"
        )
