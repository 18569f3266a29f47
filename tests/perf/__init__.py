"""What kdbench takes in time, by pytest-benchmark: `make bench`, and `make bench QUICK=1` for the small sizes alone.

What is compared is run in turn in one process (`turns.py`), so that a busy machine slows both sides, and the ratio of
each round is kept. Training steps are those of the harness's own loop (`rig.py`). Nothing here asserts on a time.
"""
