"""Properties of adapters found without their base: plain data for the terminal, JSON and the heat map."""

from tunewise.spec.frozen import Frozen

ENERGY_SHARES = (0.9, 0.95, 0.99)
NUM_ANGLES = 8  # principal angles reported per module


class ModuleView(Frozen):
    """The update of one adapted module."""

    module: str
    layer: int | None  # None: the name has no number
    kind: str  # the name behind the layer, such as 'attn.c_attn'
    outputs: int
    inputs: int
    rank: int
    scale: float
    norm: float  # Frobenius, of the update
    largest: float  # singular value
    effective_rank: float | None  # exp of the entropy of the singular values; None: the update is 0
    stable_rank: float | None
    energy_ranks: dict[str, int]  # share of the squared norm, in percent -> the smallest rank that keeps it
    singular_values: tuple[float, ...]


class AdapterView(Frozen):
    """A LoRA adapter on disk."""

    path: str
    base: str | None  # as the adapter names it
    task: str | None
    ranks: tuple[int, ...]  # each once, rising
    scales: tuple[float, ...]
    parameters: int  # of the factors
    saved_beside: dict[str, int]  # fully trained modules -> parameters
    modules: tuple[ModuleView, ...]
    dead: tuple[str, ...]  # modules whose update is 0


class ModuleDifference(Frozen):
    """The updates of one module in two adapters."""

    module: str
    cosine: float | None  # of the updates as vectors; None: one of them is 0
    overlap_outputs: float  # share of the smaller output space within the larger one, 0 to 1
    overlap_inputs: float
    by_chance: float  # the overlap of outputs that two random spaces of these ranks have on average
    angles: tuple[float, ...]  # principal angles of the outputs in degrees, the smallest first
    norms: tuple[float, float]
    distance: float | None  # ||second - first|| / ||first||; None: the first is 0


class Difference(Frozen):
    """Two adapters compared."""

    first: str
    second: str
    cosine: float | None  # of all common updates together
    modules: tuple[ModuleDifference, ...]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]


class ShrunkModule(Frozen):
    """One module before and after."""

    module: str
    rank_before: int
    rank: int
    lost: float | None  # ||update - kept|| / ||update||; None: the update is 0


class Shrinking(Frozen):
    """Result of `tunewise adapter shrink`: what was written and what was lost."""

    path: str
    out: str
    rule: str  # in words
    parameters_before: int
    parameters: int
    bytes_before: int
    bytes: int
    lost: float | None  # over all modules, ||update - kept|| / ||update||; None: every update is 0
    modules: tuple[ShrunkModule, ...]
