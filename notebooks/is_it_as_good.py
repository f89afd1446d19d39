# ---
# jupyter:
#   jupytext: {formats: 'ipynb,py:percent'}
# ---

# %% [markdown]
# # Is it as good?
#
# Three seeds, five test rows: an interval by hand, and then by tunewise. At the end, a whole study in one cell.

# %% [markdown]
# ## A table of differences
#
# Each cell is the loss of LoRA minus the loss of full fine-tuning, for one seed and one test row. Above zero LoRA is
# worse. The numbers are made up.

# %%
import math

import numpy as np
from scipy import stats

differences = np.array(
    [
        [0.012, 0.031, -0.004, 0.020, 0.016],
        [0.018, 0.026, 0.002, 0.029, 0.010],
        [0.005, 0.035, -0.009, 0.017, 0.021],
    ]
)
num_seeds, num_rows = differences.shape
mean = differences.mean()
print(f"mean difference {mean:.4f} nats per token")

# %% [markdown]
# ## Three intervals
#
# Which things would be different if you did it again? If you think only of new *seeds*, you compare the three means of
# the seeds. If you think only of new *rows*, you compare the five means of the rows. Each answers half of the question.


# %%
def t_interval(values):
    """95% interval of a mean, from independent values."""
    reach = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values))
    return float(values.mean() - reach), float(values.mean() + reach)


def said(ends):
    return f"{ends[0]:+.4f} to {ends[1]:+.4f}"


print("new seeds, these rows:", said(t_interval(differences.mean(axis=1))))
print("new rows, these seeds:", said(t_interval(differences.mean(axis=0))))

# %% [markdown]
# For both at once, take the table apart: each difference is the mean, plus a part of its seed, plus a part of its row,
# plus a rest. The mean squares of the three parts give the variance of the mean:
#
# $$\frac{a + b - MS_{rest}}{S N}, \qquad a = \max(MS_{seed}, MS_{rest}), \quad b = \max(MS_{row}, MS_{rest})$$

# %%
by_seed, by_row = differences.mean(axis=1), differences.mean(axis=0)
rest = differences - by_seed[:, None] - by_row[None, :] + mean
ms_seed = num_rows * ((by_seed - mean) ** 2).sum() / (num_seeds - 1)
ms_row = num_seeds * ((by_row - mean) ** 2).sum() / (num_rows - 1)
ms_rest = (rest**2).sum() / ((num_seeds - 1) * (num_rows - 1))
a, b = max(ms_seed, ms_rest), max(ms_row, ms_rest)
error = math.sqrt((a + b - ms_rest) / (num_seeds * num_rows))
print(f"standard error {error:.5f}")

# %% [markdown]
# ## By tunewise

# %%
from tunewise.desk.statistics.intervals import two_way_interval

found = two_way_interval(differences)
assert math.isclose(found.standard_error, error)
print(f"standard error {found.standard_error:.5f}, {found.degrees_of_freedom:.1f} degrees of freedom")
print("new seeds and new rows:", said((found.low, found.high)))

# %% [markdown]
# The interval over both is the widest, and the only one that answers "would LoRA lose again?". The degrees of freedom
# are those of Satterthwaite, and the ends reach further on the side where the differences have a longer tail
# ([statistics](../docs/explanation/statistics.md)).
#
# **Exercise.** With a margin of 0.05, what is the verdict? With 0.02? (As good; inconclusive.)
#
# ## A whole study
#
# The same question for real: two arms, three seeds, 40 test rows. It takes a minute or two. The value of the last line
# is the result; a notebook shows its verdicts and charts.

# %% tags=["slow"]
import tempfile

import tunewise as tw

study = tw.parse_study(
    {
        "name": "tickets",
        "data": {"train": "builtin:tickets", "limit": {"train": 160, "valid": 40, "test": 40}},
        "arms": {
            "full": {"method": "full", "learning_rate": 3e-3},
            "lora": {"method": "lora", "rank": 8, "learning_rate": 9e-3},
        },
        "train": {"epochs": 1, "batch_size": 16, "evaluations": 1},
        "tuning": {"rates": 3, "cap": 3, "half_steps": False},
        "looks": [3],
        "forgetting": {"tokens": 0},
        "samples": {"count": 0},
        "machine": {"threads": 1, "precision": "fp32", "test_set_ledger": False},
    },
    "notebook",
)
result = tw.compare(study, tempfile.mkdtemp())
result

# %% [markdown]
# The verdict is inconclusive, and the sentence says why. LoRA is far behind after ten steps, but its best rate was
# found with three trials only, and a finer search could gain more than the difference. So "worse" is not concluded. The
# same study with 800 rows is `tunewise quickstart` ([its results](../docs/learn/04-results-and-comparison.md)).
