"""Families of random functions: the objectives of the studies of the prior."""

from optformer.data.prior.families import analytic, gaussian_process, multimodal, network, trees, tuning
from optformer.data.prior.families.family import Domain, Family, sample_domain

FAMILIES: dict[str, Family] = {
    "gaussian_process": gaussian_process.FAMILY,
    "network": network.FAMILY,
    "trees": trees.FAMILY,
    "bowl": analytic.BOWL,
    "valley": analytic.VALLEY,
    "ridge": analytic.RIDGE,
    "ripples": multimodal.RIPPLES,
    "peaks": multimodal.PEAKS,
    "rough": multimodal.ROUGH,
    "steps": multimodal.STEPS,
    "main_effects": tuning.MAIN_EFFECTS,
    "learning_rate": tuning.LEARNING_RATE,
    "saturation": tuning.SATURATION,
}

__all__ = ["FAMILIES", "Domain", "Family", "sample_domain"]
