"""The folder that goes on PYTHONPATH where a run is watched; see tasks/evidence/inputs.py."""
