import os

# pytest-xdist says which of several processes this is. They share the cores out: two with a
# thread for each core are slower than one after the other.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
