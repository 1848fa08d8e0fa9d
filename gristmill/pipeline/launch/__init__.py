"""Launch: one `Job`, written down for a scheduler and, where its client is present, submitted.

In: what to run (a recipe and the options of `gristmill run`) and what it may use. Out: the text that a scheduler takes
(a bash script, a Slurm batch script, a Kubernetes manifest, a SkyPilot task, a Ray submission); every writer is a pure
function of the job. `schedulers` is the table of them, `submit` the only part that starts anything.
"""
