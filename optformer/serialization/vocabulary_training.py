"""Trains the text vocabulary that ships with the package.

    python -m optformer.serialization.vocabulary_training --out optformer/serialization/metadata.model

Takes under a minute on one core.  The text is generated from public names and plausible numbers with a fixed seed; the
same arguments give exactly the same file (one thread, no file names in the model).  `--corpus` adds the studies of a
JSON-lines file, one study per line.  The vocabulary then contains pieces of that text: do not publish it if the text is
private.
"""

import argparse
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import sentencepiece

from optformer.files import write_atomically
from optformer.serialization import vocabulary_words as words
from optformer.serialization.vocabulary import KEYWORDS

VOCABULARY_SIZE: Final = 2048
_MAX_LINE_BYTES: Final = 4000


def generated_lines(seed: int, studies: int) -> Iterator[str]:
    """Yields texts as they occur between keywords, one field of a study's metadata per line."""
    rng = np.random.default_rng(seed)
    names_by_domain = [text.split() for text in words.PARAMETER_NAMES.values()]
    category_sets = [text.split() for text in words.CATEGORIES]
    # Every name at least once; the random sample below may miss some.
    for names in names_by_domain:
        yield from names
    metrics, algorithms = words.METRICS.split(), words.ALGORITHMS.split()
    title_words, description_words = words.TITLE_WORDS.split(), words.DESCRIPTION_WORDS.split()
    common_words = words.COMMON_WORDS.split()
    for table in (metrics, algorithms, title_words, common_words, *category_sets):
        yield from table
    for _ in range(studies):
        yield _title(rng, title_words)
        if rng.random() < 0.2:
            yield " ".join(rng.choice(description_words, rng.integers(4, 20)))
        yield str(rng.choice(metrics))
        yield str(rng.choice(algorithms))
        domain = names_by_domain[rng.integers(len(names_by_domain))]
        if rng.random() < 0.3:  # names outside the tables mostly consist of a few common words
            yield str(rng.choice(["_", "_", " ", "-"])).join(rng.choice(common_words, rng.integers(1, 4)))
        for name in rng.choice(domain, size=min(len(domain), int(rng.integers(1, 12))), replace=False):
            yield _decorated(str(name), rng)
            if rng.random() < 0.3:
                chosen = category_sets[rng.integers(len(category_sets))]
                yield from rng.choice(chosen, size=min(len(chosen), int(rng.integers(2, 6))), replace=False).tolist()
            else:
                yield from (_number(rng) for _ in range(2))


def _title(rng: np.random.Generator, title_words: list[str]) -> str:
    separator = str(rng.choice([" ", " ", "_", "-"]))
    title = separator.join(rng.choice(title_words, rng.integers(1, 6)))
    style = rng.integers(6)
    if style == 0:
        title = title.title()
    elif style == 1:
        title = f"{title}{separator}{rng.integers(1, 100)}"
    elif style == 2:
        title = f"{title} 20{rng.integers(15, 27)}-{rng.integers(1, 13):02d}-{rng.integers(1, 29):02d}"
    elif style == 3:
        title = f"{rng.integers(10000)}_{rng.integers(100000)}"
    return title


def _decorated(name: str, rng: np.random.Generator) -> str:
    """A name in a style of code: camel case, dotted or nested path, counter, prefix."""
    style = rng.integers(12)
    if style == 0:
        head, *rest = name.split("_")
        return head + "".join(part.title() for part in rest)
    if style == 1:
        return f"{rng.choice(['model', 'optimizer', 'train', 'params', 'config', 'clf', 'agent', 'data'])}.{name}"
    if style == 2:
        return f"{rng.choice(['model', 'opt', 'clf', 'estimator', 'encoder', 'decoder'])}__{name}"
    if style == 3:
        return f"{name}_{rng.integers(10)}"
    if style == 4:
        return f"{name}[{rng.integers(12)}]"
    if style == 5:
        return f"{rng.choice(['log_', 'log10_', 'num_', 'use_', 'max_', 'min_', 'n_', 'final_', 'init_'])}{name}"
    if style == 6:
        return name.replace("_", "-")
    if style == 7:
        return name.replace("_", " ")
    if style == 8:
        return name.upper()
    return name


def _number(rng: np.random.Generator) -> str:
    """A bound or a feasible value, as metadata text writes it (`%.6g`)."""
    style = rng.integers(8)
    if style == 0:
        return f"{10.0 ** rng.integers(-10, 7):g}"
    if style == 1:
        return f"{rng.integers(1, 10) * 10.0 ** rng.integers(-7, 5):.6g}"
    if style == 2:
        return str(2 ** rng.integers(0, 14))
    if style == 3:
        return str(rng.integers(0, 21))
    if style == 4:
        return f"{rng.integers(1, 100) / 100:g}"
    if style == 5:
        return str(rng.integers(1, 100) * 10 ** rng.integers(0, 4))
    if style == 6:
        return f"{rng.choice([0, 1, -1, 0.5, 0.9, 0.95, 0.99, 0.999, 1.0, -5, 5, 10, 100, 1000]):g}"
    return f"{rng.normal() * 10.0 ** rng.integers(-4, 5):.6g}"


def corpus_lines(path: Path) -> Iterator[str]:
    """Every string and object key of a JSON-lines file of studies, except in trials, whose values are tokens.

    Raises:
      ValueError: a line is not a JSON object; the message names it.
    """
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                study = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{path}, line {number}: not JSON ({error}); expected one study a line") from error
            if not isinstance(study, dict):
                raise ValueError(f"{path}, line {number}: expected a JSON object, one study a line")
            yield from _strings({key: value for key, value in study.items() if key != "trials"})


def _strings(node: object) -> Iterator[str]:
    if isinstance(node, str):
        yield node
    elif isinstance(node, dict):
        for key, value in node.items():
            yield key
            yield from _strings(value)
    elif isinstance(node, list):
        for value in node:
            yield from _strings(value)


def train(lines: Iterator[str], size: int = VOCABULARY_SIZE) -> bytes:
    """Trains the SentencePiece model: unigram pieces with byte fallback; ids: padding, unknown, keywords, then pieces.

    Text is not normalized, so that decoding returns it exactly.  Keywords are control symbols: ids to which no text is
    encoded.
    """
    model = io.BytesIO()
    kept = (line for line in lines if line and len(line.encode("utf-8", "replace")) < _MAX_LINE_BYTES)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=kept,
        model_writer=model,
        model_type="unigram",
        vocab_size=size,
        pad_id=0,
        unk_id=1,
        bos_id=-1,
        eos_id=-1,
        control_symbols=[f"<{name}>" for name in KEYWORDS],
        byte_fallback=True,
        character_coverage=1.0,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        split_by_unicode_script=False,
        split_by_number=False,
        max_sentencepiece_length=12,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Train the metadata vocabulary.")
    parser.add_argument("--out", type=Path, required=True, help="where to write the SentencePiece model")
    parser.add_argument("--corpus", type=Path, help="JSON-lines file of studies to add to the generated text")
    parser.add_argument("--studies", type=int, default=4000, help="number of generated studies (default: 4000)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)

    def lines() -> Iterator[str]:
        yield from generated_lines(arguments.seed, arguments.studies)
        if arguments.corpus is not None:
            yield from corpus_lines(arguments.corpus)

    model = train(lines())
    write_atomically(arguments.out, model)
    print(f"{arguments.out}: {VOCABULARY_SIZE} pieces, {len(model)} bytes")


if __name__ == "__main__":
    main()
