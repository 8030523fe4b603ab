"""Noise by its statistics, compression and resizing by what they must leave."""

from typing import Any

import numpy as np
import pytest

from vsr.data.degradation_stages import JPEG, Noise, RandomResize, Resize, Shuffle
from vsr.data.filters import jpeg, resized

FLAT = np.full((160, 160, 3), 128, np.float32)


def noise_of(stage: Noise, seed: int = 0, image: np.ndarray = FLAT) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return stage.apply(image.copy(), stage.draw(rng), rng, (1, 1)) - image


def test_gaussian_noise_has_the_deviation_asked_for_and_is_new_in_every_channel() -> None:
    noise = noise_of(Noise(gaussian_noise_prob=1, noise_range=[12, 12], gray_noise_prob=0))
    assert noise.mean() == pytest.approx(0, abs=0.15)
    assert noise.std() == pytest.approx(12, rel=0.01)
    assert abs(np.corrcoef(noise.reshape(-1, 3).T)[0, 1]) < 0.03
    assert abs(np.corrcoef(noise[:, :-1].ravel(), noise[:, 1:].ravel())[0, 1]) < 0.02  # white


def test_grey_noise_is_one_for_all_channels() -> None:
    noise = noise_of(Noise(gaussian_noise_prob=1, noise_range=[12, 12], gray_noise_prob=1))
    np.testing.assert_array_equal(noise[..., 0], noise[..., 2])
    assert noise.std() == pytest.approx(12, rel=0.02)


def test_poisson_noise_scales_with_its_factor_and_grows_with_brightness() -> None:
    ramp = np.broadcast_to(np.linspace(60, 180, 200, dtype=np.float32)[:, None, None], (200, 300, 3)).copy()
    one, two = (
        noise_of(Noise(gaussian_noise_prob=0, poisson_scale_range=[f, f], gray_noise_prob=0), image=ramp)
        for f in (0.2, 0.4)
    )
    np.testing.assert_allclose(two, 2 * one, atol=1e-3)
    # 121 values: 128 photons make 255, so that level v has the variance v * 255 / 128.
    assert one[:20].var() == pytest.approx(0.04 * 66 * 255 / 128, rel=0.05)
    assert one[-20:].var() == pytest.approx(0.04 * 174 * 255 / 128, rel=0.05)


def test_noise_stays_within_the_range_of_pixels() -> None:
    dark = noise_of(Noise(gaussian_noise_prob=1, noise_range=[50, 50]), image=np.zeros((32, 32, 3), np.float32))
    assert dark.min() == 0


def test_the_kind_of_noise_is_drawn_by_its_share() -> None:
    rng, stage = np.random.default_rng(0), Noise(gaussian_noise_prob=0.25, gray_noise_prob=0.6, noise_range=[1, 30])
    drawn = [stage.draw(rng) for _ in range(2000)]
    assert 430 < sum(gaussian for gaussian, _, _ in drawn) < 570
    assert 1110 < sum(gray for _, _, gray in drawn) < 1290
    strengths = [strength for gaussian, strength, _ in drawn if gaussian]
    assert 1 <= min(strengths) < 1.5
    assert 29.5 < max(strengths) <= 30


def test_jpeg_draws_whole_qualities_of_its_range() -> None:
    stage = JPEG(jpeg_range=[30, 40])
    rng = np.random.default_rng(0)
    assert {stage.draw(rng) for _ in range(300)} == set(range(30, 41))
    image = np.random.default_rng(0).uniform(0, 255, (32, 32, 3)).astype(np.float32)
    np.testing.assert_array_equal(stage.apply(image, 33, rng, (1, 1)), jpeg(image, 33))


def test_random_resizing_takes_ways_and_factors_by_their_shares() -> None:
    stage = RandomResize(resize_prob=[0.2, 0.7, 0.1], resize_range=[0.15, 1.5])
    rng = np.random.default_rng(0)
    factors = np.array([stage.draw(rng)[0] for _ in range(4000)])
    assert (factors > 1).mean() == pytest.approx(0.2, abs=0.03)
    assert (factors < 1).mean() == pytest.approx(0.7, abs=0.03)
    assert (factors == 1).mean() == pytest.approx(0.1, abs=0.02)
    assert 0.15 <= factors.min() < 0.16
    assert 1.49 < factors.max() <= 1.5
    assert {stage.draw(rng)[1] for _ in range(60)} == {"area", "bilinear", "bicubic"}


def test_factors_are_on_the_image_or_on_lq() -> None:
    rng, image = np.random.default_rng(0), np.zeros((80, 120, 3), np.float32)
    assert RandomResize().apply(image, (0.5, "area"), rng, (20, 30)).shape == (40, 60, 3)
    assert RandomResize(relative_to="lq").apply(image, (1.2, "area"), rng, (20, 30)).shape == (24, 36, 3)
    assert RandomResize().apply(image, (0.001, "area"), rng, (20, 30)).shape == (1, 1, 3)


def test_resize_ends_at_the_size_of_lq_by_its_mode() -> None:
    image = np.random.default_rng(0).uniform(0, 255, (33, 50, 3)).astype(np.float32)
    for mode in ("antialiased", "area", "bilinear", "bicubic"):
        stage = Resize(mode=mode)
        got = stage.apply(image, stage.draw(np.random.default_rng(0)), np.random.default_rng(0), (8, 12))
        np.testing.assert_array_equal(got, resized(image, (8, 12), mode))
    rng, stage = np.random.default_rng(0), Resize(mode="random")
    assert {stage.draw(rng) for _ in range(60)} == {"area", "bilinear", "bicubic"}


def test_groups_come_in_every_order_and_keep_their_own() -> None:
    stage = Shuffle(groups=[[{"type": "Resize"}, {"type": "SincFilter", "prob": 1.0}], [{"type": "JPEG"}]])
    rng = np.random.default_rng(0)
    orders = [[type(part).__name__ for part, _ in stage.draw(rng)] for _ in range(200)]
    assert {tuple(order) for order in orders} == {("Resize", "SincFilter", "JPEG"), ("JPEG", "Resize", "SincFilter")}
    assert 70 < orders.count(["JPEG", "Resize", "SincFilter"]) < 130
    image = rng.uniform(0, 255, (32, 32, 3)).astype(np.float32)
    assert stage.apply(image, stage.draw(rng), rng, (8, 8)).shape == (8, 8, 3)


def test_a_stage_within_a_group_acts_by_its_own_probability() -> None:
    stage = Shuffle(groups=[[{"type": "JPEG", "prob": 0.3}], [{"type": "Resize"}]], prob=0)
    rng = np.random.default_rng(0)
    counts = [len(stage.draw(rng)) for _ in range(1000)]
    assert 250 < counts.count(2) < 350
    assert counts.count(1) == 1000 - counts.count(2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Noise(noise_range=[-1, 3]), "noise_range: expected 0 or more, got -1"),
        (lambda: Noise(gray_noise_prob=1.5), "gray_noise_prob: expected a probability, 0 to 1, got 1.5"),
        (lambda: Noise(poisson_scale_range=[3, 1]), r"poisson_scale_range: expected \[least, most\]"),
        (lambda: JPEG(jpeg_range=[0, 50]), "jpeg_range: expected 1 or more, got 0"),
        (lambda: JPEG(jpeg_range=[50, 101]), "jpeg_range: expected 100 or less, got 101"),
        (lambda: RandomResize(resize_prob=[1, 2]), "resize_prob: expected 3 shares"),
        (lambda: RandomResize(resize_range=[1.2, 1.5]), "resize_range: expected a range around 1"),
        (lambda: RandomResize(relative_to="gt"), "relative_to: expected 'input' or 'lq', got 'gt'"),
        (lambda: RandomResize(modes=["nearest"]), "modes: expected some of area, bilinear, bicubic, got"),
        (lambda: Resize(mode="nearest"), "mode: expected one of antialiased, area"),
        (lambda: Shuffle(groups=[[{"type": "JPEG"}]]), "groups: expected two lists of stages or more, got 1"),
        (lambda: Shuffle(groups=[[{"type": "USM"}], [{"type": "JPEG"}]]), "expected stages of single frames, got USM"),
        (lambda: Shuffle(groups=[[{"type": "JPG"}], [{"type": "JPEG"}]]), "'JPG'. Did you mean 'JPEG'"),
    ],
)  # fmt: skip
def test_wrong_settings_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
