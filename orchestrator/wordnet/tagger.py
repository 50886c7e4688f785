"""NLTK's averaged perceptron tagger over a model that is handed in: a job names its file, nothing is downloaded.

The model is trained on text that its publisher does not license for every use, so it does not ship with this package.
"""

import hashlib
import io
import json
import zipfile
from pathlib import PurePosixPath

from orchestrator.errors import DatasetError

WHERE_TO_GET = (
    "NLTK's averaged_perceptron_tagger_eng.zip (from github.com/nltk/nltk_data, packages/taggers) is the file it wants"
)
_PARTS = ("weights", "tagdict", "classes")


class Tagger:
    """Part-of-speech tags (Penn Treebank's) of the tokens of one sentence."""

    def __init__(self, data: bytes, source: str) -> None:
        """``data``: the content of ``averaged_perceptron_tagger_eng.zip``, read from ``source``.

        Raises DatasetError for anything else.
        """
        from nltk.tag.perceptron import PerceptronTagger  # takes a second, and few jobs tag

        try:
            weights, tagdict, classes = _read_parts(data)
        except (zipfile.BadZipFile, KeyError, ValueError) as error:
            raise DatasetError(f"{source}: not a tagger ({error}); {WHERE_TO_GET}") from error
        self._tagger = PerceptronTagger(load=False)
        self._tagger.model.weights, self._tagger.tagdict = weights, tagdict
        self._tagger.classes = self._tagger.model.classes = set(classes)
        self.version = hashlib.sha256(data).hexdigest()[:12]
        """A digest of the model."""

    def tag(self, tokens: list[str]) -> list[str]:
        """A tag for each token."""
        return [tag for _, tag in self._tagger.tag(tokens)]


def _read_parts(data: bytes) -> list[dict[str, dict[str, float]]]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {PurePosixPath(name).suffixes[-2:][0]: name for name in archive.namelist() if name.endswith(".json")}
        return [json.loads(archive.read(members[f".{part}"])) for part in _PARTS]
