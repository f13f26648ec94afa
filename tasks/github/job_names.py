"""The names of the jobs that the workflows, their rules, the rulesets and `green` agree on."""

# The one check that a pull request needs, and that stands for every other.
GREEN = "green"

# The job whose outputs are the plan.
PLAN = "plan"

# The jobs that run what was planned: on the runner itself, and in the container image.
SESSION, CONTAINED = "session", "contained"

# The output of the plan that names the projects, and the variable with one of them.
PROJECTS, PROJECT = "projects", "PROJECT"

# The output of the plan from which each of them takes its matrix.
FED = {SESSION: "matrix", CONTAINED: "contained"}
