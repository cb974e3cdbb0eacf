"""Generate users: profiles, hidden states and history lengths.

Hidden states have a distribution given a profile.

Shapes: U users, N queries, S states; a profile is three codes (age group, gender, occupation).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.special import ndtri, softmax

from segue.data.simulator.counter_rng import LENGTH, PROFILE, uniforms
from segue.data.simulator.settings import SimulatorSettings

__all__ = ["GENDERS", "OCCUPATIONS", "UserPopulation"]

AGES = np.array([12, 18, 25, 35, 45, 55, 65, 81])
"""Group ``g`` is ``AGES[g] <= age < AGES[g + 1]``; other ages are assigned to the nearest group."""
AGE_SHARES = (0.08, 0.2, 0.28, 0.18, 0.13, 0.08, 0.05)
GENDERS = ("F", "M")
GENDER_SHARES = (0.45, 0.55)
OCCUPATIONS = (
    "artist", "doctor", "educator", "engineer", "farmer", "lawyer",
    "librarian", "nurse", "programmer", "salesman", "student", "writer",
)  # fmt: skip
OCCUPATION_SHARES = (0.06, 0.07, 0.13, 0.12, 0.04, 0.05, 0.06, 0.14, 0.05, 0.08, 0.15, 0.05)
APPETITE_SHARES = (0.4, 0.3, 0.3)


@dataclass(frozen=True, eq=False)
class UserPopulation:
    """Distribution of profiles, initial states and history lengths."""

    settings: SimulatorSettings
    prior: NDArray[np.float64]
    """``(ages + 1, genders + 1, occupations + 1, S)`` P(state | profile); the last index of an axis means unknown."""

    @classmethod
    def build(cls, settings: SimulatorSettings, rng: np.random.Generator) -> UserPopulation:
        """Build a population with random effects of the profiles.

        Profiles shift tastes and appetites by random amounts from ``rng``.
        """
        sizes = (len(AGE_SHARES), len(GENDER_SHARES), len(OCCUPATION_SHARES))
        k, a = settings.tastes, settings.appetites
        logits_z, logits_a = np.zeros((*sizes, k)), np.zeros((*sizes, a)) + np.log(APPETITE_SHARES[:a])
        for axis, size in enumerate(sizes):
            shape = [1, 1, 1, -1]
            shape[axis] = size
            logits_z = logits_z + settings.profile * rng.standard_normal((size, k)).reshape(shape)
            logits_a = logits_a + settings.profile * 0.5 * rng.standard_normal((size, a)).reshape(shape)
        joint = softmax(logits_a, -1)[..., :, None] * softmax(logits_z, -1)[..., None, :]
        prior = joint.reshape(*sizes, a * k)
        for axis, shares in enumerate((AGE_SHARES, GENDER_SHARES, OCCUPATION_SHARES)):
            average = np.average(prior, axis=axis, weights=np.array(shares), keepdims=True)
            prior = np.concatenate([prior, average], axis=axis)
        return cls(settings, prior)

    def codes(self, first: int, users: int) -> NDArray[np.int64]:
        """Return the profile codes of the users from ``first`` on, ``(users, 3)``.

        The codes are age group, gender and occupation.
        """
        u = uniforms(self.settings.seed, PROFILE, first, users, 4)
        shares = (AGE_SHARES, GENDER_SHARES, OCCUPATION_SHARES)
        draws = [np.searchsorted(np.cumsum(share)[:-1], u[:, i], side="right") for i, share in enumerate(shares)]
        return np.stack(draws, axis=1).astype(np.int64)

    def frame(self, first: int, users: int) -> pl.DataFrame:
        """Return the profiles of the users from ``first`` on.

        The columns are ``id, age, gender, occupation``.
        """
        groups, genders, occupations = self.codes(first, users).T
        within = uniforms(self.settings.seed, PROFILE, first, users, 4)[:, 3]
        ages = AGES[groups] + (within * np.diff(AGES)[groups]).astype(np.int64)
        ids = pl.select(pl.int_range(first + 1, first + users + 1).cast(pl.String).str.zfill(self.digits))
        return pl.DataFrame(
            {
                "id": "u" + ids.to_series(),
                "age": ages,
                "gender": pl.Series(GENDERS).gather(genders),
                "occupation": pl.Series(OCCUPATIONS).gather(occupations),
            }
        )

    @property
    def digits(self) -> int:
        """Number of digits in an id."""
        return len(str(self.settings.users))

    def unknown(self, n: int) -> NDArray[np.int64]:
        """Return codes of unknown profiles, ``(n, 3)``."""
        return np.tile(np.array(self.prior.shape[:3], dtype=np.int64) - 1, (n, 1))

    def read(self, profile: pl.DataFrame) -> NDArray[np.int64]:
        """Encode a table of profiles, ``(N, 3)``.

        Missing and unknown values get the index for unknown.
        """
        codes = self.unknown(len(profile))
        if "age" in profile.columns:
            ages = profile["age"].cast(pl.Float64, strict=False).fill_null(np.nan).to_numpy()
            groups = np.clip(np.searchsorted(AGES, np.nan_to_num(ages), side="right") - 1, 0, len(AGE_SHARES) - 1)
            codes[:, 0] = np.where(np.isfinite(ages), groups, codes[:, 0])
        for axis, (name, words) in enumerate((("gender", GENDERS), ("occupation", OCCUPATIONS)), start=1):
            if name in profile.columns:
                indices = pl.DataFrame({name: words, "index": range(len(words))})
                joined = profile.select(pl.col(name).cast(pl.String, strict=False)).join(
                    indices, on=name, how="left", maintain_order="left"
                )
                codes[:, axis] = joined["index"].fill_null(len(words)).to_numpy()
        return codes

    def priors(self, codes: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return P(state | profile) for ``codes (N, 3)``, ``(N, S)``."""
        result: NDArray[np.float64] = self.prior[codes[:, 0], codes[:, 1], codes[:, 2]]
        return result

    def lengths(self, first: int, users: int) -> NDArray[np.int64]:
        """Return the number of events per user, ``(users,)``.

        It is the minimum plus a log-normal number.
        """
        settings, spread = self.settings, self.settings.length_spread
        rest = settings.mean_length - settings.min_length
        z = ndtri(uniforms(settings.seed, LENGTH, first, users, 1)[:, 0])
        more = np.floor(rest * np.exp(spread * z - spread * spread / 2.0) + 0.5)
        longest = min(settings.max_length, settings.items)
        lengths: NDArray[np.int64] = np.minimum(settings.min_length + more, longest).astype(np.int64)
        return lengths
