"""Texts as byte-pair tokens, by the library `tokenizers`: a tokenizer is trained on the data, or loaded from a file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from internimage.tasks.pretraining.text_encoder import PADDING

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_START, _END = "<start>", "<end>"
_BYTES = 256


class TextTokens:
    """A tokenizer. It may be pickled or forked to other processes.

    Numbers are those of the tokenizer plus 1, so that 0 is the padding whatever the tokenizer's own is.

    Args:
        description: what `train_tokenizer` gives, or the content of a tokenizer.json of `tokenizers`.
        length: tokens of a text at most; what follows is cut off.

    Raises:
        ImportError: `tokenizers` is missing.
        ValueError: `description` is of no tokenizer.
    """

    def __init__(self, description: str, length: int) -> None:
        self._description = description
        self._length = length
        self.vocabulary = int(self._tokenizer.get_vocab_size()) + 1

    def __call__(self, text: str) -> NDArray[np.int64]:
        """[length]; the empty text has one token at least."""
        numbers = [number + 1 for number in self._tokenizer.encode(text).ids[: self._length]] or [1]
        return np.array(numbers + [PADDING] * (self._length - len(numbers)))

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        tokenizers = _library()
        try:
            json.loads(self._description)
            tokenizer: Tokenizer = tokenizers.Tokenizer.from_str(self._description)
        except Exception as error:  # tokenizers raises the bare class
            raise ValueError(f"the text is of no tokenizer of the library tokenizers: {error}") from error
        return tokenizer

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_tokenizer"}


def read_tokens(path: Path, length: int) -> TextTokens:
    """The tokenizer in a file.

    Raises:
        ValueError: the file holds none.
        OSError: it can't be read.
    """
    try:
        return TextTokens(path.read_text("utf-8"), length)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> str:
    """Learn byte-pair tokens; capitals and white space count as in CLIP: not at all.

    Args:
        texts: to learn from; equal ones in equal order give an equal tokenizer.
        vocabulary: tokens at most, 258 at least: those of single bytes, and of start and end.

    Returns:
        What `TextTokens` takes.
    """
    least = _BYTES + 2
    if vocabulary < least:
        raise ValueError(f"train_tokenizer: vocabulary must be at least {least}, got {vocabulary}")
    library = _library()
    tokenizer = library.Tokenizer(library.models.BPE())
    tokenizer.normalizer = library.normalizers.Sequence(
        [
            library.normalizers.NFC(),
            library.normalizers.Lowercase(),
            library.normalizers.Replace(library.Regex(r"\s+"), " "),
            library.normalizers.Strip(),
        ]
    )
    tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel()
    tokenizer.decoder = library.decoders.ByteLevel()
    trainer = library.trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[_START, _END],
        initial_alphabet=library.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = library.processors.TemplateProcessing(
        single=f"{_START} $A {_END}",
        special_tokens=[(name, tokenizer.token_to_id(name)) for name in (_START, _END)],
    )
    return str(tokenizer.to_str())


def text_key(content: bytes) -> int:
    """A number from 0 on that tells texts or embeddings from others."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big") >> 1


def _library() -> Any:
    try:
        import tokenizers
        from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers  # noqa: F401
    except ImportError as error:
        raise ImportError("texts need the library tokenizers: pip install 'internimage[pretraining]'") from error
    return tokenizers
