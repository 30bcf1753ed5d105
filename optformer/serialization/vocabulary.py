"""The text vocabulary: SentencePiece pieces and keywords, and the offset of the decoder tokens after them.

Keywords such as `<log>` are single reserved ids.  They are SentencePiece control symbols, to which text is never
encoded: a study titled "<log>" gives ordinary pieces, so user text cannot imitate structure.
"""

import functools
import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import sentencepiece

from optformer.serialization import tokens

KEYWORDS: Final = (
    *("title", "description", "algorithm", "metric", "maximize", "minimize", "fixed"),  # header
    *("name", "double", "integer", "discrete", "categorical"),  # clause: name and type
    *("linear", "log", "reverse_log", "uniform_discrete"),  # scale
    *("min", "max", "levels", "value", "more", "when", "is"),  # bounds or values, condition
    *(f"reserved_{index}" for index in range(9)),  # for later formats, without changing the ids of the pieces
)
"""Names of the keywords; `metadata.py` gives the grammar.  Their ids are 2, 3, ... in this order."""

PAD_ID: Final = 0
_META_SPACE: Final = "\N{LOWER ONE EIGHTH BLOCK}"  # SentencePiece's symbol for a space


class Vocabulary:
    """Converts text to ids and back.

    Unified ids are for one table of text and decoder tokens: text ids first, then the decoder's
    (`decoder_offset + token`).
    """

    def __init__(self, model: bytes):
        """Loads a serialized SentencePiece model, as `vocabulary_training` writes it.

        Raises:
          ValueError: `model` is not a SentencePiece model with the required keywords.
        """
        self.fingerprint: str = hashlib.sha256(model).hexdigest()[:16]
        """Digest of the pieces and their ids; equal for vocabularies with the same encoding."""
        self._processor = sentencepiece.SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(model)
        except RuntimeError as error:
            raise ValueError(f"not a SentencePiece model: {error}") from error
        if self._processor.pad_id() != PAD_ID:
            raise ValueError(f"the vocabulary's padding must have id {PAD_ID}, found {self._processor.pad_id()}")
        self._keywords = {name: self._processor.PieceToId(f"<{name}>") for name in KEYWORDS}
        for name, index in self._keywords.items():
            if not self._processor.IsControl(index):
                raise ValueError(f"the vocabulary lacks the keyword <{name}>; train it with vocabulary_training")
        self._keyword_names = {index: name for name, index in self._keywords.items()}
        self._bytes = [self._processor.PieceToId(f"<0x{byte:02X}>") for byte in range(256)]
        self._byte_values = {index: byte for byte, index in enumerate(self._bytes)}
        self._meta_space = [self._bytes[byte] for byte in _META_SPACE.encode()]

    @classmethod
    @functools.cache
    def default(cls) -> "Vocabulary":
        """The vocabulary that ships with the package (2048 ids)."""
        return cls((Path(__file__).parent / "metadata.model").read_bytes())

    @property
    def size(self) -> int:
        """Number of text ids, padding and keywords included."""
        return self._processor.GetPieceSize()

    @property
    def decoder_offset(self) -> int:
        """Offset from a decoder token to its unified id."""
        return self.size

    def __len__(self) -> int:
        """Number of unified ids."""
        return self.size + tokens.DECODER_VOCABULARY

    def keyword(self, name: str) -> int:
        """Id of a keyword of `KEYWORDS`."""
        return self._keywords[name]

    def value_id(self, level: int) -> int:
        """Unified id of the value token `<level>`.

        Raises:
          ValueError: there is no such level.
        """
        if not 0 <= level < tokens.NUM_LEVELS:
            raise ValueError(f"no value token <{level}>: levels are 0 ... {tokens.NUM_LEVELS - 1}")
        return self.decoder_offset + level

    def encode(self, text: str) -> list[int]:
        """Ids of the text; never a keyword's id.  Lone surrogates, which have no UTF-8 form, become "?"."""
        text = text.encode("utf-8", "replace").decode("utf-8")
        ids: list[int] = []
        for index, part in enumerate(text.split(_META_SPACE)):
            # SentencePiece writes spaces as this character and would decode the real one as a space.
            ids += self._meta_space if index else []
            ids += self._processor.EncodeAsIds(part) if part else []
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text, with keywords as `<log>`; unified ids of decoder tokens as `<831>`; padding is left out."""
        text = b""
        for index in map(int, ids):
            if index == PAD_ID:
                continue
            if index >= self.size:
                text += tokens.token_name(index - self.decoder_offset).encode()
            elif index in self._keyword_names:
                text += f"<{self._keyword_names[index]}>".encode()
            elif index in self._byte_values:
                text += bytes([self._byte_values[index]])
            else:
                text += self._processor.IdToPiece(index).replace(_META_SPACE, " ").encode()
        return text.decode("utf-8", "replace")
