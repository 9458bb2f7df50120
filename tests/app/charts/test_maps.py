"""Maps and grids of made-up decisions: nothing is lost on the way to a picture."""

import dataclasses
import json
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

import saa_core as saa
from app import text
from app.charts.head import head_values
from app.charts.map_picture import PICTURE, overview_png, pool
from app.charts.pair import Frame, frame_around, window, window_rows
from app.charts.palette import LIGHT, RECTS
from saa_core.trace.maps import InMemory, pack
from saa_core.trace.recorded import Execution, ModelInfo


def synthetic(tokens: int) -> saa.Trace:
    """A trace of one layer and two heads with random decisions, made without a model."""
    random = np.random.default_rng(tokens)
    allowed = np.tril(np.ones((tokens, tokens), bool))
    keep = (random.random((2, tokens, tokens)) < 0.001) & allowed
    keep[:, np.arange(tokens), np.arange(tokens)] = True
    score = random.random((2, tokens, tokens), np.float32)
    threshold = np.full((2, tokens), 0.5, np.float32)
    return saa.Trace(
        text=None,
        tokens=tuple(f"t{at}" for at in range(tokens)),
        offsets=None,
        token_ids=np.arange(tokens),
        model=ModelInfo("synthetic"),
        policy=saa.Policy(),
        execution=Execution("reference", "test", "cpu", "float32", 1),
        versions={},
        block=(1, 1),
        density=np.full((1, 2), keep.sum() / allowed.sum() / 2, np.float32),
        predicted_mass=np.ones((1, 2), np.float32),
        retained_mass=None,
        attention_received=None,
        first=np.zeros((1, tokens), np.int32),
        last=np.arange(tokens, dtype=np.int32)[None],
        forced=np.zeros((1, 1, tokens, tokens), np.uint8),
        layer_kind=np.zeros(1, np.int32),
        targets=np.full(1, 0.95, np.float32),
        layers=InMemory({0: pack(keep, score, threshold)}),
    )


@pytest.mark.parametrize("tokens", [5, 64, 300])
def test_a_window_never_draws_more_than_4096_marks(tokens: int) -> None:
    made = synthetic(tokens)
    frame = frame_around(tokens // 2, tokens // 3, 64, tokens)
    chart = window(made, 0, 1, frame, (0, 0), text.load("en"), False)
    assert 0 < len(chart.data) <= RECTS
    assert frame.q + frame.size <= tokens
    json.loads(chart.to_json())
    with pytest.raises(ValueError, match=r"frame\.size"):
        window_rows(made, 0, 1, Frame(0, 0, 65), (0, 0), text.load("en"))


@pytest.mark.parametrize("tokens", [30, 512, 1300])
def test_no_kept_pair_vanishes_from_the_overview(tokens: int) -> None:
    made = synthetic(tokens)
    picture = np.asarray(Image.open(BytesIO(overview_png(made, 0, 0, False))))
    assert max(picture.shape[:2]) <= PICTURE
    kept, allowed = pool(made.keep_map(0, 0)), pool(made.allowed(0))
    assert kept.sum() == made.keep_map(0, 0).sum()
    dropped = np.array([int(LIGHT.dropped[at : at + 2], 16) for at in (1, 3, 5)])
    grey = (np.abs(picture[..., :3].astype(int) - dropped) <= 1).all(-1)
    assert not (grey & (kept > 0)).any()
    assert grey[(kept == 0) & (allowed > 0)].all()
    assert (picture[..., 3] == np.where(allowed > 0, 255, 0)).all()


def test_heads_that_look_near_and_at_the_start_are_told_apart() -> None:
    made = synthetic(64)
    keep = np.zeros((2, 64, 64), bool)
    keep[0][np.arange(64), np.arange(64)] = True
    keep[1][:, 0] = True
    packed = pack(keep, keep.astype(np.float32), np.zeros((2, 64), np.float32))
    near = head_values(dataclasses.replace(made, layers=InMemory({0: packed})), "near")[0]
    assert near[0] > 0.95
    assert near[1] == 0
