"""Augmentation: nothing at strength 0, repeatable from its generator, and always a standardised film."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from pneumonia import config, served
from pneumonia.augmentation import augment as module
from pneumonia.augmentation.augment import augment, halve, standardise

UNIFORM = 1 / math.sqrt(3)  # the standard deviation of a draw from [-1, 1]


@pytest.fixture
def films() -> torch.Tensor:
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.integers(0, 255, (8, 48, 48), dtype=np.uint8))


def draw(films: torch.Tensor, strength: float, seed: int = 0) -> torch.Tensor:
    return augment(films, strength=strength, generator=torch.Generator().manual_seed(seed))


def test_strength_0_is_standardising_and_draws_nothing(films: torch.Tensor) -> None:
    generator = torch.Generator().manual_seed(5)
    before = generator.get_state()
    assert torch.equal(augment(films, strength=0, generator=generator), standardise(films))
    assert torch.equal(generator.get_state(), before)


def test_training_and_serving_standardise_alike(films: torch.Tensor) -> None:
    assert np.allclose(standardise(films).numpy(), served.standardise(films.numpy()), atol=1e-5)


def test_it_repeats_from_its_generator_alone(films: torch.Tensor) -> None:
    torch.manual_seed(1)
    one = draw(films, 1.0)
    torch.manual_seed(2)
    assert torch.equal(one, draw(films, 1.0))
    assert not torch.equal(one, draw(films, 1.0, seed=1))


@pytest.mark.parametrize("strength", [0.5, 1.0, 2.0])
def test_films_come_out_standardised(films: torch.Tensor, strength: float) -> None:
    x = draw(films, strength)
    assert x.shape == (8, 1, 48, 48)
    assert x.dtype == torch.float32
    assert x.mean(dim=(1, 2, 3)).abs().max() < 0.05
    assert (x.std(dim=(1, 2, 3)) - 1).abs().max() < 0.1


def test_a_film_of_one_grey_stays_finite() -> None:
    for grey in (0, 255):
        assert draw(torch.full((4, 32, 32), grey, dtype=torch.uint8), 2.0).isfinite().all()


def test_it_moves_films_a_little_and_not_beyond_recognition() -> None:
    """A bright square near the middle stays in the film, but not where it was."""
    films = torch.zeros(64, 64, 64, dtype=torch.uint8)
    films[:, 28:36, 20:28] = 200
    x = draw(films, 1.0).squeeze(1)
    y, across = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    weight = (x > x.amax(dim=(1, 2), keepdim=True) / 2).float()
    rows = (weight * y).sum((1, 2)) / weight.sum((1, 2))
    columns = (weight * across).sum((1, 2)) / weight.sum((1, 2))
    assert rows.std() > 1
    assert (rows - 31.5).abs().max() < 16
    assert (columns < 31.5).float().mean() > 0.2  # about half are mirrored
    assert (columns > 31.5).float().mean() > 0.2


@pytest.mark.parametrize("size", [32, 96, 224])
def test_films_of_one_grey_are_standardised_to_zeros_on_both_sides(size: int) -> None:
    films = torch.arange(256, dtype=torch.uint8)[::15, None, None].repeat(1, size, size)
    assert not standardise(films).any()
    assert not served.standardise(films.numpy()).any()


def test_each_film_of_a_batch_and_each_call_is_drawn_anew(films: torch.Tensor) -> None:
    generator = torch.Generator().manual_seed(0)
    same = films[:1].repeat(2, 1, 1)
    first, second = (augment(same, strength=1.0, generator=generator) for _ in range(2))
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first, second)


def test_films_and_the_global_generator_stay_as_they_were(films: torch.Tensor) -> None:
    before, state = films.clone(), torch.get_rng_state()
    draw(films, 2.0)
    assert torch.equal(films, before)
    assert torch.equal(torch.get_rng_state(), state)


def test_strength_is_how_far_a_film_is_moved(films: torch.Tensor) -> None:
    """Without the mirrored films, which differ whatever the strength: the nearer of film and mirror image counts."""
    smooth = torch.nn.functional.avg_pool2d(films.float(), 15, 1, 7).mul(4).clamp(0, 255).to(torch.uint8)

    def distance(strength: float) -> float:
        x, plain = draw(smooth, strength), standardise(smooth)
        apart = [(x - y).square().mean(dim=(1, 2, 3)) for y in (plain, plain.flip(3))]
        return float(torch.minimum(*apart).mean())

    assert distance(1e-3) < 0.02 < distance(0.3) < distance(1.0)


@pytest.mark.parametrize(("strength", "disturbance"), [(0.5, 0.0), (1.0, 0.0), (1.0, 0.5), (0.0, 1.0)])
def test_poses_spread_as_far_as_the_constants_say(
    strength: float, disturbance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bar in the middle of the film, measured by its moments afterwards."""
    monkeypatch.setattr(module, "disturb", lambda x, **_: x)
    films = torch.zeros(512, 96, 96, dtype=torch.uint8)
    films[:, 40:56, 28:68] = 200
    generator = torch.Generator().manual_seed(0)
    x = augment(films, strength=strength, disturbance=disturbance, generator=generator).squeeze(1)
    bar = (x > (x.amax(dim=(1, 2), keepdim=True) + x.amin(dim=(1, 2), keepdim=True)) / 2).double()
    y, across = torch.meshgrid(torch.arange(96.0) - 47.5, torch.arange(96.0) - 47.5, indexing="ij")

    def mean(values: torch.Tensor) -> torch.Tensor:
        return (bar * values).sum((1, 2)) / bar.sum((1, 2))

    xx, yy = mean(across**2) - mean(across) ** 2, mean(y**2) - mean(y) ** 2
    xy = mean(across * y) - mean(across) * mean(y)
    angle = torch.atan2(2 * xy, xx - yy) / 2
    root = torch.sqrt((xx - yy) ** 2 / 4 + xy**2)
    length, breadth = torch.sqrt(12 * ((xx + yy) / 2 + root)), torch.sqrt(12 * ((xx + yy) / 2 - root))
    found = {
        "rotation": angle.std(),
        "scale": (length * breadth).log().std() / 2,
        "aspect": (length / breadth).log().std(),
        "shift across": mean(across).std() / 96,
        "shift down": mean(y).std() / 96,
    }
    expected = {
        "rotation": module.ROTATION * strength,
        "scale": module.SCALE * (strength + disturbance),
        "aspect": module.ASPECT * strength + module.DISTURBED_ASPECT * disturbance,
        "shift across": module.SHIFT * strength,
        "shift down": module.SHIFT * strength,
    }
    for name, spread in expected.items():
        assert float(found[name]) == pytest.approx(UNIFORM * spread, rel=0.2, abs=0.01), name


def test_exposure_varies_from_film_to_film() -> None:
    """Of three stripes, the middle one's place between the others depends on gamma alone."""
    films = torch.full((256, 96, 96), 128, dtype=torch.uint8)
    films[:, :32], films[:, 64:] = 50, 220
    dark, middle, bright = draw(films, 1.0).flatten(1).quantile(torch.tensor([0.1, 0.5, 0.9]), dim=1)
    place = (middle - dark) / (bright - dark)

    def expected(gamma: float) -> float:
        low, mid, high = ((grey / 255) ** gamma for grey in (50, 128, 220))
        return (mid - low) / (high - low)

    assert place.min().item() == pytest.approx(expected(math.exp(module.GAMMA)), abs=0.02)
    assert place.max().item() == pytest.approx(expected(math.exp(-module.GAMMA)), abs=0.02)


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_grain_is_a_share_of_the_films_deviation(strength: float) -> None:
    """On a film of one grey nothing but grain is left."""
    grain = draw(torch.full((256, 32, 32), 90, dtype=torch.uint8), strength).std(dim=(1, 2, 3))
    assert grain.max() < 1.1 * module.NOISE * strength
    assert grain.mean().item() == pytest.approx(module.NOISE * strength / 2, rel=0.15)


def test_blur_takes_from_the_detail(films: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "NOISE", 0.0)
    blurred = draw(films, 1.0)
    monkeypatch.setattr(module, "_box", lambda x: x)
    sharp = draw(films, 1.0)
    assert (blurred.diff(dim=3).square().mean((1, 2, 3)) < sharp.diff(dim=3).square().mean((1, 2, 3))).all()


def test_disturbance_blurs_and_sharpens(films: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "disturb", lambda x, **_: x)
    generator = torch.Generator().manual_seed(0)
    for name in ("SCALE", "DISTURBED_ASPECT", "GAMMA", "DISTURBED_CLAHE"):
        monkeypatch.setattr(module, name, 0.0)
    soft = functional.avg_pool2d(films.float().unsqueeze(1), 3, 1, 1).squeeze(1).to(torch.uint8)
    x = augment(soft.repeat(16, 1, 1), strength=0.0, disturbance=0.5, generator=generator)
    detail = x.diff(dim=3).square().mean((1, 2, 3)) / standardise(soft).diff(dim=3).square().mean((1, 2, 3)).repeat(16)
    assert detail.min() < 0.9
    assert detail.max() > 1.15


@pytest.mark.parametrize(("disturbance", "share"), [(0.5, 0.3), (1.0, 0.6), (4.0, 0.6)])
def test_disturbance_gives_clahe_to_a_share_before_all_else(
    films: torch.Tensor, disturbance: float, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares, seen = [], []

    def flat(films: torch.Tensor, *, share: float, generator: torch.Generator) -> torch.Tensor:
        shares.append(share)
        seen.append(films)
        return torch.full_like(films, 100)

    monkeypatch.setattr(module.clahe, "apply", flat)
    monkeypatch.setattr(module, "disturb", lambda x, **_: x)
    x = augment(films, strength=0.0, disturbance=disturbance, generator=torch.Generator().manual_seed(0))
    assert shares == [pytest.approx(share)]
    assert seen[0] is films
    assert x.abs().max() < 0.5  # of the flat film, up to rounding, and not of what was there before


def test_no_film_goes_through_clahe_undisturbed(films: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = draw(films, 1.0)
    monkeypatch.setattr(module.clahe, "apply", None)
    assert torch.equal(draw(films, 1.0), plain)


def test_what_training_shows_changes_with_the_version_alone(films: torch.Tensor) -> None:
    """If this fails, raise the VERSION of `config` and write the new figures here."""
    soft = functional.avg_pool2d(films.float().unsqueeze(1), 9, 1, 4).squeeze(1).repeat(16, 1, 1)
    shown = []
    for strength, disturbance in ((1.0, 0.0), (0.0, 1.0), (1.0, 0.5)):
        generator = torch.Generator().manual_seed(0)
        x = augment(soft, strength=strength, disturbance=disturbance, generator=generator)
        shown += [x.abs().mean().item(), x.diff(dim=3).abs().mean().item(), (x**3).mean(dim=(1, 2, 3)).std().item()]
    assert (config.VERSION, *shown) == pytest.approx(
        (2, 0.8023, 0.1690, 0.3855, 0.8137, 0.2425, 0.6795, 0.8166, 0.2134, 0.5667), abs=0.001
    )


@pytest.mark.slow
def test_the_quick_forms_are_what_torchs_own_compute() -> None:
    generator = torch.Generator().manual_seed(0)
    theta, x = torch.randn(5, 2, 3, generator=generator), torch.rand(5, 1, 24, 24, generator=generator)
    grid = functional.affine_grid(theta, [5, 1, 24, 24], align_corners=False)
    torch.testing.assert_close(module._grid(theta, 24), grid, rtol=0, atol=1e-5)
    pooled = functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
    torch.testing.assert_close(module._box(x), pooled, rtol=0, atol=1e-6)


def test_standardising_floats_leaves_them_as_they_were(films: torch.Tensor) -> None:
    floats = films.float()
    standardise(floats)
    assert torch.equal(floats, films.float())


def test_halving_takes_the_mean_of_four() -> None:
    films = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (300, 32, 32), dtype=np.uint8))
    expected = functional.avg_pool2d(films.float().unsqueeze(1), 2).squeeze(1)
    halves = halve(films)
    assert halves.dtype == torch.uint8
    assert (halves.float() - expected).abs().max() <= 0.5
