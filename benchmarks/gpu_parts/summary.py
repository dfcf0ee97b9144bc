"""Markdown and aims from the results of gpu.py."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.train_step import loss_difference
from benchmarks.trainer import CASES

Rows = Sequence[Mapping[str, Any]]
# Shares of the kinds of iteration in a run of 12,000, of which 1,000 are warm-up, half of each with CutMix.
SHARES = {"warm-up": 1 / 24, "warm-up+cutmix": 1 / 24, "denoising": 11 / 24, "denoising+cutmix": 11 / 24}


class Iterations:
    """The rows of the parts `iteration` and `compiled`."""

    def __init__(self, parts: Mapping[str, Mapping]) -> None:
        both = [parts[name] for name in ("iteration", "compiled") if name in parts]
        self.rows = {(r["mode"], r["case"]): dict(r) for part in both for r in part.get("rows", [])}
        for profile in (p for part in both for p in part.get("profiles", [])):
            self.rows[profile["mode"], profile["case"]].update(profile)
        self.rates = {name: rate for part in both for name, rate in part.get("rates", {}).items()}
        first = (r["format"] for (mode, _), r in self.rows.items() if mode == "baseline")
        self.plain_format = next(first, "TF32")  # float32 on a CPU
        self.modes = list(dict.fromkeys(mode for mode, _ in self.rows))

    def seconds(self, mode: str) -> float | None:
        """Seconds per iteration, averaged over a run; None if a kind of iteration is missing."""
        if not all((mode, case) in self.rows for case in CASES):
            return None
        return sum(share * self.rows[mode, case]["seconds"] for case, share in SHARES.items())

    def peak(self, mode: str) -> float | None:
        """The highest peak memory of all kinds of iteration, bytes."""
        return max((row["peak_bytes"] for (m, _), row in self.rows.items() if m == mode), default=None)

    def best(self, number_format: str) -> str | None:
        """Our fastest mode in a number format, of those that train.py has, without compilation."""
        found = {r["mode"] for r in self.rows.values() if r["format"] == number_format}
        others = ("baseline", "autotune", "compile")
        times = {m: self.seconds(m) for m in found if not any(word in m for word in others)}
        return min((m for m in times if times[m]), key=lambda m: times[m] or 0, default=None)

    def table(self) -> list[dict]:
        """One row per kind of iteration and mode, and one per mode with the average over a run."""
        rows = [self.row(mode, case) for case in CASES for mode in self.modes if (mode, case) in self.rows]
        for mode in self.modes:
            if seconds := self.seconds(mode):
                speed_up = ratio(self.seconds("baseline"), seconds)
                row = {"iteration": "run", "mode": words(mode), "ms": ms(seconds), "speed-up": speed_up}
                rows.append({**dict.fromkeys(rows[0], ""), **row})
        return rows

    def row(self, mode: str, case: str) -> dict:
        r, first = self.rows[mode, case], self.rows.get(("baseline", case), {})
        rate = self.rates.get(r["format"])
        operations = first.get("operations")
        share = operations / r["seconds"] / rate if operations and rate else None
        relative = r["peak_bytes"] / max(1, first["peak_bytes"]) if first else None
        return {
            "iteration": case,
            "mode": words(mode),
            "format": r["format"],
            "ms": ms(r["seconds"]),
            "speed-up": ratio(first.get("seconds"), r["seconds"]),
            "host ms": ms(r["host_seconds"]),
            "launches": r.get("launches", ""),
            "waits": r.get("waits", ""),
            "kernels ms": ms(r["kernel_seconds"]) if "kernel_seconds" in r else "",
            "share of the matrix rate": percent(share),
            "peak GiB": f"{r['peak_bytes'] / 2**30:.2f}",
            "of the baseline's": percent(relative),
            "losses differ by": losses_differ(r, first) if first else "",
            "gradients differ by": f"{r['gradients']:.1e}" if "gradients" in r else "",
        }


def losses_differ(row: Mapping[str, Any], first: Mapping[str, Any]) -> str:
    """The greatest relative difference of a loss."""
    both = row["losses"], first["losses"]
    if any(value is None for losses in both for value in losses.values()):
        return "not finite"
    return f"{loss_difference(*both):.1e}"


def words(mode: str) -> str:
    return mode.replace("+", ", ")


def ms(seconds: float) -> str:
    return f"{1e3 * seconds:.1f}"


def percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.0f} %"


def ratio(a: float | None, b: float | None) -> str:
    return f"{a / b:.2f}" if a and b else ""


def aims(parts: Mapping[str, Mapping]) -> list[dict]:
    """What was to be reached on an H100, what was measured, and whether it was reached."""
    found, its = [], Iterations(parts)
    bf16, tf32 = its.best("bf16"), its.best(its.plain_format)
    base, fast = its.seconds("baseline"), its.seconds(bf16) if bf16 else None
    slower = its.seconds(tf32) if tf32 else None
    peaks = (its.peak(bf16), its.peak("baseline")) if bf16 else (None, None)
    (crf_ms, labels), rate = crf_result(parts.get("crf", {})), loading_rate(parts.get("loading", {}))

    def aim(name: str, goal: str, value: float | None, text: str, met: Callable[[float], bool]) -> None:
        measured, reached = ("", "") if value is None else (text.format(value), "yes" if met(value) else "no")
        found.append({"aim": name, "goal": goal, "measured": measured, "met": reached})

    def over(a: float | None, b: float | None) -> float | None:
        return a / b if a and b else None

    aim("bf16, averaged over a run", "65 ms", fast and 1e3 * fast, "{:.1f} ms", lambda x: x <= 65)
    aim("bf16 against the baseline", "3 times", over(base, fast), "{:.2f} times", lambda x: x >= 3)
    aim("TF32 against the baseline", "1.3 times", over(base, slower), "{:.2f} times", lambda x: x >= 1.3)
    share = over(*peaks)
    aim("peak memory in bf16", "60 % of the baseline's", share and 100 * share, "{:.0f} %", lambda x: x <= 60)
    aim("CRF, 375x500, 21 classes", "25 ms", crf_ms, "{:.1f} ms", lambda x: x <= 25)
    aim("labels of the CRF as the reference's", "99.99 %", labels, "{:.4f} %", lambda x: x >= 99.99)
    iterations = fast and rate and rate * fast
    aim("loaders against the iteration", "1 time", iterations, "{:.2f} times", lambda x: x >= 1)
    tests, training = parts.get("tests", {}), parts.get("training", {})
    failed = len(tests["failed"]) if "failed" in tests else None
    aim("failed tests", "0", failed, "{}", lambda x: x == 0)
    infinite = 1 - training["finite"] if "finite" in training else None
    aim("training with a loss that is not finite", "0", infinite, "{}", lambda x: x == 0)
    return found


def crf_result(part: Mapping) -> tuple[float | None, float | None]:
    """Milliseconds per image, and percent of equal labels of the worst image: torch with likely classes, last row."""
    row = part["rows"][-1] if part.get("rows") else None
    return (1e3 * float(row["s/image"]), float(row["labels %"])) if row else (None, None)


def loading_rate(part: Mapping) -> float | None:
    """Iterations per second that the loaders can supply."""
    return max((row["iterations/s"] for row in part.get("rates", [])), default=None)


def markdown_table(rows: Rows) -> str:
    """A Markdown table below the keys of the first row."""

    def line(cells: Sequence[object]) -> str:
        texts = [f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in cells]
        return f"| {' | '.join(text.replace('|', '&#124;') for text in texts)} |"

    header = list(rows[0])
    return "\n".join([line(header), line(["---"] * len(header)), *(line(list(row.values())) for row in rows)])


def kernel_rows(profile: Mapping) -> list[dict]:
    return [
        {
            "kernel": f"`{k['name'][:100]}`",
            "calls": k["calls"],
            "ms": f"{1e3 * k['seconds']:.2f}",
            "share": percent(k["share"]),
        }
        for k in profile["kernels"]
    ]


def training_row(part: Mapping) -> list[dict]:
    if "seconds" not in part:
        return []
    row = {"network": part["arch"], "iterations": part["steps"], "options": f"`{part['options']}`"}
    row |= {"ms per iteration": ms(part["seconds"]), "images/s": part["images_per_second"]}
    loss = " to ".join("not finite" if value is None else f"{value:.2f}" for value in part["loss_seg"])
    return [row | {"loss_seg": loss, "all losses finite": "yes" if part["finite"] else "no"}]


def markdown(results: Mapping[str, Any]) -> str:
    """The rows for RESULTS.md, under its headings."""
    parts = results["parts"]
    get = parts.get
    tables = {
        "Aims on an H100": results["aims"],
        "Failed tests": [{"test": f"`{name}`"} for name in get("tests", {}).get("failed", [])],
        "Dense CRF": get("crf", {}).get("rows", []),
        "Training iteration": Iterations(parts).table(),
        "Data loading": get("loading", {}).get("rates", []),
        "Data loading, milliseconds per image": get("loading", {}).get("parts", []),
        "Evaluation": get("evaluation", {}).get("ways", []),
        "Evaluation, milliseconds per image": get("evaluation", {}).get("parts", []),
        "Training run": training_row(get("training", {})),
    }
    for profile in get("kernels", {}).get("profiles", []):
        title = f"Most expensive kernels, {profile['mode']}, {profile['case']}, {ms(profile['seconds'])} ms"
        tables[title] = kernel_rows(profile)
    states = [
        {"part": name, **{k: part[k] for k in ("status", "seconds_used", "limit")}}
        for name, part in parts.items()
    ]
    tables["Parts"] = states
    text = "\n\n".join(f"## {title}\n\n{markdown_table(rows)}" for title, rows in tables.items() if rows)
    sizes = (
        "" if results["device"].startswith("cuda") else "; small sizes, which show only that everything runs"
    )
    return f"`{results['command']}`: {results['device']}; {results['date']}{sizes}\n\n{text}\n"
