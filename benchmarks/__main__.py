"""`make bench`: every table of this folder, one after the other; each writes results/bench-NAME.json."""

from benchmarks import gpt, speed

for table in (speed, gpt):
    print(table.__name__, flush=True)
    table.main()
