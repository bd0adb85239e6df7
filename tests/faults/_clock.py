"""launch.py on a machine whose clock is set by so many days at every 20th look at it.

    python tests/faults/_clock.py -1 train ...

Wall-clock time alone: nothing can set time.monotonic back.
"""

import datetime
import itertools
import sys
import time

from rnnlab.run import folder

LOOKS = itertools.count()
real = time.time


def jumping() -> float:
    return real() + next(LOOKS) // 20 * float(sys.argv[1]) * 86_400.0


class Jumping(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls.fromtimestamp(jumping(), tz)


time.time = jumping
folder.datetime = Jumping

if __name__ == "__main__":
    import launch

    sys.exit(launch.main(sys.argv[2:]))
