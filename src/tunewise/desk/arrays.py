"""The arrays that statistics and analyses are made of."""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Texts = npt.NDArray[np.object_]  # of str; objects, because numpy's own strings pad every row to the longest
