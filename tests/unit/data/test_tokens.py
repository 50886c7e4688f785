"""Captions to ids: the end token is always there, ids say what the caption says, and nothing depends on chance."""

import json
import os
import pickle
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer

from orchestrator.data.tokens import (
    BEGIN,
    END,
    PAD,
    CaptionTokenizer,
    load_tokenizer,
    read_trained_tokenizer,
    save_tokenizer,
    train_tokenizer,
)
from orchestrator.errors import ModelSourceError
from orchestrator.spec.cluster import S3Spec

CAPTIONS = [
    f"A {size} {color} {shape} stands left of a {other}."
    for size in ("small", "large", "huge")
    for color in ("red", "blue", "green", "purple")
    for shape in ("cube", "sphere", "torus", "pyramid")
    for other in ("cone", "cylinder", "dome")
]


@pytest.fixture(scope="module")
def trained() -> bytes:
    return train_tokenizer(CAPTIONS, 400)


@pytest.fixture(scope="module")
def tokenizer(trained: bytes) -> CaptionTokenizer:
    return read_trained_tokenizer(trained, "trained")


def tokens_of(tokenizer: CaptionTokenizer, caption: str) -> list[int]:
    """Ids between begin and end."""
    ids = tokenizer.encode([caption], 200)[0].tolist()
    return ids[1 : ids.index(tokenizer.end_id)]


def test_a_row_is_begin_tokens_end_padding(tokenizer: CaptionTokenizer) -> None:
    ids_BT = tokenizer.encode(["a red cube", ""], 12)
    assert ids_BT.dtype == np.int32
    assert ids_BT.shape == (2, 12)
    assert (ids_BT[:, 0] == tokenizer.begin_id).all()
    assert ids_BT[1].tolist() == [tokenizer.begin_id, tokenizer.end_id] + [tokenizer.pad_id] * 10
    (end,) = np.flatnonzero(ids_BT[0] == tokenizer.end_id)
    assert end > 1
    assert (ids_BT[0, end + 1 :] == tokenizer.pad_id).all()


@pytest.mark.parametrize("context", [4, 5, 8])
def test_truncation_keeps_the_end_token(tokenizer: CaptionTokenizer, context: int) -> None:
    whole = tokens_of(tokenizer, CAPTIONS[0])
    assert len(whole) > 8
    row = tokenizer.encode([CAPTIONS[0]], context)[0].tolist()
    assert row == [tokenizer.begin_id, *whole[: context - 2], tokenizer.end_id]


def test_a_caption_that_just_fits_is_not_cut(tokenizer: CaptionTokenizer) -> None:
    whole = tokens_of(tokenizer, CAPTIONS[0])
    row = tokenizer.encode([CAPTIONS[0]], len(whole) + 2)[0].tolist()
    assert row == [tokenizer.begin_id, *whole, tokenizer.end_id]


def test_different_captions_have_different_tokens(tokenizer: CaptionTokenizer) -> None:
    rows = {tuple(row) for row in tokenizer.encode(CAPTIONS, 77).tolist()}
    assert len(rows) == len(CAPTIONS)


def test_case_and_spaces_do_not_count_and_no_text_is_unknown(tokenizer: CaptionTokenizer) -> None:
    assert tokens_of(tokenizer, "  A RED\n\tcube ") == tokens_of(tokenizer, "a red cube")
    assert len(tokens_of(tokenizer, "日本 🙂")) > 2
    assert tokens_of(tokenizer, "日本") != tokens_of(tokenizer, "中国")


def test_a_caption_cannot_write_special_tokens(tokenizer: CaptionTokenizer) -> None:
    ids = tokens_of(tokenizer, f"a {BEGIN} cube {END} {PAD} red")
    assert not set(ids) & {tokenizer.begin_id, tokenizer.end_id, tokenizer.pad_id}
    assert ids[-1:] == tokens_of(tokenizer, "red")[-1:], "what follows the text <end> still counts"


def test_the_same_captions_give_the_same_bytes_in_any_order(trained: bytes) -> None:
    shuffled = random.Random(0).sample(CAPTIONS, len(CAPTIONS))
    assert train_tokenizer(iter(shuffled), 400) == trained


def test_another_process_gives_the_same_bytes(trained: bytes) -> None:
    program = (
        "import sys; from orchestrator.data.tokens import train_tokenizer; "
        "sys.stdout.buffer.write(train_tokenizer(sys.stdin.read().splitlines(), 400))"
    )
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "true", "PYTHONHASHSEED": "7"}
    run = subprocess.run(
        [sys.executable, "-c", program], input="\n".join(CAPTIONS).encode(), capture_output=True, env=environment
    )
    assert run.stdout == trained, run.stderr.decode()


def test_the_size_is_a_limit_and_the_ids_lie_below_it(tokenizer: CaptionTokenizer) -> None:
    assert tokenizer.vocabulary_size <= 400
    assert tokenizer.encode(CAPTIONS, 77).max() < tokenizer.vocabulary_size
    assert read_trained_tokenizer(train_tokenizer(CAPTIONS, 300), "small").vocabulary_size == 300


def test_the_end_token_is_not_the_one_that_transformers_pools_elsewhere(tokenizer: CaptionTokenizer) -> None:
    assert (tokenizer.begin_id, tokenizer.end_id, tokenizer.pad_id) == (0, 1, 2)


def test_it_pickles_with_its_digest_and_ids(tokenizer: CaptionTokenizer) -> None:
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert copy.digest == tokenizer.digest
    assert (copy.encode(CAPTIONS, 20) == tokenizer.encode(CAPTIONS, 20)).all()


def test_the_digest_tells_tokenizers_apart(tokenizer: CaptionTokenizer) -> None:
    other = read_trained_tokenizer(train_tokenizer(CAPTIONS[:50], 400), "other")
    assert other.digest != tokenizer.digest


def test_a_trained_one_loads_from_its_uri(tmp_path: Path, trained: bytes, tokenizer: CaptionTokenizer) -> None:
    for name in ("tokenizer-1.json", "a#b?%20.json"):
        (tmp_path / name).write_bytes(trained)
        assert load_tokenizer((tmp_path / name).as_uri(), S3Spec()).digest == tokenizer.digest
    with pytest.raises(ModelSourceError, match=r"tokenizer-2\.json is gone"):
        load_tokenizer((tmp_path / "tokenizer-2.json").as_uri(), S3Spec())


@pytest.mark.parametrize("data", [b"", b"{}", b'{"model": 1}', b"\xff\xfe"])
def test_bytes_that_are_no_tokenizer_are_refused_with_their_source(data: bytes) -> None:
    with pytest.raises(ModelSourceError, match=r"s3://bucket/tokenizer\.json"):
        read_trained_tokenizer(data, "s3://bucket/tokenizer.json")


def save_hugging_face(folder: Path, trained: bytes, **special: str) -> str:
    from transformers import PreTrainedTokenizerFast

    source = folder / "source.json"
    source.write_bytes(trained)
    PreTrainedTokenizerFast(tokenizer_file=str(source), **special).save_pretrained(folder / "saved")
    return str(folder / "saved")


def test_a_hugging_face_folder_loads_and_gives_the_same_ids(
    tmp_path: Path, trained: bytes, tokenizer: CaptionTokenizer
) -> None:
    folder = save_hugging_face(tmp_path, trained, bos_token=BEGIN, eos_token=END, pad_token=PAD)
    for source in (folder, Path(folder).as_uri()):
        loaded = load_tokenizer(source, S3Spec())
        assert (loaded.begin_id, loaded.end_id, loaded.pad_id) == (0, 1, 2)
        assert (loaded.encode(CAPTIONS, 16) == tokenizer.encode(CAPTIONS, 16)).all()


def test_transformers_itself_puts_begin_and_end_around_a_caption(
    tmp_path: Path, trained: bytes, tokenizer: CaptionTokenizer
) -> None:
    from transformers import AutoTokenizer

    folder = save_hugging_face(tmp_path, trained, bos_token=BEGIN, eos_token=END, pad_token=PAD)
    theirs = AutoTokenizer.from_pretrained(folder)(CAPTIONS[3])["input_ids"]
    assert theirs == tokenizer.encode([CAPTIONS[3]], len(theirs))[0].tolist()


@pytest.mark.parametrize(
    "special",
    [
        {"eos_token": END},  # no begin token, as SigLIP's
        {"bos_token": END, "eos_token": END},  # the same token twice, as GPT-2's
        {"cls_token": BEGIN, "sep_token": END, "pad_token": PAD},  # named as BERT's
        {"bos_token": BEGIN, "eos_token": PAD},  # an end token with id 2, as Llama's
        {},
    ],
)
def test_special_tokens_that_a_text_tower_cannot_use_are_replaced(
    tmp_path: Path, trained: bytes, tokenizer: CaptionTokenizer, special: dict[str, str]
) -> None:
    loaded = load_tokenizer(save_hugging_face(tmp_path, trained, **special), S3Spec())
    assert loaded.begin_id != loaded.end_id
    assert loaded.end_id != 2
    assert loaded.encode(CAPTIONS, 20).max() < loaded.vocabulary_size
    assert tokens_of(loaded, "a red cube") == tokens_of(tokenizer, "a red cube")


def test_captions_begin_with_their_first_token_where_the_tokenizer_ends_them_alone(
    tmp_path: Path, trained: bytes, tokenizer: CaptionTokenizer
) -> None:
    document = json.loads(trained)
    document["post_processor"]["single"] = document["post_processor"]["single"][1:]
    folder = save_hugging_face(tmp_path, json.dumps(document).encode(), eos_token=END)
    loaded = load_tokenizer(folder, S3Spec())
    assert (loaded.begin_id, loaded.end_id, loaded.pad_id) == (None, 1, 1)
    assert loaded.vocabulary_size == tokenizer.vocabulary_size
    words = tokens_of(tokenizer, "a red cube")
    assert loaded.encode(["a red cube"], 20)[0].tolist() == words + [1] * (20 - len(words))
    assert loaded.encode(["a red cube " * 9], 4)[0].tolist() == [*words[:3], 1]
    save_tokenizer(loaded, 20, tmp_path / "again")
    assert load_tokenizer(str(tmp_path / "again"), S3Spec()).begin_id is None


def test_captions_that_spell_special_tokens_get_the_same_ids_in_transformers(
    tmp_path: Path, tokenizer: CaptionTokenizer
) -> None:
    save_tokenizer(tokenizer, 20, tmp_path)
    captions = ["a <end> cube", "<begin>", "a<pad>", "", "собака 狗 🐕", " A cube\n\t", "a red cube" * 20]
    theirs = AutoTokenizer.from_pretrained(tmp_path)(captions, padding="max_length", truncation=True)["input_ids"]
    assert theirs == tokenizer.encode(captions, 20).tolist()


def test_canonical_captions_have_neither_case_nor_punctuation(
    tmp_path: Path, trained: bytes, tokenizer: CaptionTokenizer
) -> None:
    folder = save_hugging_face(tmp_path, trained, bos_token=BEGIN, eos_token=END, pad_token=PAD)
    loaded = load_tokenizer(folder, S3Spec(), canonical=True)
    assert tokens_of(loaded, " A red_cube, (left) of the  Torus's!") == tokens_of(
        tokenizer, "a red cube left of the toruss"
    )


def test_a_token_that_is_added_gets_a_row_of_its_own(
    tmp_path: Path, trained: bytes, tokenizer: CaptionTokenizer
) -> None:
    without = trained.replace(b"<begin>", b"<first>").replace(b"<end>", b"<last>")
    loaded = load_tokenizer(save_hugging_face(tmp_path, without), S3Spec())
    assert {loaded.begin_id, loaded.end_id} == {tokenizer.vocabulary_size, tokenizer.vocabulary_size + 1}
    assert loaded.vocabulary_size == tokenizer.vocabulary_size + 2


def test_a_tokenizer_that_is_nowhere_is_refused_with_what_was_looked_for(tmp_path: Path) -> None:
    missing = str(tmp_path / "no" / "such" / "folder")
    with pytest.raises(ModelSourceError) as caught:
        load_tokenizer(missing, S3Spec())
    assert missing in str(caught.value)
    assert "without a network" in str(caught.value)
    with pytest.raises(ModelSourceError, match="local folder or by its hub name"):
        load_tokenizer("s3://bucket/tokenizer", S3Spec())
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelSourceError, match="this folder exists"):
        load_tokenizer(str(tmp_path / "empty"), S3Spec())
