"""Products of factors rounded to bfloat16: against NumPy, in whole models, and on which processors."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx

from optformer.model import ModelConfig, build_model
from optformer.model.build import round_products
from optformer.model.layers import Projection
from optformer.model.precision import has_fast_bfloat16, rounded_product


def rounded(x):
    return x.astype(ml_dtypes.bfloat16).astype(np.float64)


@pytest.mark.parametrize(("rows", "inputs", "outputs"), [(40, 24, 36), (1, 8, 5), (7, 1, 3), (9, 16, 1)])
def test_factors_are_rounded_and_sums_are_not(rows, inputs, outputs):
    rng = np.random.default_rng(rows)
    x, kernel, gradient = (
        rng.standard_normal(shape).astype(np.float32) for shape in ((rows, inputs), (inputs, outputs), (rows, outputs))
    )

    @jax.jit
    def both_ways(x, kernel, gradient):
        product, backward = jax.vjp(rounded_product, x, kernel)
        return product, *backward(gradient)

    product, of_x, of_kernel = both_ways(x, kernel, gradient)
    assert product.dtype == of_x.dtype == of_kernel.dtype == jnp.float32
    close = {"rtol": 1e-5, "atol": 1e-5}
    np.testing.assert_allclose(product, rounded(x) @ rounded(kernel), **close)
    np.testing.assert_allclose(of_x, rounded(gradient) @ rounded(kernel).T, **close)
    np.testing.assert_allclose(of_kernel, rounded(x).T @ rounded(gradient), **close)


@pytest.mark.slow
def test_a_model_learns_the_same_within_the_error_of_bfloat16(models, run):
    """Each arrangement: losses to a thousandth, gradients to some hundredths of their size; exact ones when off."""
    for name, model in models.items():
        batch = run.study(3, studies=3)
        (exact, _), gradient = run.gradient(model, batch)
        try:
            round_products(model, True)
            (close, _), near = run.gradient(model, batch)
        finally:
            round_products(model, False)
        (again, _), same = run.gradient(model, batch)
        assert float(again) == float(exact), name
        jax.tree.map(np.testing.assert_array_equal, same, gradient)
        assert float(close) != float(exact)
        assert float(close) == pytest.approx(float(exact), rel=2e-3), name
        for wanted, got in zip(jax.tree.leaves(gradient), jax.tree.leaves(near), strict=True):
            size = np.linalg.norm(wanted)
            assert np.linalg.norm(np.asarray(got) - np.asarray(wanted)) <= 0.05 * size + 1e-4, name


def test_values_stay_exact():
    """The features of a bin differ from its neighbour's by less than bfloat16 tells apart."""
    model = build_model(ModelConfig.tiny())
    round_products(model, True)
    rounding = {path for path, node in nnx.iter_graph(model) if isinstance(node, Projection) and node.rounded}
    assert ("values", "tokens", "numeric") not in rounding
    assert ("slots", "modulation") not in rounding
    assert {("trials", "up"), ("blocks", 0, "self_qkv"), ("function_head", "free")} <= rounding


def test_a_model_in_bfloat16_rounds_nothing_more():
    kernel = Projection((4,), (3,), dtype=jnp.dtype(jnp.bfloat16), rng=np.random.default_rng(0))
    before = kernel(jnp.ones((2, 4)))
    kernel.rounded = True
    np.testing.assert_array_equal(kernel(jnp.ones((2, 4))), before)


@pytest.mark.parametrize(
    ("flags", "fast"),
    [
        ("flags\t\t: fpu avx512f amx_bf16 amx_tile", True),
        ("flags\t\t: fpu avx512f avx512_bf16", True),
        ("flags\t\t: fpu avx2 avx512f", False),
        ("model name\t: amx_bf16", False),
        ("", False),
    ],
)
def test_processors_are_told_by_their_flags(flags, fast, tmp_path):
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\n{flags}\n")
    assert has_fast_bfloat16(tmp_path / "cpuinfo") is fast


def test_a_processor_that_says_nothing_and_other_devices_are_not_fast(tmp_path, monkeypatch):
    assert not has_fast_bfloat16(tmp_path / "absent")
    (tmp_path / "cpuinfo").write_text("flags : amx_bf16")
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert not has_fast_bfloat16(tmp_path / "cpuinfo")
