"""Settings tried on one text: sparser is farther from dense, and the knee is where it bends."""

import saa_core as saa
from saa_core.explain.tradeoff import Point, knee, tradeoff

TEXT = (
    "The lighthouse keeper climbed the stairs at six each morning and wound the clock by hand. " * 3
)


def test_more_mass_keeps_more_and_moves_less(smollm2):
    points = list(tradeoff(smollm2, TEXT, (0.5, 0.8, 1.0)))
    assert [point.mass for point in points] == [0.5, 0.8, 1.0]
    densities = [point.density for point in points]
    assert densities == sorted(densities)
    assert densities[-1] == 1.0
    assert points[0].distance > points[1].distance > points[2].distance
    assert points[-1].distance < 1e-4
    assert points[-1].agreement == 1.0


def test_an_encoder_is_compared_by_its_embedding(minilm):
    sparse, whole = tradeoff(minilm, TEXT, (0.5, 1.0))
    assert sparse.agreement is None
    assert sparse.distance > abs(whole.distance) < 1e-5


def test_a_dense_run_that_is_there_is_used(smollm2, monkeypatch):
    dense = saa.run(smollm2, TEXT)
    runs = []
    original = saa.run

    def counted(*args, **kwargs):
        runs.append(args)
        return original(*args, **kwargs)

    monkeypatch.setattr("saa_core.explain.tradeoff.run", counted)
    list(tradeoff(smollm2, TEXT, (0.9,), dense=dense))
    assert len(runs) == 1


def test_the_knee_is_the_point_farthest_under_the_line():
    curve = [(0.1, 1.0), (0.2, 0.3), (0.4, 0.1), (0.7, 0.04), (1.0, 0.0)]
    points = [Point(density, density, distance, None) for density, distance in curve]
    assert knee(points) == 1
    assert knee(points[:1]) == 0
