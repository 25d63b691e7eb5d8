"""That pytest's settings turn deprecations in this project's modules into errors, and in no others."""

import warnings

import pytest

WARN = "import warnings; warnings.warn('soon gone', category)"


@pytest.mark.parametrize("category", [DeprecationWarning, PendingDeprecationWarning, FutureWarning])
@pytest.mark.parametrize("module", ["pixel_reasoner_jax", "pixel_reasoner_jax.models.model", "data_pipeline.seed"])
def test_a_deprecation_in_a_module_of_ours_is_an_error(module, category):
    with pytest.raises(category, match="soon gone"):
        exec(WARN, {"__name__": module, "category": category})


@pytest.mark.parametrize(
    "module, category",
    [
        ("jax.numpy", DeprecationWarning),
        ("pixel_reasoner_jaxlike", DeprecationWarning),
        ("torch.utils.data_pipeline", FutureWarning),
        ("pixel_reasoner_jax.models.model", UserWarning),
    ],
)
def test_other_warnings_are_none(module, category):
    with warnings.catch_warnings(record=True) as seen:
        exec(WARN, {"__name__": module, "category": category})
    assert [str(warning.message) for warning in seen] == ["soon gone"]
