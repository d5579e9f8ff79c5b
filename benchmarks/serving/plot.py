"""Line plots as SVG, written by hand: a plotting library would be the largest dependency of the project for four lines."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final
from xml.sax.saxutils import escape

from benchmarks.serving.stats import Spread

_WIDTH, _HEIGHT = 460, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 60, 92, 34, 42
_COLOURS: Final = ("#c0392b", "#2c3e50", "#2980b9", "#27ae60", "#8e44ad", "#d35400")


@dataclass(frozen=True, kw_only=True)
class Series:
    """One line: named points with their spread, at equal distances."""

    name: str
    points: Sequence[tuple[str, Spread]]


def line_plots(plots: Sequence[tuple[str, str, Sequence[Series]]]) -> str:
    """Plots of (title, unit, lines), two in a row, each point with the range of its rounds; the unit's axis is logarithmic."""
    rows = math.ceil(len(plots) / 2)
    parts = [_plot(*plot, x=_WIDTH * (index % 2), y=_HEIGHT * (index // 2)) for index, plot in enumerate(plots)]
    size = f'width="{_WIDTH * 2}" height="{_HEIGHT * rows}" viewBox="0 0 {_WIDTH * 2} {_HEIGHT * rows}"'
    style = 'font-family="sans-serif" font-size="11" fill="#333"'
    background = '<rect width="100%" height="100%" fill="white"/>'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>{background}{"".join(parts)}</svg>\n'


def _plot(title: str, unit: str, lines: Sequence[Series], *, x: int, y: int) -> str:
    values = [value for line in lines for _, at in line.points for value in (at.low, at.high) if value > 0]
    if not values:
        return ""
    low, high = math.log10(min(values)), math.log10(max(values))
    low, high = math.floor(low * 5) / 5, max(math.ceil(high * 5) / 5, math.floor(low * 5) / 5 + 0.2)
    names = [name for name, _ in lines[0].points]
    step = (_WIDTH - _LEFT - _RIGHT) / max(1, len(names) - 1)

    def up(value: float) -> float:
        return _HEIGHT - _BOTTOM - (math.log10(value) - low) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)

    parts = [f'<text x="{_LEFT}" y="18" font-size="13" font-weight="bold">{escape(title)}</text>']
    parts += [
        f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{up(tick):.1f}" y2="{up(tick):.1f}" stroke="#ddd"/>'
        f'<text x="{_LEFT - 6}" y="{up(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>'
        for tick in _ticks(10**low, 10**high)
    ]
    parts += [
        f'<text x="{_LEFT + index * step:.1f}" y="{_HEIGHT - 24}" text-anchor="middle">{escape(name)}</text>'
        for index, name in enumerate(names)
    ]
    parts.append(f'<text x="{_LEFT}" y="{_HEIGHT - 6}">{escape(unit)}, logarithmic; connections</text>')
    parts += [_line(line, _COLOURS[index % len(_COLOURS)], step, up) for index, line in enumerate(lines)]
    parts += _legend(lines, up)
    return f'<g transform="translate({x},{y})">{"".join(parts)}</g>'


def _line(line: Series, colour: str, step: float, up: Callable[[float], float]) -> str:
    found = [(_LEFT + index * step, at) for index, (_, at) in enumerate(line.points) if at.median > 0]
    path = " ".join(f"{x:.1f},{up(at.median):.1f}" for x, at in found)
    marks = "".join(
        f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{up(at.low):.1f}" y2="{up(at.high):.1f}" stroke="{colour}"/>'
        f'<circle cx="{x:.1f}" cy="{up(at.median):.1f}" r="2.5" fill="{colour}"/>'
        for x, at in found
    )
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>{marks}'


def _legend(lines: Sequence[Series], up: Callable[[float], float]) -> list[str]:
    """The names at the ends of their lines, moved apart where they would cover each other."""
    ends = sorted(
        (up(line.points[-1][1].median), index) for index, line in enumerate(lines) if line.points[-1][1].median > 0
    )
    parts, last = [], 0.0
    for y, index in ends:
        last = max(y + 4, last + 13)
        colour = _COLOURS[index % len(_COLOURS)]
        parts.append(
            f'<text x="{_WIDTH - _RIGHT + 8}" y="{last:.1f}" fill="{colour}">{escape(lines[index].name)}</text>'
        )
    return parts


def _ticks(low: float, high: float) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found = [digit * 10.0**decade for decade in decades for digit in (1, 2, 5)]
    return [tick for tick in found if low * 0.999 <= tick <= high * 1.001]
