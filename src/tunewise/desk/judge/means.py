"""Tables of the mean over several tasks, from the table of each task.

All runs answer all tasks, so seeds are shared by the tasks and stay the rows of the table.

Shapes: T tasks; S seeds; N_t columns of task t, N of all tasks together; `...` any number of tables.
"""

from collections.abc import Sequence

import numpy as np

from tunewise.desk.arrays import Floats

MIN_TASKS = 10  # with fewer, nothing is said about other tasks


def by_tasks(tables: Sequence[Floats]) -> Floats:
    """Tasks as units, (..., S, T): the mean of every seed on every task. For new tasks of the same kind."""
    return np.stack([table.mean(axis=-1) for table in tables], axis=-1)


def of_tasks(tables: Sequence[Floats]) -> Floats:
    """Units of all tasks, (..., S, N), whose mean is that of the tasks' means. For new units of these tasks.

    Tasks are strata, so that differences between them add no uncertainty: every column is its deviation from the
    mean of its task over all seeds, times N / (T N_t), plus the mean of all tasks. The variance over units then is the
    sum of the tasks' variances / T^2 (Cochran 1977, Sampling Techniques, section 5.3); the factor
    sqrt((N - 1) N_t / ((N_t - 1) N)) gives each task its own degrees of freedom.
    """
    num_tasks, sizes = len(tables), [table.shape[-1] for table in tables]
    num_units = sum(sizes)
    means = [table.mean(axis=(-2, -1), keepdims=True) for table in tables]
    mean = sum(means[1:], means[0]) / num_tasks
    parts = []
    for table, own, size in zip(tables, means, sizes, strict=True):
        of_seeds = table.mean(axis=-1, keepdims=True)
        fitting = np.sqrt((num_units - 1) * size / (max(size - 1, 1) * num_units))
        deviation = (table - of_seeds) * fitting + of_seeds - own
        parts.append(mean + deviation * (num_units / (num_tasks * size)))
    return np.concatenate(parts, axis=-1)
