"""Golden tables of the metadata text, and that no user text can pose as structure."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from vizier import pyvizier as vz

from optformer.serialization.metadata import MetadataOptions, metadata_segments, metadata_text, tokenize
from optformer.serialization.space import StudySchema
from optformer.serialization.vocabulary import KEYWORDS, Vocabulary

vocabulary = Vocabulary.default()
keyword_ids = {vocabulary.keyword(name) for name in KEYWORDS}


def convnet() -> vz.ProblemStatement:
    """The worked example of the OptFormer paper (tables 1 and 2)."""
    problem = vz.ProblemStatement()
    problem.metadata.ns("optformer").update({"title": "convnet on cifar10", "algorithm": "random_search"})
    root = problem.search_space.root
    root.add_float_param("opt_kw.lr", 1e-6, 1e-2, scale_type=vz.ScaleType.LOG)
    root.add_categorical_param("opt_type", ["SGD", "Adam"])
    problem.metric_information.append(vz.MetricInformation("accuracy", goal=vz.ObjectiveMetricGoal.MAXIMIZE))
    return problem


def everything() -> vz.ProblemStatement:
    problem = vz.ProblemStatement()
    entries = {"title": "a  study\n of all", "description": "two lines\nof text", "study_id": "s1"}
    problem.metadata.ns("optformer").update(entries)
    root = problem.search_space.root
    root.add_float_param("x", -1, 2.123456789)
    root.add_float_param("y", 1, 10, scale_type=vz.ScaleType.REVERSE_LOG)
    root.add_int_param("n", 1, 2**20, scale_type=vz.ScaleType.LOG)
    root.add_int_param("k", 0, 7)
    root.add_discrete_param("batch", [16, 32, 0.5])
    root.add_categorical_param("kind", ["a", "b", "c"])
    root.select("kind", ["a", "c"]).add_bool_param("flag")
    root.add_int_param("seed", 3, 3)
    root.add_categorical_param("device", ["cpu"])
    problem.metric_information.append(vz.MetricInformation("loss", goal=vz.ObjectiveMetricGoal.MINIMIZE))
    return problem


def test_worked_example():
    assert metadata_text(convnet()) == (
        "<title>convnet on cifar10<algorithm>random_search<metric>accuracy<maximize>\n"
        "<name>opt_kw.lr<double><log><min>1e-06<max>0.01\n"
        "<name>opt_type<categorical><levels>2<value>Adam<value>SGD"
    )


def test_all_types_and_scales():
    assert metadata_text(everything(), "gp_ucb") == (
        "<title>a study of all<description>two lines of text<algorithm>gp_ucb<metric>loss<minimize>"
        "<fixed>seed<value>3<fixed>device<value>cpu\n"
        "<name>x<double><linear><min>-1<max>2.12346\n"
        "<name>y<double><reverse_log><min>1<max>10\n"
        "<name>n<integer><log><levels>1000<min>1<max>1.04858e+06\n"
        "<name>k<integer><linear><levels>8<min>0<max>7\n"
        "<name>batch<discrete><levels>3<value>0.5<value>16<value>32\n"
        "<name>kind<categorical><levels>3<value>a<value>b<value>c\n"
        "<name>flag<categorical><levels>2<when>kind<is>a<is>c<value>False<value>True"
    )


def test_dropping():
    options = MetadataOptions(title=False, description=False, algorithm=False, metric=False, names=False, ranges=False)
    assert metadata_text(everything(), "gp_ucb", options) == (
        "<minimize>\n"
        "<double><linear>\n"
        "<double><reverse_log>\n"
        "<integer><log><levels>1000\n"
        "<integer><linear><levels>8\n"
        "<discrete><levels>3\n"
        "<categorical><levels>3\n"
        "<categorical><levels>2<when>"
    )
    without_names = metadata_text(everything(), options=MetadataOptions(names=False)).splitlines()
    assert without_names[0] == "<title>a study of all<description>two lines of text<metric>loss<minimize>"
    assert without_names[-1] == "<categorical><levels>2<when><is>a<is>c<value>False<value>True"
    without_ranges = metadata_text(everything(), options=MetadataOptions(ranges=False)).splitlines()
    assert without_ranges[0].endswith("<minimize><fixed>seed<fixed>device")
    assert without_ranges[-1] == "<name>flag<categorical><levels>2<when>kind"


def test_the_algorithm_given_overrides_the_recorded_one():
    assert "<algorithm>tpe<metric>" in metadata_text(convnet(), "tpe")
    assert "<algorithm>" not in metadata_text(convnet(), "tpe", MetadataOptions(algorithm=False))


def test_several_metrics():
    problem = convnet()
    problem.metric_information.append(vz.MetricInformation("latency", goal=vz.ObjectiveMetricGoal.MINIMIZE))
    assert metadata_text(problem, objective=1).splitlines()[0].endswith("<metric>latency<minimize>")
    assert "<metric>" not in metadata_text(vz.ProblemStatement(search_space=problem.search_space))


def long_problem() -> vz.ProblemStatement:
    problem = convnet()
    problem.metadata.ns("optformer").update({"title": "word " * 500, "description": "text " * 500})
    root = problem.search_space.root
    root.add_categorical_param("choice", [f"k{index:03d}" for index in range(200)])
    root.add_discrete_param("points", list(range(0, 2000, 2)))
    root.add_float_param("n" * 4000, 0, 1)
    root.select("choice", [f"k{index:03d}" for index in range(150)]).add_float_param("child", 0, 1)
    for index in range(60):
        root.add_int_param(f"fixed_{index}", index, index)
    return problem


@pytest.mark.parametrize("options", [MetadataOptions(), MetadataOptions(header_tokens=20, clause_tokens=9)])
def test_limits_hold_and_keep_what_matters(options):
    header, *clauses = metadata_segments(long_problem(), options=options)
    assert len(header) <= options.header_tokens
    assert all(len(clause) <= options.clause_tokens for clause in clauses)
    text = metadata_text(long_problem(), options=MetadataOptions(clause_tokens=60)).splitlines()
    assert text[0].endswith("<more>")
    assert "<maximize>" in text[0]
    choice, child, points, long_name = text[3:]
    assert choice.startswith("<name>choice<categorical><levels>200<value>k000<value>k001")
    assert choice.endswith("<more>")
    assert points.endswith("<value>26<value>28<value>30<more>")  # 16 values
    assert long_name.endswith("<double><linear><min>0<max>1")
    assert "<when>choice<is>k000" in child
    assert child.endswith("<more>")


def test_tokens_segments_and_positions():
    text = tokenize([[5, 6, 7], [8], [], [9, 10]])
    assert text.text_tokens.tolist() == [5, 6, 7, 8, 9, 10]
    assert text.text_segments.tolist() == [0, 0, 0, 1, 3, 3]
    assert text.text_positions.tolist() == [0, 1, 2, 0, 0, 1]
    assert all(array.dtype == np.int32 for array in text)


def test_text_is_deterministic_and_does_not_need_a_new_schema():
    schema = StudySchema(everything())
    assert metadata_segments(schema) == metadata_segments(everything()) == metadata_segments(schema)


texts = st.text(min_size=1) | st.sampled_from(
    ["<log>", "<name>x<double>", "<pad>", "<0>", "<999>", "|", "*", "<value>"]
)


@given(title=texts, name=texts, categories=st.lists(texts, min_size=2, max_size=4, unique=True), metric=texts)
def test_user_text_cannot_inject_a_keyword(title, name, categories, metric):
    """The keywords of a study are those of the same study with harmless words, in the same order."""

    def keywords(title, name, categories, metric):
        problem = vz.ProblemStatement()
        problem.metadata.ns("optformer")["title"] = title
        problem.search_space.root.add_categorical_param(name, categories)
        problem.metric_information.append(vz.MetricInformation(metric, goal=vz.ObjectiveMetricGoal.MAXIMIZE))
        options = MetadataOptions(header_tokens=10**6, clause_tokens=10**6)
        segments = metadata_segments(problem, options=options)
        return [[token for token in segment if token in keyword_ids] for segment in segments]

    plain = keywords("title", "name", [f"c{index}" for index in range(len(categories))], "metric")
    assert keywords(title, name, categories, metric) == plain


def test_long_texts_keep_beginning_and_end():
    problem = convnet()
    name = "model.encoder.blocks.17.attention.projection.out.kernel.initializer.scale"
    problem.search_space.root.add_categorical_param(name, [f"/very/long/directory/name/{index}" for index in range(2)])
    clause = metadata_text(problem).splitlines()[-1]
    assert clause.startswith("<name>model.")
    assert ".scale<categorical>" in clause
    first, second = clause.split("<value>")[1:]
    assert first != second
