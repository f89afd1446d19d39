"""Parts of a base that read images or sound. Data is text, so nothing reaches them, and no arm changes them."""

from collections.abc import Iterator

import torch

from tunewise.lab.methods.targets import text_part
from tunewise.lab.models.load import LINEAR, Base


def towers(base: Base) -> tuple[str, ...]:
    """Names of the largest modules through which no text passes; () for a model that only reads text."""
    reads_text = text_part(base)
    if not reads_text:
        return ()
    ends = (base.model.get_input_embeddings(), base.model.get_output_embeddings())
    used = (reads_text, *base.head_modules, *(n for n, module in base.model.named_modules() if module in ends))
    return tuple(_largest_without(base.model, "", used))


def _largest_without(module: torch.nn.Module, name: str, used: tuple[str, ...]) -> Iterator[str]:
    for child_name, child in module.named_children():
        full = f"{name}.{child_name}".lstrip(".")
        if full in used or next(child.parameters(), None) is None:
            continue
        if any(other.startswith(f"{full}.") for other in used):
            yield from _largest_without(child, full, used)
        else:
            yield full


def freeze_towers(base: Base) -> tuple[str, ...]:
    """Freeze the towers of a model that is trained as a whole; return the names of their linear modules."""
    found = []
    for tower in towers(base):
        module = base.model.get_submodule(tower)
        module.requires_grad_(False)
        found += [f"{tower}.{name}".rstrip(".") for name, part in module.named_modules() if isinstance(part, LINEAR)]
    return tuple(found)


def tower_notes(base: Base) -> tuple[str, ...]:
    """A remark that only the part for text is trained; () for a model that only reads text."""
    names = towers(base)
    if not names:
        return ()
    weights = sum(p.numel() for name in names for p in base.model.get_submodule(name).parameters())
    total = sum(p.numel() for p in base.model.parameters())
    return (
        f"The model also reads images or sound, but the data is text, so every arm trains only the part for text. "
        f"{', '.join(names)} ({weights / total:.0%} of the weights) keep their values.",
    )
