"""The map of what two runs decided differently."""

from io import BytesIO

import numpy as np
from PIL import Image

from app.charts import difference as difference_charts
from app.charts.map_picture import PICTURE, pool


def test_no_differing_pair_vanishes_from_the_overview() -> None:
    random = np.random.default_rng(0)
    codes = np.full((1300, 1300), 1, np.uint8)
    codes[random.random(codes.shape) < 0.4] = 2
    codes[random.random(codes.shape) < 0.001] = 3
    picture = np.asarray(Image.open(BytesIO(difference_charts.overview_png(codes, False))))
    assert max(picture.shape[:2]) <= PICTURE
    differs = pool(codes == 3) > 0
    red = picture[..., 0].astype(int) - picture[..., 2]
    assert red[differs].min() > red[~differs].max()
