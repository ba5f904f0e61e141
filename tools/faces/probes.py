"""Probes: logistic regression from what is known of a sample (its w, its measures) to each group's values.

That attributes are linear in W is from InterFaceGAN (Shen et al. 2020, arXiv 1907.10786).
"""

import warnings
from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from torch import Tensor

from clip2gan.domains.faces.vocabulary import groups

STRENGTHS = (0.003, 0.03)  # inverse penalties that are tried
LANDMARK_COMPONENTS = 60
COLOUR_COMPONENTS = 120
COLOUR_SIZE = 32  # pixels a side
INNER_FOLDS = 3
PRIOR = 0.1  # power of a value's frequency
LEAST_EXAMPLES = 4  # of a value, or else its group's probe does not know it

Features = Mapping[str, np.ndarray]
"""Sets of features that are tried for each group: name -> [N, F]."""


def make_features(w: Tensor, measures: Mapping[str, Tensor], pixels: Tensor) -> dict[str, np.ndarray]:
    """Two sets: w and colours, and both with the measures of `tools.faces.measure`.

    Args:
        w: latents [N, w_dim].
        measures: of `tools.faces.measure.read_measured`.
        pixels: of small pictures, uint8 [N, 3, R, R].
    """
    small = F.adaptive_avg_pool2d(pixels.float() / 255, COLOUR_SIZE).flatten(1).numpy()
    colours = PCA(COLOUR_COMPONENTS, whiten=True, random_state=0).fit_transform(small) * 0.4
    latents = _standardise(w.numpy()) * 0.3  # 512 numbers; the fewer others shall be heard beside them
    landmarks = measures["landmarks"].flatten(1).numpy()
    found = np.asarray(landmarks.any(axis=1))
    landmarks = np.where(found[:, None], landmarks, landmarks[found].mean(0))
    shapes = PCA(LANDMARK_COMPONENTS, whiten=True, random_state=0).fit_transform(landmarks) * 0.7
    age = measures["age"].numpy()
    ages = [age / 40, *(age >= limit for limit in (13, 20, 35, 50, 60))]
    people = np.stack([*ages, measures["man"].numpy() * 2 - 1], axis=1) * 1.5
    light = _standardise(np.concatenate([measures["corners"].numpy(), measures["sides"].numpy()], axis=1))
    seen = np.concatenate([latents, colours], axis=1)
    return {"w": seen, "w and measures": np.concatenate([seen, shapes, people, light], axis=1)}


def fit_probe(features: Features, values: Tensor, num_values: int) -> tuple[np.ndarray, str]:
    """A probe of one group, and what it says of every sample.

    Which features and which penalty serve best is found by cross-validation among the labels given.

    Args:
        features: of all samples.
        values: index of each sample's value, int64 [N], -1 where it is not labelled.
        num_values: of the group.

    Returns:
        Probabilities, float32 [N, num_values], and the features chosen. Values count as more alike in
        frequency than they are, so that rare ones are found.
    """
    wanted = values.numpy().copy()
    for value in range(num_values):
        if (wanted == value).sum() < LEAST_EXAMPLES:
            wanted[wanted == value] = -1
    rows = np.flatnonzero(wanted >= 0)
    choices = [(name, strength) for name in features for strength in STRENGTHS]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of values that a fold lacks, and of a fit stopped early
        name, strength = max(choices, key=lambda choice: _score(features[choice[0]], wanted, rows, choice[1]))
        model = _regression(strength).fit(features[name][rows], wanted[rows])
    result = np.zeros((len(wanted), num_values), dtype=np.float32)
    frequencies = np.array([(wanted == value).sum() for value in model.classes_], dtype=float)
    result[:, model.classes_] = model.predict_proba(features[name]) * frequencies**PRIOR
    return result / result.sum(1, keepdims=True), name


def fit_probes(features: Features, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The probabilities that the probes of all labelled groups give, {group: [N, values]}."""
    return {
        name: torch.from_numpy(fit_probe(features, indices, len(groups()[name].values))[0])
        for name, indices in values.items()
    }


def _score(features: np.ndarray, wanted: np.ndarray, rows: np.ndarray, strength: float) -> float:
    """Balanced accuracy by cross-validation among the labelled rows."""
    said = np.empty(len(rows), dtype=wanted.dtype)
    part = np.arange(len(rows)) % INNER_FOLDS
    for fold in range(INNER_FOLDS):
        train, test = rows[part != fold], rows[part == fold]
        said[part == fold] = _regression(strength).fit(features[train], wanted[train]).predict(features[test])
    return float(balanced_accuracy_score(wanted[rows], said))


def _regression(strength: float) -> LogisticRegression:
    return LogisticRegression(C=strength, class_weight="balanced", max_iter=200)


def _standardise(x: np.ndarray) -> np.ndarray:
    return (x - x.mean(0)) / x.std(0)
