"""A heatmap as a PNG picture. Alone here because it needs matplotlib (extra: demo)."""

import io

from profiler.heatmap import AccessHeatmap


def render_png(heatmap: AccessHeatmap, title: str = "") -> bytes:
    """The picture's bytes: slots to the right, key ranges upwards."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    starts, slots, counts = heatmap.grid()
    figure = Figure(figsize=(10, 6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    if slots:
        extent = (slots[0], slots[-1] + 1, 0, len(starts))
        image = axes.imshow(counts.T, aspect="auto", origin="lower", extent=extent, cmap="magma")
        figure.colorbar(image, ax=axes, label="accesses")
    every = max(1, len(starts) // 16)
    labels = [start.decode("utf-8", "backslashreplace")[:24] for start in starts[::every]]
    axes.set_yticks([i + 0.5 for i in range(0, len(starts), every)], labels)
    axes.set_xlabel("slot")
    axes.set_title(title)
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=100)
    return out.getvalue()
