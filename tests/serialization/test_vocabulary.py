"""The shipped vocabulary, and the script that made it."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optformer.serialization import tokens, vocabulary_training
from optformer.serialization.vocabulary import KEYWORDS, PAD_ID, Vocabulary

vocabulary = Vocabulary.default()
keyword_ids = {vocabulary.keyword(name) for name in KEYWORDS}


def test_sizes_and_offsets():
    assert vocabulary.size == 2048
    assert vocabulary.decoder_offset == 2048
    assert len(vocabulary) == 2048 + tokens.DECODER_VOCABULARY
    assert Vocabulary.default() is vocabulary


@pytest.mark.parametrize("level", [0, 1, 500, 999])
def test_each_value_is_exactly_one_id(level):
    assert vocabulary.value_id(level) == vocabulary.decoder_offset + level
    assert vocabulary.decode([vocabulary.value_id(level)]) == f"<{level}>"


def test_status_tokens_have_unified_ids_too():
    assert vocabulary.decode([vocabulary.decoder_offset + tokens.PENDING]) == "PENDING"
    with pytest.raises(ValueError, match="no value token <1000>"):
        vocabulary.value_id(1000)


def test_keywords_are_distinct_ids_after_padding_and_unknown():
    assert [vocabulary.keyword(name) for name in KEYWORDS] == list(range(2, 2 + len(KEYWORDS)))
    assert vocabulary.decode([vocabulary.keyword("name"), *vocabulary.encode("lr"), PAD_ID]) == "<name>lr"


@pytest.mark.parametrize(
    "text",
    [*(f"<{name}>" for name in KEYWORDS), "<0>", "<999>", "<0x41>", "<unk>", "<pad>", "a<log>b", "<name>lr<double>"],
)
def test_text_never_becomes_a_keyword(text):
    ids = vocabulary.encode(text)
    assert not keyword_ids & set(ids)
    assert PAD_ID not in ids
    assert max(ids) < vocabulary.size
    assert vocabulary.decode(ids) == text


@given(st.text() | st.text(alphabet="<>/|_▁ log1e-05.\x00\n\t😀é\u202e", max_size=30))
def test_any_text_round_trips(text):
    ids = vocabulary.encode(text)
    assert vocabulary.decode(ids) == text.encode("utf-8", "replace").decode()
    assert not keyword_ids & set(ids)


def test_lone_surrogates_are_replaced():
    assert vocabulary.decode(vocabulary.encode("a\ud800b")) == "a?b"
    assert vocabulary.encode("") == []


@pytest.mark.parametrize("text", ["1e-05", "0.001", "128", "accuracy", "dropout", "max_depth", "optimizer"])
def test_common_words_are_single_pieces(text):
    assert len(vocabulary.encode(text)) == 1


def test_a_file_that_is_no_model_is_refused():
    with pytest.raises(ValueError, match="not a SentencePiece model"):
        Vocabulary(b"nonsense")


def small_model(arguments: list[str], path: Path) -> bytes:
    vocabulary_training.main([*arguments, "--studies", "60", "--out", str(path)])
    return path.read_bytes()


def test_the_shipped_vocabulary_can_be_trained_again(tmp_path):
    """The word lists are data: a changed word gives another vocabulary, and other titles in the prior."""
    vocabulary_training.main(["--out", str(tmp_path / "again.model")])
    shipped = Path(vocabulary_training.__file__).parent / "metadata.model"
    assert (tmp_path / "again.model").read_bytes() == shipped.read_bytes()


def test_training_is_deterministic_and_reads_a_corpus(tmp_path, capsys):
    corpus = tmp_path / "studies.jsonl"
    corpus.write_text('{"name": "zyxwvut", "params": {"zyxwvut_rate": [1, "zyxwvut"]}, "trials": ["hidden"]}\n\n' * 50)
    first = small_model([], tmp_path / "a.model")
    assert small_model([], tmp_path / "b.model") == first
    assert small_model(["--seed", "1"], tmp_path / "c.model") != first
    with_corpus = Vocabulary(small_model(["--corpus", str(corpus)], tmp_path / "d.model"))
    assert len(with_corpus.encode("zyxwvut")) < len(Vocabulary(first).encode("zyxwvut"))
    assert str(tmp_path).encode() not in first
    assert sorted(path.name for path in tmp_path.glob("*.partial")) == []
    assert "2048 pieces" in capsys.readouterr().out


@pytest.mark.parametrize("line", ["{broken", '["a list"]'])
def test_a_bad_corpus_line_is_named(tmp_path, line):
    corpus = tmp_path / "studies.jsonl"
    corpus.write_text('{"name": "fine"}\n' + line + "\n")
    with pytest.raises(ValueError, match="line 2"):
        list(vocabulary_training.corpus_lines(corpus))
