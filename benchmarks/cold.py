"""A process that starts, imports one library, and takes two training steps: what each of these took, as JSON.

`python -m benchmarks.cold NAME PACKAGE PROBLEM ARRAYS ANSWER`. Nothing but the standard library is imported before the
clock. Then the contestant's answer goes to a file, and it is said how long that took.
"""

import json
import sys
import time

if __name__ == "__main__":
    name, package, problem, path, answer = sys.argv[1:]
    clock = [time.perf_counter()]
    __import__(package)
    clock.append(time.perf_counter())

    from pathlib import Path

    from benchmarks import peers
    from benchmarks.serve import read_arrays

    given = read_arrays(Path(path))
    clock.append(time.perf_counter())
    contestant = peers.make(name, json.loads(problem), given, tune=False)
    contestant.run(1)
    clock.append(time.perf_counter())
    contestant.run(1)
    clock.append(time.perf_counter())
    import numpy as np

    np.savez(answer, **contestant.answer())
    clock.append(time.perf_counter())
    print(json.dumps({"import": clock[1] - clock[0], "first": clock[3] - clock[2], "second": clock[4] - clock[3],
                      "answer": clock[5] - clock[4]}))  # fmt: skip
