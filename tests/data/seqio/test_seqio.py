"""SeqIO tasks: batches that equal the trainer's own, splits, mixtures, converters for both layouts."""

import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from vizier import pyvizier as vz

pytest.importorskip("seqio")
pytest.importorskip("tensorflow")
pytest.importorskip("tensorflow_datasets")
pytest.importorskip("array_record")

import seqio
import tensorflow as tf

from optformer.data.corpus import Augmentation, Corpus
from optformer.data.corpus.batches import DEFAULT_AUGMENTATION
from optformer.data.seqio.converters import FlatFeatureConverter, StudyFeatureConverter, flat_study
from optformer.data.seqio.features import StudyVocabulary, batch_shape, task_feature_lengths
from optformer.data.seqio.tasks import (
    add_corpus_mixture,
    add_corpus_task,
    augment,
    serialize,
    study_batches,
    study_columns,
)
from optformer.data.sources import SourceError, write_studies
from optformer.data.sources.study_json import study_to_json
from optformer.data.tfds.reading import open_splits
from optformer.data.tfds.study_corpus import CorpusConfig, StudyCorpus, part_of
from optformer.serialization import tokens
from optformer.serialization.batch import BatchShape, StudyBatch
from optformer.serialization.vocabulary import Vocabulary

# SeqIO and what it imports warn about their own dependencies.
pytestmark = pytest.mark.filterwarnings("ignore")

SHAPE = BatchShape(trials=8, slots=4, text=120, policy_trials=3)


def study(name: str, repo: str, seed: int, extra: int = 0) -> vz.ProblemAndTrials:
    """Two objectives, a conditional parameter, every status, between 5 and 14 trials."""
    rng = np.random.default_rng(seed)
    problem = vz.ProblemStatement()
    root = problem.search_space.root
    root.add_float_param("lr", 1e-4, 1.0, scale_type=vz.ScaleType.LOG)
    model = root.add_categorical_param("model", ["linear", "mlp"])
    model.select_values(["mlp"]).add_int_param("width", 1, 64)
    for index in range(extra):
        root.add_float_param(f"x{index}", 0.0, 1.0)
    problem.metric_information.append(vz.MetricInformation("loss", goal=vz.ObjectiveMetricGoal.MINIMIZE))
    problem.metric_information.append(vz.MetricInformation("speed", goal=vz.ObjectiveMetricGoal.MAXIMIZE))
    facts = problem.metadata.ns("optformer")
    facts["study_id"], facts["title"], facts["algorithm"], facts["repo"] = name, f"of {name}", "random_search", repo
    trials = []
    for index in range(5 + seed % 10):
        mlp = rng.random() < 0.5
        parameters = {"lr": float(10 ** rng.uniform(-4, 0)), "model": "mlp" if mlp else "linear"}
        parameters |= {"width": int(rng.integers(1, 65))} if mlp else {}
        parameters |= {f"x{number}": float(rng.random()) for number in range(extra)}
        trial = vz.Trial(id=index + 1, parameters=parameters)
        if index % 5 == 3:
            trial.complete(vz.Measurement(), infeasibility_reason="diverged")
        elif index % 7 != 6:
            trial.complete(vz.Measurement({"loss": float(rng.normal()), "speed": float(rng.normal())}))
        trials.append(trial)
    return vz.ProblemAndTrials(problem=problem, trials=trials)


def make(folder: Path, studies: list[vz.ProblemAndTrials], name: str) -> tuple[Path, Corpus]:
    """The same studies by both routes: dataset folder and cached corpus."""
    path = folder / f"{name}.jsonl"
    write_studies(path, studies)
    builder = StudyCorpus(config=CorpusConfig(name=name, path=str(path)), data_dir=folder)
    builder.download_and_prepare()
    return Path(builder.data_dir), Corpus.open(path)


@pytest.fixture(scope="module")
def studies() -> list[vz.ProblemAndTrials]:
    return [study(f"s{index}", f"repo{index // 2}", index) for index in range(40)]


@pytest.fixture(scope="module")
def routes(studies: list[vz.ProblemAndTrials], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Corpus]:
    return make(tmp_path_factory.mktemp("routes"), studies, "mine")


@pytest.fixture
def registered(routes: tuple[Path, Corpus]) -> Iterator[str]:
    """A task over the corpus that draws every record once per epoch."""
    add_corpus_task("mine", routes[0], balanced=False)
    yield "mine"
    for registry in (seqio.TaskRegistry, seqio.MixtureRegistry):
        for name in set(registry.names()):
            registry.remove(name)


def batches(name: str, **settings: Any) -> list[StudyBatch]:
    return list(study_batches(name, SHAPE, 8, **({"num_epochs": 1, "seed": 5} | settings)))


def assert_equal(one: StudyBatch, other: StudyBatch) -> None:
    for field in StudyBatch._fields:
        left, right = np.asarray(getattr(one, field)), np.asarray(getattr(other, field))
        np.testing.assert_array_equal(left, right, err_msg=field)
        assert left.dtype == right.dtype, field


# --- Vocabulary -------------------------------------------------------------------------------------------------------


def test_the_vocabulary_is_the_shipped_one() -> None:
    wrapped, shipped = StudyVocabulary(), Vocabulary.default()
    assert (wrapped.vocab_size, wrapped.pad_id, wrapped.eos_id, wrapped.unk_id) == (len(shipped), 0, None, None)
    assert wrapped == StudyVocabulary()
    text = "learning_rate Größe <log> \U0001f600"
    ids = shipped.encode(text)
    assert wrapped.encode(text) == ids
    assert wrapped.decode(ids) == text
    np.testing.assert_array_equal(wrapped.encode_tf(tf.constant(text)), ids)
    assert wrapped.decode_tf(tf.constant(ids)).numpy().decode() == text
    rows = tf.constant([[shipped.value_id(0), shipped.keyword("log")], [shipped.value_id(999), 0]])
    assert wrapped.decode_tf(rows).numpy().tolist() == [b"<0><log>", b"<999>"]


# --- Equality of the routes -------------------------------------------------------------------------------------------


def test_the_columns_of_one_study_are_those_of_a_cache(
    studies: list[vz.ProblemAndTrials], routes: tuple[Path, Corpus]
) -> None:
    for given in studies[:3]:
        columns = study_columns(json.dumps(study_to_json(given)))
        assert len(columns["record_studies"]) == 2
        number = routes[1].study_names.index(given.problem.metadata.ns("optformer")["study_id"])
        record = routes[1]._store.record(number)
        np.testing.assert_array_equal(columns["x_tokens"], record.x_tokens.ravel())
        np.testing.assert_array_equal(columns["values"][: len(record.values)], record.values)


def test_every_example_is_what_the_cache_draws_with_its_key(registered: str, routes: tuple[Path, Corpus]) -> None:
    corpus = routes[1]
    names = np.array(corpus.study_names)
    dataset = seqio.get_mixture_or_task(registered).get_dataset(
        task_feature_lengths(SHAPE), split="train", shuffle=True, seed=11, num_epochs=2
    )
    count = 0
    for example in dataset.as_numpy_iterator():
        record = np.flatnonzero(names == example["id"].decode())[example["record"]]
        seed, step, row = example["key"].tolist()
        one = Corpus(corpus._store, np.array([record])).batch(seed, step, row + 1, SHAPE, rows=range(row, row + 1))
        for field in StudyBatch._fields:
            np.testing.assert_array_equal(example[field], getattr(one, field)[0], err_msg=field)
        count += 1
    assert count == 2 * len(corpus.split("train"))


def test_in_the_same_order_both_routes_give_the_same_batches(
    studies: list[vz.ProblemAndTrials], routes: tuple[Path, Corpus]
) -> None:
    corpus, size = routes[1], 16
    by_name = {given.problem.metadata.ns("optformer")["study_id"]: given for given in studies}
    weights = corpus._cumulative_weights(SHAPE.slots)
    for seed, step in ((0, 0), (3, 7), (3, 8)):
        drawn, keys = [], []
        for row in range(size):
            rng = np.random.Generator(np.random.Philox(key=[seed, step], counter=[0, 0, 0, row]))
            number = int(np.searchsorted(weights, rng.random(), side="right"))
            first = corpus.study_names.index(corpus.study_names[number])
            drawn.append((json.dumps(study_to_json(by_name[corpus.study_names[number]])), number - first))
            keys.append([seed, step, row])
        columns = {"study": [text for text, _ in drawn], "id": [""] * size, "group_records": [1] * size}
        wanted = tf.constant([record for _, record in drawn], tf.int64)
        dataset = serialize(tf.data.Dataset.from_tensor_slices(columns))
        # Both objectives of each study, of which the trainer drew one.
        dataset = (
            dataset.batch(2).enumerate().map(lambda i, pair, w=wanted: tf.nest.map_structure(lambda x: x[w[i]], pair))
        )
        dataset = tf.data.Dataset.zip((dataset, tf.data.Dataset.from_tensor_slices(np.array(keys))))
        dataset = dataset.map(lambda example, key: example | {"key": key})
        lengths = task_feature_lengths(SHAPE)
        dataset = StudyFeatureConverter()(augment()(dataset, sequence_length=lengths), lengths)
        (batch,) = dataset.batch(size).as_numpy_iterator()
        assert_equal(StudyBatch(**batch), corpus.batch(seed, step, size, SHAPE))


# --- Order, splits and mixtures ---------------------------------------------------------------------------------------


def test_a_seed_fixes_order_and_augmentation(registered: str) -> None:
    first, again, other = batches(registered), batches(registered), batches(registered, seed=6)
    for one, two in zip(first, again, strict=True):
        assert_equal(one, two)
    assert not np.array_equal(first[0].slot_identities, other[0].slot_identities)
    epochs = batches(registered, num_epochs=2)
    drawn = np.concatenate([batch.slot_identities for batch in epochs])
    assert len(np.unique(drawn, axis=0)) == len(drawn), "every epoch draws anew"
    assert len(batches(registered, seed=None)) == len(first)


def test_shards_part_the_records(registered: str) -> None:
    parts = [list(study_batches(registered, SHAPE, 1, num_epochs=1, seed=0, shard=(index, 2))) for index in (0, 1)]
    assert abs(len(parts[0]) - len(parts[1])) <= 2
    assert sum(map(len, parts)) == len(list(study_batches(registered, SHAPE, 1, num_epochs=1, seed=0)))


def test_no_study_is_in_two_splits(registered: str, routes: tuple[Path, Corpus]) -> None:
    names = {}
    for split in ("train", "validation"):
        dataset = seqio.get_mixture_or_task(registered).get_dataset(
            task_feature_lengths(SHAPE), split=split, shuffle=False
        )
        names[split] = {example["id"].decode() for example in dataset.as_numpy_iterator()}
        assert names[split] == set(routes[1].split(split).study_names)  # type: ignore[arg-type]
    assert not names["train"] & names["validation"]


def test_studies_with_too_many_parameters_are_left_out(registered: str, tmp_path: Path) -> None:
    folder, _ = make(tmp_path, [study("small", "a", 1), study("large", "a", 2, extra=4)], "mixed")
    add_corpus_task("mixed", folder, balanced=False)
    (split,) = open_splits(folder)
    assert len(list(study_batches("mixed", SHAPE, 1, split=split, num_epochs=1, seed=0))) == 2


def test_reruns_weigh_less(registered: str, tmp_path: Path) -> None:
    # Repositories of one split, so that both kinds are in it: 16 studies of one, and 4 alone.
    alone = [name for name in (f"alone{index}" for index in range(20)) if _in_train(name)][:4]
    many = next(name for name in (f"many{index}" for index in range(20)) if _in_train(name))
    given = [study(f"rerun{seed}", many, 1) for seed in range(16)] + [study(name, name, 2) for name in alone]
    folder, _ = make(tmp_path, given, "reruns")
    add_corpus_task("reruns", folder)
    dataset = seqio.get_mixture_or_task("reruns").get_dataset(
        task_feature_lengths(SHAPE), split="train", shuffle=False, seed=1, num_epochs=12
    )
    names = [example["id"].decode() for example in dataset.as_numpy_iterator()]
    # Of 32 records each one is kept with 1 / sqrt(32); of two with 1 / sqrt(2).
    assert sum(name.startswith("rerun") for name in names) / 12 == pytest.approx(32**0.5, rel=0.3)
    assert sum(name.startswith("alone") for name in names) / 12 == pytest.approx(4 * 2**0.5, rel=0.3)


def _in_train(repo: str) -> bool:
    return part_of(f"repo {repo}") == "train"


def test_a_mixture_draws_by_rate(registered: str, routes: tuple[Path, Corpus], tmp_path: Path) -> None:
    folder, _ = make(tmp_path, [study(f"w{index}", f"repo{index}", index, extra=1) for index in range(12)], "wide")
    add_corpus_task("wide", folder, balanced=False)
    add_corpus_mixture("both", {"mine": 3.0, "wide": 1.0})
    drawn = itertools.islice(study_batches("both", SHAPE, 16, seed=0), 25)
    slots = np.concatenate([(batch.slot_kinds > 0).sum(axis=1) for batch in drawn])
    assert set(slots.tolist()) == {3, 4}
    assert 0.68 < (slots == 3).mean() < 0.82


def test_clear_errors(registered: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no dataset folder"):
        add_corpus_task("other", tmp_path)
    add_corpus_mixture("twice", {"mine": 1.0})
    with pytest.raises(ValueError, match="duplicate"):
        add_corpus_mixture("twice", {"mine": 1.0})
    with pytest.raises(ValueError, match="needs a rate for at least one task"):
        add_corpus_mixture("none", {})
    with pytest.raises(ValueError, match=r"'mine' the rate -1\.0; it must be positive"):
        add_corpus_mixture("negative", {"mine": -1.0})
    with pytest.raises(ValueError, match=r"do not give trials, text of a batch: make them with task_feature_lengths"):
        batch_shape({"slot_kinds": 4, "policy_trials": 2})
    assert batch_shape(None) == BatchShape()
    with pytest.raises(ValueError, match="none may be negative"):
        StudyFeatureConverter(policy_weight=-1.0)


# --- Converters -------------------------------------------------------------------------------------------------------


def test_loss_weights_are_scaled_by_kind(registered: str) -> None:
    plain = batches(registered)
    for one, other in zip(plain, batches(registered, policy_weight=0.5, function_weight=3.0), strict=True):
        np.testing.assert_array_equal(0.5 * one.policy_weights, other.policy_weights)
        np.testing.assert_array_equal(3.0 * one.function_weights, other.function_weights)
    assert (np.concatenate([batch.policy_weights for batch in plain]) > 0).any()


def test_a_flat_study_is_its_trials_one_after_the_other(
    studies: list[vz.ProblemAndTrials], reference: Callable[..., Any]
) -> None:
    problem, known = studies[9].problem, list(studies[9].trials)[:9]
    batch, _ = reference(problem, known, BatchShape(12, 5, 200, 4), prefix_length=4, policy_trials=[6, 2])
    padded = StudyBatch(*(field[0] for field in batch))
    inputs, targets, weights = flat_study(padded, policy_weight=2.0, function_weight=3.0)
    offset = Vocabulary.default().decoder_offset
    np.testing.assert_array_equal(inputs, padded.text_tokens[padded.text_segments >= 0])
    slots, y = int((padded.slot_kinds > 0).sum()), padded.y_tokens[:9]
    trials = [[*padded.x_tokens[t, :slots], tokens.STAR, y[t], tokens.BAR] for t in range(9)]
    np.testing.assert_array_equal(targets, np.ravel(trials) + offset)
    grid = weights.reshape(9, -1)
    np.testing.assert_array_equal(grid[:, -2], np.where((np.arange(9) >= 4) & (y != tokens.PENDING), 3.0, 0.0))
    np.testing.assert_array_equal(grid[[6, 2], :-3], 2.0 * padded.policy_weights[:2, :slots])
    assert not grid[[0, 1, 3, 4, 5, 7, 8], :-3].any()
    assert not grid[:, [-3, -1]].any()


def flat(name: str, converter: FlatFeatureConverter) -> list[dict[str, np.ndarray]]:
    dataset = seqio.get_dataset(name, task_feature_lengths(SHAPE), converter, shuffle=False, seed=2, verbose=False)
    return list(dataset.as_numpy_iterator())


def test_packed_rows_hold_the_same_studies(routes: tuple[Path, Corpus], registered: str) -> None:
    assert DEFAULT_AUGMENTATION.order_free_rate > 0
    add_corpus_task("ordered", routes[0], augmentation=Augmentation(order_free_rate=0.0), balanced=False)
    single = flat("ordered", FlatFeatureConverter(0.5, 2.0, pack=False))
    packed = flat("ordered", FlatFeatureConverter(0.5, 2.0, encoder_length=400, decoder_length=200))
    assert len(packed) < 0.5 * len(single)
    unpacked = []
    for row in packed:
        assert row["encoder_segment_ids"].max() == row["decoder_segment_ids"].max()
        for segment in range(1, row["decoder_segment_ids"].max() + 1):
            inside = row["decoder_segment_ids"] == segment
            np.testing.assert_array_equal(row["decoder_positions"][inside], np.arange(inside.sum()))
            # The first token of a study sees a start token, not the end of the study before.
            assert row["decoder_input_tokens"][inside][0] == 0
            np.testing.assert_array_equal(
                row["decoder_input_tokens"][inside][1:], row["decoder_target_tokens"][inside][:-1]
            )
            encoder = row["encoder_input_tokens"][row["encoder_segment_ids"] == segment]
            unpacked.append((encoder, row["decoder_target_tokens"][inside], row["decoder_loss_weights"][inside]))
        assert not row["decoder_loss_weights"][row["decoder_segment_ids"] == 0].any()
    assert len(unpacked) == len(single)
    for (encoder, targets, weights), row in zip(unpacked, single, strict=True):
        np.testing.assert_array_equal(encoder, row["encoder_input_tokens"][: len(encoder)])
        np.testing.assert_array_equal(targets, row["decoder_target_tokens"][: len(targets)])
        np.testing.assert_array_equal(weights, row["decoder_loss_weights"][: len(targets)])
        assert not row["decoder_target_tokens"][len(targets) :].any()
    kinds = {float(weight) for _, _, weights in unpacked for weight in weights}
    assert kinds == {0.0, 0.25, 0.5, 2.0}, "none, cut studies, parameters, objectives"


def test_rows_too_short_for_a_study_are_refused(registered: str) -> None:
    with pytest.raises(ValueError, match=r"rows of 120 encoder and 50 decoder tokens cannot hold .* up to 120 and 56"):
        flat(registered, FlatFeatureConverter(decoder_length=50))
