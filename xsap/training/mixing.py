"""Two sources of names in each step: a terminology, and beside it another with its own share, such as general-domain translations.

Both are sampled by themselves, so what the first gives in a step is what it would give alone in a batch of its size. The second goes
round at its own pace: its epochs are counted from the steps taken.
"""

import numpy as np

from xsap.training.sampling import Names, Sampler


class Mixed:
    """Each step's names from `first`, then those from `second`; an epoch is one of `first`.

    rows, concepts: what is added to the second's rows and concepts, so that both count in one table of names.
    """

    def __init__(self, first: Sampler, second: Sampler, *, rows: int, concepts: int) -> None:
        self.first, self.second, self.rows, self.concepts = first, second, rows, concepts
        self.steps_per_epoch = first.steps_per_epoch

    def batch(self, epoch: int, step: int) -> Names:
        """The names of a step, a pure function of (epoch, step) as those of its parts are."""
        one = self.first.batch(epoch, step)
        two = self.second.batch(*divmod(epoch * self.steps_per_epoch + step, self.second.steps_per_epoch))
        return Names(np.concatenate([one.rows, two.rows + self.rows]), np.concatenate([one.concepts, two.concepts + self.concepts]))
