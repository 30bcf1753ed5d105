"""Batches of a corpus: equal to what the serializer writes, augmentation, purity, weights of groups, split."""

import dataclasses
import json
import os
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mixed_studies import study
from vizier import pyvizier as vz

from optformer.data.corpus import Augmentation, Corpus, CorpusError, building
from optformer.data.corpus.augmentation import choose_prefix, choose_trials, order_slots
from optformer.serialization import objective, tokens
from optformer.serialization.batch import BatchShape, StudyBatch
from optformer.serialization.metadata import MetadataOptions
from optformer.serialization.vocabulary import Vocabulary

SHAPE = BatchShape(trials=12, slots=5, text=250, policy_trials=4)
PLAIN = Augmentation(
    drop_names=0.0,
    drop_ranges=0.0,
    drop_title=0.0,
    drop_description=0.0,
    drop_algorithm=0.0,
    drop_metric=0.0,
    drop_goal=0.0,
    flip_goal=0.0,
    permute_slots=False,
    order_free_rate=0.0,
    pending_rate=0.0,
)


def assert_equal(one: StudyBatch, other: StudyBatch) -> None:
    for field in StudyBatch._fields:
        np.testing.assert_array_equal(getattr(one, field), getattr(other, field), err_msg=field)


def test_shapes_types_and_padding(corpus: Corpus, reference: Callable[..., Any]) -> None:
    batch = corpus.batch(0, 0, 16, SHAPE)
    alone, _ = reference(*_parts(study("s")), dataclasses.replace(SHAPE, policy_trials=10))
    for field in StudyBatch._fields:
        assert getattr(batch, field).dtype == getattr(alone, field).dtype, field
    assert batch.x_tokens.shape == (16, 12, 5)
    assert batch.policy_weights.shape == (16, 4, 5)
    unused = ~(batch.trial_mask[:, :, None] & (batch.slot_kinds > 0)[:, None, :])
    assert (batch.x_tokens[unused] == tokens.PAD).all()
    assert (batch.y_tokens[~batch.trial_mask] == tokens.PAD).all()
    assert (batch.text_tokens[batch.text_segments < 0] == 0).all()
    assert (batch.slot_kinds[:, 4] == 0).all()


def _parts(given: vz.ProblemAndTrials) -> tuple[vz.ProblemStatement, list[vz.Trial]]:
    return given.problem, list(given.trials)


@pytest.mark.parametrize("dropped", [(), ("names",), ("ranges", "title", "metric")])
def test_a_batch_holds_its_studies_as_they_are_written_alone(
    studies: list[vz.ProblemAndTrials], corpus: Corpus, reference: Callable[..., Any], dropped: tuple[str, ...]
) -> None:
    wide = BatchShape(trials=48, slots=5, text=250, policy_trials=4)
    augmentation = dataclasses.replace(PLAIN, **{f"drop_{field}": 1.0 for field in dropped})
    options = MetadataOptions(**dict.fromkeys(dropped, False))
    batch = corpus.batch(0, 1, 12, wide, augmentation)
    compared = [field for field in StudyBatch._fields if not field.startswith("policy")]
    by_length = {len(given.trials): given for given in studies}
    for row in range(12):
        given = by_length[int(batch.trial_mask[row].sum())]
        candidates = [
            reference(
                *_parts(given),
                wide,
                options=options,
                prefix_length=int(batch.prefix_length[row]),
                metric=metric,
                identities=batch.slot_identities[row][:4],
                policy_trials=[],
            )[0]
            for metric in (0, 1)
        ]
        assert any(
            all(np.array_equal(getattr(batch, field)[row], getattr(want, field)[0]) for field in compared)
            for want in candidates
        )


def test_a_batch_is_a_pure_function_of_seed_and_step(corpus: Corpus) -> None:
    first = corpus.batch(3, 7, 8, SHAPE)
    corpus.batch(3, 8, 8, SHAPE)
    assert_equal(first, corpus.batch(3, 7, 8, SHAPE))
    for seed, step in ((3, 8), (4, 7), (7, 3)):
        assert not np.array_equal(first.y_tokens, corpus.batch(seed, step, 8, SHAPE).y_tokens)


def test_some_rows_of_a_batch_are_those_rows_of_the_whole(corpus: Corpus) -> None:
    whole = corpus.batch(3, 7, 8, SHAPE)
    part = corpus.batch(3, 7, 8, SHAPE, rows=range(4, 7))
    assert_equal(part, StudyBatch(*(field[4:7] for field in whole)))
    assert len({study.tobytes() for study in whole.slot_identities}) > 4
    with pytest.raises(ValueError, match="not all rows of a batch of 8"):
        corpus.batch(3, 7, 8, SHAPE, rows=range(6, 9))


def test_the_same_batch_in_another_process_without_vizier(corpus: Corpus) -> None:
    program = (
        "import sys, zlib, numpy\n"
        "from optformer.data.corpus import Corpus\n"
        "from optformer.serialization.batch import BatchShape\n"
        f"corpus = Corpus.open({str(corpus._store.directory)!r})\n"
        "batch = corpus.batch(5, 6, 8, BatchShape(trials=12, slots=5, text=250, policy_trials=4))\n"
        "assert not {'vizier', 'tensorflow'} & set(sys.modules), 'too much is imported'\n"
        "print(zlib.crc32(b''.join(field.tobytes() for field in batch)), corpus.fingerprint)\n"
    )
    environment = os.environ | {"PYTHONHASHSEED": "7"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    digest = zlib.crc32(b"".join(field.tobytes() for field in corpus.batch(5, 6, 8, SHAPE)))
    assert done.stdout.split() == [str(digest), corpus.fingerprint]


def test_scaling_is_fitted_on_the_prefix(corpus: Corpus, studies: list[vz.ProblemAndTrials]) -> None:
    wide = BatchShape(trials=48, slots=5, text=250, policy_trials=4)
    batch = corpus.batch(1, 1, 32, wide, PLAIN)
    by_length = {len(given.trials): given for given in studies}
    loss = Vocabulary.default().keyword("minimize")
    for row in range(32):
        given = by_length[int(batch.trial_mask[row].sum())]
        metric, sign = ("loss", -1.0) if loss in batch.text_tokens[row] else ("speed", 1.0)
        measured = [trial.final_measurement for trial in given.trials]
        values = np.array([sign * m.metrics[metric].value if m and m.metrics else np.nan for m in measured])
        known = np.isfinite(values) & (np.arange(len(values)) < batch.prefix_length[row])
        bins = objective.to_bins(values[np.isfinite(values)], objective.fit(values, known))
        np.testing.assert_array_equal(batch.y_tokens[row][: len(values)][np.isfinite(values)], bins)


def test_function_and_policy_weights(corpus: Corpus) -> None:
    batches = [corpus.batch(0, step, 32, SHAPE) for step in range(8)]
    batch = StudyBatch(*(np.concatenate(field) for field in zip(*batches, strict=True)))
    trial = np.arange(12)[None, :]
    after = trial >= batch.prefix_length[:, None]
    predictable = (batch.y_tokens < tokens.NUM_LEVELS) | (batch.y_tokens == tokens.INFEASIBLE)
    weights = batch.function_weights > 0
    assert not (weights & ~(after & predictable & batch.trial_mask)).any()
    scaled = ((batch.y_tokens < tokens.NUM_LEVELS) & ~after).any(1)
    np.testing.assert_array_equal(weights[scaled], (after & predictable & batch.trial_mask)[scaled])
    assert {tokens.INFEASIBLE, tokens.PENDING} <= set(batch.y_tokens.ravel().tolist())
    assert (batch.prefix_length >= 1).all()
    assert (batch.prefix_length < batch.trial_mask.sum(1)).all()

    assert 0.35 < batch.order_free.mean() < 0.65
    for row in range(len(batch.order_free)):
        chosen, weight = batch.policy_trials[row], batch.policy_weights[row]
        assert len(set(chosen.tolist())) == 4
        x_tokens = batch.x_tokens[row][chosen]
        assert (weight[x_tokens >= tokens.NUM_LEVELS] == 0).all(), "INACTIVE, MISSING and padding carry none"
        if batch.order_free[row]:
            assert (weight[chosen < batch.prefix_length[row]] == 0).all()
    assert (batch.x_tokens == tokens.INACTIVE).any()


def test_blind_studies_know_no_trial_and_are_scaled_as_a_whole(tmp_path: Path) -> None:
    building.build([study("one", trials=12)], tmp_path / "c")
    one = Corpus.open(tmp_path / "c")
    blind = one.batch(0, 0, 8, SHAPE, dataclasses.replace(PLAIN, blind_rate=1.0))
    assert (blind.prefix_length == 0).all()
    values = (blind.y_tokens < tokens.NUM_LEVELS) | (blind.y_tokens == tokens.INFEASIBLE)
    np.testing.assert_array_equal(blind.function_weights, values & blind.trial_mask)
    for row in blind.y_tokens:
        bins = row[row < tokens.NUM_LEVELS]
        assert bins.max() == 699, "the best of the whole study"
        assert abs((bins < 310).sum() - (bins > 310).sum()) <= 1, "half of it is below the middle of the scale"
    mixed = [one.batch(0, step, 8, SHAPE, dataclasses.replace(PLAIN, blind_rate=0.5)) for step in range(8)]
    assert 0.3 < np.mean([batch.prefix_length == 0 for batch in mixed]) < 0.7


def test_trials_by_another_hand_teach_no_policy_and_keep_the_name_of_who_goes_on(tmp_path: Path) -> None:
    mixed = study("mixed", trials=10)
    for trial in mixed.trials[:6]:
        trial.is_requested = True
    building.build([mixed, study("pure", trials=10)], tmp_path / "cache")
    corpus = Corpus.open(tmp_path / "cache")
    nameless = dataclasses.replace(PLAIN, drop_algorithm=1.0, drop_title=1.0)
    wide = dataclasses.replace(SHAPE, policy_trials=10)
    name = Vocabulary.default().encode("random_search")
    seen: dict[bool, int] = {True: 0, False: 0}
    for step in range(6):
        batch = corpus.batch(1, step, 8, wide, nameless)
        for row in range(8):
            weight = batch.policy_weights[row].any(axis=-1)
            taught = sorted(batch.policy_trials[row][weight].tolist())
            header = batch.text_tokens[row][batch.text_segments[row] == 0].tolist()
            named = any(header[at : at + len(name)] == name for at in range(len(header)))
            assert taught == ([6, 7, 8, 9] if named else list(range(10)))
            seen[named] += 1
    assert min(seen.values()) > 10


def test_what_follows_a_broken_constraint_teaches_no_policy(tmp_path: Path) -> None:
    constrained = study("constrained", trials=10)
    constrained.problem.metric_information.append(
        vz.MetricInformation("heat", goal=vz.ObjectiveMetricGoal.MINIMIZE, safety_threshold=1.0)
    )
    for trial in constrained.trials:
        if trial.final_measurement is not None:
            trial.final_measurement.metrics["heat"] = 1.5 if trial.id in (5, 8) else 1.0
    unconstrained = study("constrained", trials=10)
    building.build([constrained], tmp_path / "cache")
    building.build([unconstrained], tmp_path / "plain")
    wide = dataclasses.replace(SHAPE, policy_trials=10)
    batch, plain = (Corpus.open(tmp_path / name).batch(1, 0, 8, wide, PLAIN) for name in ("cache", "plain"))
    for row in range(8):
        taught = batch.policy_trials[row][batch.policy_weights[row].any(axis=-1)]
        assert sorted(taught.tolist()) == [0, 1, 2, 3, 4], "up to the first that breaks it, which was chosen before"
    np.testing.assert_array_equal(batch.y_tokens, plain.y_tokens)
    np.testing.assert_array_equal(batch.function_weights, plain.function_weights)


def test_slots_are_permuted_with_parents_first(corpus: Corpus) -> None:
    batch = corpus.batch(0, 0, 64, SHAPE)
    kinds = [tuple(row[:4]) for row in batch.slot_kinds.tolist()]
    assert len(set(kinds)) > 5
    for row in kinds:
        assert row.index(tokens.CATEGORICAL) < row.index(tokens.INTEGER), "width belongs to model=mlp"
    tree = np.array([-1, 0, 1, 1, -1, 4])
    rng = np.random.default_rng(0)
    orders = [order_slots(rng, tree, Augmentation()) for _ in range(200)]
    for order in orders:
        place = np.argsort(order)
        assert all(place[parent] < place[slot] for slot, parent in enumerate(tree) if parent >= 0)
    assert len({tuple(order) for order in orders}) > 20
    for identities in batch.slot_identities:
        assert len(set(identities[:4].tolist())) == 4


def test_permuted_clauses_follow_their_slots(corpus: Corpus) -> None:
    vocabulary = Vocabulary.default()
    keywords = {1: "<double>", 2: "<integer>", 3: "<discrete>", 4: "<categorical>"}
    batch = corpus.batch(0, 0, 16, SHAPE)
    for row in range(16):
        for slot in range(4):
            clause = vocabulary.decode(batch.text_tokens[row][batch.text_segments[row] == slot + 1])
            assert keywords[int(batch.slot_kinds[row, slot])] in clause
            positions = batch.text_positions[row][batch.text_segments[row] == slot + 1]
            np.testing.assert_array_equal(positions, np.arange(len(positions)))


def test_goal_flip_negates_values_and_swaps_the_keyword(tmp_path: Path) -> None:
    building.build([study("one", trials=12)], tmp_path / "c")
    one = Corpus.open(tmp_path / "c")
    straight = one.batch(0, 0, 8, SHAPE, PLAIN)
    flipped = one.batch(0, 0, 8, SHAPE, dataclasses.replace(PLAIN, flip_goal=1.0))
    maximize, minimize = (Vocabulary.default().keyword(goal) for goal in ("maximize", "minimize"))
    np.testing.assert_array_equal(straight.text_tokens == maximize, flipped.text_tokens == minimize)
    np.testing.assert_array_equal(straight.text_tokens == minimize, flipped.text_tokens == maximize)
    assert (flipped.policy_weights == 0).all()
    assert (straight.policy_weights > 0).any()
    for row in range(8):
        values = straight.y_tokens[row] < tokens.NUM_LEVELS
        prefix = values & (np.arange(12) < straight.prefix_length[row])
        assert straight.y_tokens[row][prefix].argmax() == flipped.y_tokens[row][prefix].argmin() or prefix.sum() < 2


def test_dropped_goal_leaves_a_header_without_gaps(tmp_path: Path) -> None:
    building.build([study("one", trials=12)], tmp_path / "c")
    one = Corpus.open(tmp_path / "c")
    written = one.batch(0, 0, 8, SHAPE, PLAIN)
    dropped = one.batch(0, 0, 8, SHAPE, dataclasses.replace(PLAIN, drop_goal=1.0))
    goals = [Vocabulary.default().keyword(goal) for goal in ("maximize", "minimize")]
    for row in range(8):
        header, shorter = (batch.text_tokens[row][batch.text_segments[row] == 0] for batch in (written, dropped))
        np.testing.assert_array_equal(header[~np.isin(header, goals)], shorter)
        assert len(shorter) == len(header) - 1
        positions = dropped.text_positions[row][dropped.text_segments[row] == 0]
        np.testing.assert_array_equal(positions, np.arange(len(shorter)))


def test_text_that_does_not_fit_loses_fields_then_clauses(corpus: Corpus) -> None:
    vocabulary = Vocabulary.default()
    narrow = [corpus.batch(0, 0, 8, BatchShape(12, 5, text, 4), PLAIN) for text in (250, 40, 28, 8)]
    texts = [[vocabulary.decode(row) for row in batch.text_tokens] for batch in narrow]
    assert all("<min>" in text and "<name>" in text for text in texts[0])
    assert all("<min>" not in text and "<name>" in text for text in texts[1])
    assert all("<name>" not in text for text in texts[2])
    for row in range(8):
        kept = narrow[3].text_segments[row]
        assert 0 < kept.max() < 4, "header and some clauses"
        for segment in range(kept.max() + 1):
            whole = (narrow[2].text_segments[row] == segment).sum()
            assert segment == 0 or (kept == segment).sum() == whole


def test_long_studies_are_cut_in_three_ways() -> None:
    rng = np.random.default_rng(0)
    cuts = [choose_trials(rng, 100, 10) for _ in range(300)]
    assert all(len(chosen) == 10 and (np.diff(chosen) > 0).all() for chosen, _ in cuts)
    first = np.mean([from_start for _, from_start in cuts])
    in_a_row = np.mean([chosen[-1] - chosen[0] == 9 for chosen, _ in cuts])
    assert 0.3 < first < 0.5
    assert 0.6 < in_a_row < 0.8
    np.testing.assert_array_equal(choose_trials(rng, 4, 10)[0], np.arange(4))


def test_prefixes_are_short_more_often_than_long() -> None:
    rng = np.random.default_rng(0)
    prefixes = np.array([choose_prefix(rng, 40, Augmentation()) for _ in range(2000)])
    assert prefixes.min() == 1
    assert prefixes.max() >= 37
    assert prefixes.max() < 40
    assert 11 < np.median(prefixes) < 17
    assert 0.01 < (prefixes == 1).mean() < 0.06
    assert [choose_prefix(rng, 1, Augmentation()) for _ in range(3)] == [1, 1, 1]


def test_big_groups_do_not_dominate(tmp_path: Path) -> None:
    reruns = [study(f"rerun{seed}", repo="many", seed=seed, trials=8) for seed in range(16)]
    building.build([*reruns, study("alone", repo="one", trials=11)], tmp_path / "c")
    unequal = Corpus.open(tmp_path / "c")
    lengths = unequal.batch(0, 0, 2000, SHAPE).trial_mask.sum(1)
    # 16 studies weigh as 4 against 1.
    assert 0.16 < (lengths == 11).mean() < 0.24


def of_family(name: str, family: str, instance: str, trials: int) -> vz.ProblemAndTrials:
    """A generated study of a problem of a family."""
    made = study(name, trials=trials)
    facts = made.problem.metadata.ns("optformer")
    facts["source"], facts["problem"], facts["group"] = family, instance, f"{family} {instance}"
    return made


def test_families_and_their_instances_have_their_shares_however_many_studies_there_are(tmp_path: Path) -> None:
    # Trials tell them apart: 9 instances of one family, one of them with four studies; one of another with 50; a log.
    studies = [of_family(f"a{number}", "many", f"{number}", 8) for number in range(8)]
    studies += [of_family(f"b{number}", "many", "8", 9) for number in range(4)]
    studies += [of_family(f"c{number}", "one", "0", 10) for number in range(50)]
    studies += [study(f"d{number}", repo="r", trials=11) for number in range(3)]
    building.build(studies, tmp_path / "c")
    index = json.loads((tmp_path / "c" / "index.json").read_text())
    assert index["families"] == ["many"] * 9 + ["one", "logged"]
    lengths = Corpus.open(tmp_path / "c").batch(0, 0, 4000, SHAPE).trial_mask.sum(1)
    found = [(lengths == trials).mean() for trials in (8, 9, 10, 11)]
    # Families as the roots of 9, 1 and 1 instances; in the first, four studies weigh as two.
    np.testing.assert_allclose(found, [0.6 * 8 / 10, 0.6 * 2 / 10, 0.2, 0.2], atol=0.03)


def test_one_family_is_weighted_by_groups_alone(tmp_path: Path) -> None:
    building.build([of_family(f"a{i}", "many", f"{i // 3}", 8) for i in range(7)], tmp_path / "c")
    weights = np.diff(Corpus.open(tmp_path / "c")._cumulative_weights(8), prepend=0.0)
    wanted = np.repeat([6, 6, 6, 6, 6, 6, 2], 2) ** -0.5  # records of the group: two of each study
    np.testing.assert_allclose(weights, wanted / wanted.sum())


def test_a_split_parts_no_group_and_is_stable(
    corpus: Corpus, studies: list[vz.ProblemAndTrials], tmp_path: Path
) -> None:
    train, validation = corpus.split("train", 0.5), corpus.split("validation", 0.5)
    assert len(train) + len(validation) == len(corpus) == 16
    groups = [{int(name[1:]) // 2 for name in part.study_names} for part in (train, validation)]
    assert groups[0]
    assert groups[1]
    assert not groups[0] & groups[1]
    assert len({corpus.fingerprint, train.fingerprint, validation.fingerprint}) == 3
    assert train.batch(0, 0, 4, SHAPE).x_tokens.shape == (4, 12, 5)

    building.build([study("new", repo="other"), *reversed(studies)], tmp_path / "more")
    again = Corpus.open(tmp_path / "more").split("validation", 0.5)
    assert set(validation.study_names) <= set(again.study_names)
    assert len({tuple(corpus.split("validation", 0.5, seed).study_names) for seed in range(6)}) > 1
    with pytest.raises(CorpusError, match="has no records"):
        corpus.split("validation", 0.0).batch(0, 0, 4, SHAPE)
    with pytest.raises(ValueError, match="not 'test'"):
        corpus.split("test")  # type: ignore[arg-type]


def test_without_a_repository_studies_of_one_space_are_a_group(tmp_path: Path) -> None:
    given = [study("a", seed=1), study("b", seed=2), study("c", extra=1)]
    building.build(given, tmp_path / "c")
    assert len(json.loads((tmp_path / "c" / "index.json").read_text())["groups"]) == 2


def test_studies_with_too_many_slots_are_counted_and_never_drawn(tmp_path: Path) -> None:
    building.build([study("small"), study("large", extra=3)], tmp_path / "c")
    mixed = Corpus.open(tmp_path / "c")
    coverage = mixed.coverage(SHAPE)
    assert (coverage.records, coverage.too_many_slots) == (4, 2)
    assert ((mixed.batch(0, 0, 64, SHAPE).slot_kinds > 0).sum(1) == 4).all()
    with pytest.raises(CorpusError, match=r"none of the 4 records .* at most 3 parameters, the smallest has 4"):
        mixed.batch(0, 0, 4, BatchShape(trials=4, slots=3, text=20, policy_trials=1))
