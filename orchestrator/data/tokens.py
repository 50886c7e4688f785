"""Captions to token ids: byte pairs trained on the data set's own captions, or any Hugging Face tokenizer.

Owns the layout of a row (begin, tokens, end, padding) and the ids that a text tower must know. Special tokens are
taken from their ids only: the text ``<end>`` in a caption is text, or a caption could choose where it is pooled.
"""

import hashlib
import logging
import re
import string
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from orchestrator.errors import ModelSourceError
from orchestrator.spec.cluster import S3Spec
from orchestrator.spec.facts import TokenizerFacts
from orchestrator.spec.load import local_path
from orchestrator.storage.store import ObjectNotFoundError, open_object

logger = logging.getLogger(__name__)

# The end token must not have the id 2: there transformers' CLIP text tower pools at the greatest id instead.
BEGIN, END, PAD = "<begin>", "<end>", "<pad>"
_LEGACY_END_ID = 2
MAX_TOKENIZER_BYTES = 64 * 2**20


@dataclass(frozen=True, eq=False)
class CaptionTokenizer:
    """A tokenizer and the ids around a caption; pickles as its JSON."""

    json: str
    """What the `tokenizers` library reads and writes."""
    begin_id: int | None
    """None: captions begin with their first token, as SigLIP's and T5's do."""
    end_id: int
    pad_id: int
    _backend: Tokenizer = field(init=False, repr=False)

    def __post_init__(self) -> None:
        backend = _parse(self.json, "tokenizer")
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = True
        object.__setattr__(self, "_backend", backend)

    def __reduce__(self) -> tuple[Any, ...]:
        return CaptionTokenizer, (self.json, self.begin_id, self.end_id, self.pad_id)

    @property
    def vocabulary_size(self) -> int:
        """Rows that a token embedding needs: one more than the greatest id."""
        return int(max(self.ids.values())) + 1

    @property
    def digest(self) -> str:
        """Short name of everything that decides a caption's ids."""
        ids = f"{self.begin_id},{self.end_id},{self.pad_id}"
        return hashlib.sha256(f"{ids};{self.json}".encode()).hexdigest()[:16]

    @property
    def ids(self) -> dict[str, int]:
        """The row of each token, special ones among them."""
        return self._backend.get_vocab(with_added_tokens=True)

    def encode(self, captions: Sequence[str], context: int) -> npt.NDArray[np.int32]:
        """Token ids [B, context]: begin, tokens, end, padding; a longer caption is cut and keeps its end token."""
        ids_BT = np.full((len(captions), context), self.pad_id, dtype=np.int32)
        begin = [] if self.begin_id is None else [self.begin_id]
        encodings = self._backend.encode_batch_fast(list(captions), add_special_tokens=False)
        for row_T, encoding in zip(ids_BT, encodings, strict=True):
            ids = [*begin, *encoding.ids[: context - len(begin) - 1], self.end_id]
            row_T[: len(ids)] = ids
        return ids_BT


def train_tokenizer(captions: Iterable[str], size: int) -> bytes:
    """Train lower-cased byte-level pairs; the same captions give the same bytes, in whatever order they come.

    Args:
        captions: read once.
        size: most tokens, special ones and the 256 bytes included; fewer when the captions hold fewer pairs.

    Returns:
        A ``tokenizer.json``; transformers opens it too (PreTrainedTokenizerFast), and adds begin and end itself.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip(), normalizers.Lowercase()]
    )
    # A space before the first word too: one token for a word wherever it stands.
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[BEGIN, END, PAD],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(captions, trainer=trainer)
    begin, end = ((token, tokenizer.token_to_id(token)) for token in (BEGIN, END))
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BEGIN} $A {END}", special_tokens=[begin, end])
    return str(tokenizer.to_str()).encode()


def read_trained_tokenizer(data: bytes, source: str) -> CaptionTokenizer:
    """Open what ``train_tokenizer`` made; ``source`` is what an error calls it.

    Raises:
        ModelSourceError: not such a tokenizer.
    """
    if len(data) > MAX_TOKENIZER_BYTES:
        raise ModelSourceError(f"{source} has {len(data):,} bytes; a tokenizer has at most {MAX_TOKENIZER_BYTES:,}")
    text = data.decode(errors="replace")
    backend = _parse(text, source)
    begin_id, end_id, pad_id = (backend.token_to_id(token) for token in (BEGIN, END, PAD))
    if begin_id is None or end_id is None or pad_id is None:
        raise ModelSourceError(
            f"{source} has no {BEGIN}, {END} or {PAD} token, so it was not trained here; "
            f"name the folder of a Hugging Face tokenizer in text.tokenizer instead of one file"
        )
    return CaptionTokenizer(text, begin_id, end_id, pad_id)


def load_tokenizer(source: str, s3: S3Spec, canonical: bool = False) -> CaptionTokenizer:
    """Open a tokenizer by where it is.

    Args:
        source: URI of a ``.json`` that was trained here, a local Hugging Face folder, or a hub name.
        s3: how to reach ``s3://`` sources.
        canonical: captions lose case and punctuation first, as SigLIP's do; its own tokenizer says so itself.

    Raises:
        ModelSourceError: nothing there, or no tokenizer; says what was looked for.
    """
    if "://" in source and source.endswith(".json"):
        return read_trained_tokenizer(_read_text(source, s3).encode(), source)
    return _load_hugging_face(_local_path(source), canonical)


def open_tokenizer(facts: TokenizerFacts, s3: S3Spec) -> CaptionTokenizer:
    """Open a plan's tokenizer, whose special ids are known.

    Raises:
        ModelSourceError: it is gone, or no tokenizer any more.
    """
    if not facts.uri.endswith(".json"):
        return load_tokenizer(facts.uri, s3)
    return CaptionTokenizer(_read_text(facts.uri, s3), facts.begin_id, facts.end_id, facts.pad_id)


def save_tokenizer(tokenizer: CaptionTokenizer, context: int, folder: Path) -> None:
    """Write it as a Hugging Face folder that gives the same ids: begin, tokens, end, padding up to ``context``."""
    from transformers import PreTrainedTokenizerFast

    backend = _parse(tokenizer.json, "tokenizer")
    end, pad = (backend.id_to_token(id) for id in (tokenizer.end_id, tokenizer.pad_id))
    begin = None if tokenizer.begin_id is None else backend.id_to_token(tokenizer.begin_id)
    backend.post_processor = processors.TemplateProcessing(
        single=f"$A {end}" if begin is None else f"{begin} $A {end}",
        special_tokens=[(end, tokenizer.end_id), *([] if begin is None else [(begin, tokenizer.begin_id)])],
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=begin,
        eos_token=end,
        pad_token=pad,
        model_max_length=context,
        split_special_tokens=True,  # a caption that says "<end>" does not end there
    )
    fast.save_pretrained(folder)


def _read_text(uri: str, s3: S3Spec) -> str:
    try:
        store, name = open_object(uri, s3)
        return store.read_bytes(name).decode(errors="replace")
    except ObjectNotFoundError as error:
        raise ModelSourceError(f"the tokenizer {uri} is gone; run the job again to train it anew") from error


def _local_path(source: str) -> str:
    if source.startswith("file://"):
        return str(local_path(source))
    if "://" in source:
        raise ModelSourceError(
            f"text.tokenizer {source}: a Hugging Face tokenizer is read from a local folder or by its hub name; "
            f"copy the folder to every node and name its path"
        )
    return source


def _load_hugging_face(name: str, canonical: bool) -> CaptionTokenizer:
    try:
        tokenizer, is_siglip = _from_pretrained(name)
    except (OSError, ValueError, KeyError, ImportError) as error:
        looked = "this folder exists" if Path(name).is_dir() else "no such folder here, and the hub did not give it"
        raise ModelSourceError(
            f"text.tokenizer '{name}' does not load: {looked} ({_first_line(error)}). Wanted a folder with "
            f"tokenizer.json, or a hub name that can be reached or is in the local cache; without a network, "
            f"name a folder, or leave text.tokenizer out to train one on the captions"
        ) from error
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        raise ModelSourceError(
            f"text.tokenizer '{name}' is a {type(tokenizer).__name__}, which has no fast form; "
            f"save it with a tokenizer.json (AutoTokenizer.from_pretrained(...).save_pretrained) and name that folder"
        )
    # Through its text, so that what is changed here does not change the caller's tokenizer.
    backend = _parse(str(backend.to_str()), "tokenizer")
    if canonical or is_siglip:
        _canonicalize(backend)
    return _complete(backend, tokenizer)


def _from_pretrained(name: str) -> tuple[Any, bool]:
    """The tokenizer, and whether it is SigLIP's, which `transformers` has in a slow form alone."""
    # The import takes seconds and is not needed for tokenizers that were trained here.
    from transformers import AutoTokenizer, PreTrainedTokenizerFast
    from transformers.models.auto.tokenization_auto import get_tokenizer_config

    def load(local_files_only: bool) -> tuple[Any, bool]:
        config = get_tokenizer_config(name, local_files_only=local_files_only)
        is_siglip = config.get("tokenizer_class") == "SiglipTokenizer"
        opener = PreTrainedTokenizerFast if is_siglip else AutoTokenizer
        return opener.from_pretrained(name, trust_remote_code=False, local_files_only=local_files_only), is_siglip

    try:  # what is at hand first: the hub is asked for minutes before a machine without a network is believed
        return load(local_files_only=True)
    except OSError:
        if Path(name).is_dir():
            raise
        return load(local_files_only=False)


def _canonicalize(backend: Tokenizer) -> None:
    """Before all else: lower case, no ASCII punctuation, single spaces (big_vision's ``canonicalize_text``)."""
    steps = [
        normalizers.Lowercase(),
        normalizers.Replace("_", " "),
        normalizers.Replace(Regex(f"[{re.escape(string.punctuation)}]"), ""),
        normalizers.Replace(Regex(r"\s+"), " "),
        normalizers.Strip(),
    ]
    backend.normalizer = normalizers.Sequence([*steps, *([backend.normalizer] if backend.normalizer else [])])


def _complete(backend: Tokenizer, tokenizer: Any) -> CaptionTokenizer:
    """Take the tokenizer's own special ids; add a token where the text tower could not tell them apart."""
    begin_id: int | None = _first_known(tokenizer.bos_token_id, tokenizer.cls_token_id)
    end_id = _first_known(tokenizer.eos_token_id, tokenizer.sep_token_id)
    if end_id is None or end_id == _LEGACY_END_ID:
        end_id = _add_token(backend, END)
    if backend.encode("").ids == [end_id]:
        begin_id = None
    elif begin_id is None or begin_id == end_id:
        begin_id = _add_token(backend, BEGIN)
    pad_id = _first_known(tokenizer.pad_token_id, end_id)
    assert pad_id is not None, "end_id is known"
    return CaptionTokenizer(str(backend.to_str()), begin_id, end_id, pad_id)


def _add_token(backend: Tokenizer, token: str) -> int:
    backend.add_special_tokens([AddedToken(token, special=True)])
    logger.info("The tokenizer got a token of its own for %s: the text tower cannot use the one it has", token)
    number = backend.token_to_id(token)
    assert number is not None, "it was just added"
    return number


def _first_known(*ids: int | None) -> int | None:
    return next((number for number in ids if number is not None), None)


def _parse(text: str, source: str) -> Tokenizer:
    try:
        return Tokenizer.from_str(text)
    except Exception as error:  # the library raises nothing narrower
        raise ModelSourceError(f"{source} is not a tokenizer.json: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
