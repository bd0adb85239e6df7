"""launch.py with a corpus named "shakespeare" that is fetched from an address of the test's.

    python tests/faults/_fetch.py '{"address": ..., "digest": ..., "timeout": 1.0}' train ...

Keys: file, address, digest, folder, member of `cache.Remote`; timeout, seconds without a byte; memory,
bytes of text from which the tokens go to the cache folder.
"""

import json
import sys

from rnnlab.data import cache
from rnnlab.tasks.language_model import corpora

if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    cache.TIMEOUT = given.pop("timeout", cache.TIMEOUT)
    corpora.IN_MEMORY = given.pop("memory", corpora.IN_MEMORY)
    if given:
        remote = {"file": "fetched.txt", "folder": "", "member": ""} | given
        corpora.REMOTES["shakespeare"] = (cache.Remote(**remote),)
    import launch

    sys.exit(launch.main(sys.argv[2:]))
