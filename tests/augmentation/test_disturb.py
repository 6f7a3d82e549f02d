"""Disturbing hides how a film was made: each effect is there, as often and as strong as its constant says."""

import pytest
import torch

from pneumonia.augmentation import disturb as module
from pneumonia.augmentation.augment import augment, standardise
from pneumonia.augmentation.disturb import disturb


@pytest.fixture
def x() -> torch.Tensor:
    """Smooth standardised films with some grain, [400, 1, 64, 64]."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(400, 1, 6, 6, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, 64, mode="bicubic")
    films = (smooth * 200 + torch.rand(400, 1, 64, 64, generator=generator) * 20).clamp(0, 255).to(torch.uint8)
    return standardise(films.squeeze(1))


def disturbed(x: torch.Tensor, strength: float = 1.0, seed: int = 0) -> torch.Tensor:
    return disturb(x, strength=strength, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """Switches off every effect but one."""

    def switch(name: str) -> None:
        for share in {"TONE", "LOCAL", "HOLE", "FRAME", "EXPOSURE"} - {name}:
            monkeypatch.setattr(module, share, 0.0)

    return switch


def test_strength_0_does_and_draws_nothing(x: torch.Tensor) -> None:
    generator = torch.Generator().manual_seed(5)
    before = generator.get_state()
    assert disturb(x, strength=0, generator=generator) is x
    assert torch.equal(generator.get_state(), before)


@pytest.mark.parametrize("strength", [0.3, 1.0, 5.0])
@pytest.mark.parametrize("side", [16, 48, 64, 224])
def test_films_come_out_standardised_whatever_their_size(x: torch.Tensor, strength: float, side: int) -> None:
    small = torch.nn.functional.interpolate(x[:16], side)
    y = disturbed(small, strength)
    assert y.shape == small.shape
    assert y.isfinite().all()
    assert y.mean(dim=(1, 2, 3)).abs().max() < 1e-4
    assert (y.square().mean(dim=(1, 2, 3)) - 1).abs().max() < 1e-3


def test_it_repeats_from_its_generator_alone_and_leaves_films_as_they_were(x: torch.Tensor) -> None:
    before, state = x.clone(), torch.get_rng_state()
    one = disturbed(x)
    assert torch.equal(one, disturbed(x))
    assert not torch.equal(one, disturbed(x, seed=1))
    assert torch.equal(x, before)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_film_of_one_grey_stays_finite() -> None:
    for strength in (1.0, 3.0):
        assert disturbed(torch.zeros(32, 1, 32, 32), strength).isfinite().all()


def test_frames_are_of_one_grey_and_as_frequent_as_said(x: torch.Tensor, alone) -> None:  # type: ignore[no-untyped-def]
    alone("FRAME")
    y = disturbed(x)
    top = y[:, 0, 0]
    changed = (y - x).abs().amax(dim=(1, 2, 3)) > 0.01
    assert float(changed.float().mean()) == pytest.approx(module.FRAME, abs=0.1)
    framed = top.std(dim=1) < 1e-4  # where the bar at the top is a pixel wide or more
    assert not (framed & ~changed).any()
    assert top[framed, 0].std() > 0.5
    widths = (y[framed, 0].sub(top[framed, :1, None]).abs().amax(dim=2) < 1e-4).float().cumprod(dim=1).sum(dim=1) / 64
    assert 0.8 * module.FRAME_WIDTH < widths.max() <= module.FRAME_WIDTH + 1 / 64
    middle = slice(16, 48)
    for film, was in zip(y[framed, 0, middle, middle], x[framed, 0, middle, middle], strict=True):
        assert torch.corrcoef(torch.stack([film.flatten(), was.flatten()]))[0, 1] > 0.9999


def test_holes_are_as_frequent_and_as_large_as_said(x: torch.Tensor, alone) -> None:  # type: ignore[no-untyped-def]
    alone("HOLE")
    y = disturbed(x)
    changed = (y.squeeze(1) - x.squeeze(1)).abs() > 0.3
    share = changed.float().mean(dim=(1, 2))
    assert 0.2 < float((share > 0).float().mean()) <= module.HOLE + 0.1
    assert share.max() <= module.HOLE_SIDE**2 + 0.05


def test_exposure_is_a_smooth_field(x: torch.Tensor, alone) -> None:  # type: ignore[no-untyped-def]
    alone("EXPOSURE")
    y = disturbed(x)
    rough = [torch.diff(film, dim=-1).abs().mean() for film in (x, y)]
    assert rough[1] == pytest.approx(float(rough[0]), rel=0.15)  # the grain stays
    coarse = torch.nn.functional.avg_pool2d(y - x, 16)
    assert coarse.std() > 0.1


def test_tones_move_apart_or_together_and_keep_their_order(x: torch.Tensor, alone) -> None:  # type: ignore[no-untyped-def]
    alone("TONE")
    y = disturbed(x)
    order = x.flatten(1).argsort(dim=1)
    assert (y.flatten(1).gather(1, order).diff(dim=1) > -1e-5).all()
    tails = [film.flatten(1).pow(4).mean(dim=1) for film in (x, y)]
    assert float((tails[1] > tails[0]).float().mean()) == pytest.approx(0.5, abs=0.1)
    assert ((tails[1] / tails[0]).log().abs() > 0.1).float().mean() > 0.5


def test_local_contrast_tends_to_evenness(x: torch.Tensor, alone) -> None:  # type: ignore[no-untyped-def]
    alone("LOCAL")
    y = disturbed(x)
    spread = [torch.nn.functional.avg_pool2d(film, 16).std(dim=(2, 3)) for film in (x, y)]
    assert (spread[1] < spread[0] + 0.02).float().mean() > 0.95
    assert float((spread[1] < 0.98 * spread[0]).float().mean()) == pytest.approx(module.LOCAL, abs=0.15)


def test_augmentation_varies_scale_and_gamma_by_that_much_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pneumonia.augmentation.augment.disturb", lambda x, **_: x)

    def drawn(films: torch.Tensor, disturbance: float) -> torch.Tensor:
        return augment(films, strength=0.5, disturbance=disturbance, generator=torch.Generator().manual_seed(0))

    square = torch.zeros(512, 64, 64, dtype=torch.uint8)
    square[:, 22:42, 22:42] = 200
    less, more = ((drawn(square, at) > 1.0).float().mean(dim=(1, 2, 3)).log().std() for at in (0.0, 0.5))
    assert more > 1.6 * less

    stripes = torch.full((512, 96, 96), 128, dtype=torch.uint8)  # the middle one's place between the others
    stripes[:, :32], stripes[:, 64:] = 50, 220
    dark, middle, bright = (
        torch.stack([drawn(stripes, at).flatten(1).quantile(q, dim=1) for at in (0.0, 0.5)]) for q in (0.1, 0.5, 0.9)
    )
    less, more = ((middle - dark) / (bright - dark)).std(dim=1)
    assert more > 1.6 * less
