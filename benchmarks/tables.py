"""Results as aligned text."""

from collections.abc import Sequence
from typing import Any

Rows = list[list[str]]


def aligned(rows: Rows, left: int = 1) -> str:
    """Rows as columns: the first `left` to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows if i < len(row)) for i in range(max(map(len, rows)))]
    lines = []
    for row in rows:
        cells = [text.ljust(w) if i < left else text.rjust(w) for i, (text, w) in enumerate(zip(row, widths))]  # noqa: B905
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def report(result: dict[str, Any]) -> str:
    """Every cell of a result: contestants by their medians, and after the table who could not take part, and why."""
    machine, options = result["machine"], result["options"]
    head = (
        f"{result['benchmark']}: {machine['cpu']}, {machine['threads']} of {machine['cores']} cores, "
        f"{options['rounds']} rounds. Medians, with intervals of at least 95 % where there are 6 rounds or "
        "more, else ranges; ratios are to npvae jit of the same round."
    )
    peaks = result.get("peaks")
    parts = [head]
    if peaks:
        parts.append(describe_peaks(peaks))
    parts += [cell_table(cell, peaks) for cell in result["cells"]]
    return "\n\n".join(parts)


def describe_peaks(peaks: dict[str, Any]) -> str:
    """The machine's limits in one line."""
    resident = ", ".join(f"{rate / 1e9:.0f} GB/s for {int(n):,} parameters" for n, rate in peaks["update"].items())
    text = f"measured peaks: {peaks['fma'] / 1e9:.0f} GFLOP/s float32, memory {peaks['triad'] / 1e9:.1f} GB/s"
    loop = peaks["fma_instructions"]
    if loop["found"] == 0 or loop["found"] % loop["expected"]:
        text += f" (not to be trusted: {loop['found']} multiply-adds in a loop of {loop['expected']})"
    return text + (f"; optimiser's vectors {resident}" if resident else "")


def cell_table(cell: dict[str, Any], peaks: dict[str, Any] | None = None) -> str:
    """One cell."""
    peaks = cell.get("peaks") or peaks
    unit, flops, bound = cell["unit"], cell.get("flops"), lower_bound(cell, peaks)
    scale, shown = scale_of([r["median"] for r in cell["contestants"].values() if "median" in r], unit)
    share = "of the peak" if not peaks or not peaks["update"] else "of the limit"
    head = [cell["name"], shown, "interval", "ratio", "interval"]
    head += ["GFLOP/s"] if flops else []
    head += [share] if bound else []
    rows, absent = [head], []
    for record in cell["contestants"].values():
        if "median" not in record:
            absent.append(f"  {record['label']}: {record['status']}, {record.get('reason', '')}".rstrip(", "))
            continue
        row = [f"  {record['label']}", number(record["median"] * scale), span(record["interval"], scale)]
        row += [number(record["ratio"]), span(record["ratio_interval"], 1)] if "ratio" in record else ["", ""]
        row += [f"{flops / record['median'] / 1e9:.1f}"] if flops else []
        row += [f"{bound / record['median']:.0%}"] if bound else []
        rows.append(row)
    return "\n".join([aligned(rows), *absent])


def lower_bound(cell: dict[str, Any], peaks: dict[str, Any] | None) -> float | None:
    """Seconds below which this machine cannot go.

    A product alone: its operations at the peak. An op: that, or its traffic where that takes longer. A training step:
    its products at the peak, then the optimiser's traffic, which reads theta, dtheta, m and v and writes theta, m and
    v: 28 bytes a parameter.
    """
    if not peaks or not cell.get("flops") or cell["unit"] != "s":
        return None
    seconds: float = cell["flops"] / peaks["fma"]
    if "bytes" in cell and peaks["update"]:  # an op: whichever takes longer, its arithmetic or its traffic
        return max(seconds, float(cell["bytes"] / max(peaks["update"].values())))
    if "parameters" in cell:
        rate = peaks["update"].get(str(cell["parameters"]))
        if rate is None:
            return None
        seconds += 28 * cell["parameters"] / rate
    return seconds


def scale_of(values: Sequence[float], unit: str) -> tuple[float, str]:
    """The factor and the name of the unit in which these are best read."""
    if unit != "s" or not values:
        return 1.0, unit
    least = min(values)
    return (1.0, "s") if least >= 1 else (1e3, "ms") if least >= 1e-3 else (1e6, "µs")


def number(value: float) -> str:
    """Three significant digits, without an exponent."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def span(interval: Sequence[float], scale: float) -> str:
    """low–high."""
    return "–".join(number(scale * end) for end in interval)
