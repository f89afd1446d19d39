"""Counts, sizes, durations and differences formatted for people."""

MISSING = "–"


def count(value: int | None) -> str:
    """Format 294912 as '294,912'."""
    return MISSING if value is None else f"{value:,}"


def threads(number: int) -> str:
    """Format as '1 thread' or '2 threads'."""
    return f"{number} thread{'' if number == 1 else 's'}"


def short_path(text: str) -> str:
    """Last two parts of a path: '/data/sets/trec6/train.jsonl' -> 'trec6/train.jsonl'; 'owner/name' stays as it is."""
    parts = text.rstrip("/").split("/")
    return text if len(parts) <= 2 else "/".join(parts[-2:])


def percent(value: float | None) -> str:
    """Format a value that is already in percent: 0.23643 -> '0.236%', 100 -> '100%'."""
    return MISSING if value is None else f"{value:.3g}%"


def share(value: float | None) -> str:
    """Format a share of 1 in percent: 0.9942 -> '99.4%'."""
    return MISSING if value is None else f"{100 * value:.1f}%"


def duration(seconds: float | None) -> str:
    """Seconds in a readable unit: '840 ms', '27.4 s', '3 min 12 s', '2 h 05 min'."""
    if seconds is None:
        return MISSING
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def size(num_bytes: int | None) -> str:
    """Bytes in powers of 1024: '900 B', '16.6 MiB'."""
    if num_bytes is None:
        return MISSING
    value, unit = float(num_bytes), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.3g} {unit}"


def money(amount: float | None, currency: str | None) -> str:
    """Cost in the user's currency: '1,234.50 EUR', '0.12 EUR', '0.0042 EUR'; '0.12' without a currency."""
    if amount is None:
        return MISSING
    value = f"{amount:,.2f}" if amount >= 0.1 or amount == 0 else f"{amount:.2g}"
    return f"{value} {currency}" if currency else value


def speed(tokens_per_second: float | None) -> str:
    """Format a rate per second as '4,416 /s'."""
    return MISSING if tokens_per_second is None else f"{tokens_per_second:,.0f} /s"


def rate(learning_rate: float | None) -> str:
    """Learning rate as a study writes it: '0.00014', '5e-05'."""
    return MISSING if learning_rate is None else f"{learning_rate:g}"


def ratio(value: float | None) -> str:
    """Ratio to full fine-tuning: '0.80×', '0.0076×'."""
    if value is None:
        return MISSING
    return f"{value:.2f}×" if value >= 0.1 else f"{value:.2g}×"


def whole_percent(value: float) -> str:
    """Share of 1 in percent without decimals: 0.967 -> '97%'."""
    return f"{100 * value:.0f}%"


def short(value: float | None) -> str:
    """Three digits, such as '12.3'; a dash for a missing value."""
    return MISSING if value is None else f"{value:.3g}"
