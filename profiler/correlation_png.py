"""A matrix of correlations as a PNG picture; it needs matplotlib (extra: demo)."""

import io
from collections.abc import Sequence

from profiler.correlation import FloatArray


def render_correlation_png(names: Sequence[str], matrix: FloatArray, title: str = "") -> bytes:
    """The picture's bytes: a cell for each two groups, -1 blue, 1 red."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 7), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    if len(names):
        image = axes.imshow(matrix, vmin=-1.0, vmax=1.0, cmap="coolwarm")
        figure.colorbar(image, ax=axes, label="correlation")
    every = max(1, len(names) // 24)
    places = list(range(0, len(names), every))
    labels = [names[n][-24:] for n in places]
    axes.set_xticks(places, labels, rotation=90)
    axes.set_yticks(places, labels)
    axes.set_title(title)
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=100)
    return out.getvalue()
