# The study as a dependency graph, on one machine or on a cluster (README.md has a recipe for Slurm):
#   snakemake --cores 2 --config preset=smoke
#   snakemake --executor slurm --jobs 50 --config preset=imagenet data=DIR
# Settings of --config: preset, full (1), data, device, and directions of transfer, separated by spaces.
import sys
from rastudy.__main__ import parse
from rastudy.grid import select
from rastudy.paths import TABLES

preset, directions = config.pop("preset", "digits"), config.pop("directions", "").split()
flags = ["--preset", preset] + ["--full"] * int(config.pop("full", 0))
flags += [word for name in list(config) for word in (f"--{name}", str(config[name]))]
cells = {cell.config.run_id: cell for cell in select(parse(["sweep", *flags])[1])}
stamp, csv = f"runs/{preset}/notebooks/stamp.json", lambda names: [f"results/{preset}/{name}.csv" for name in names]
evidence = lambda runs: [f"results/{preset}/predictions/{run}.{split}.npz" for run in runs for split in cells[run].splits]

def plain_of(wildcards):  # whose pretraining the other modes share
    start = lambda run: cells[run].config.pretraining and cells[run].config.chain[0].run_id
    plain = [run for run in cells if cells[run].config.mode == "plain" and start(run) == start(wildcards.run)]
    return [] if wildcards.run in plain else evidence(plain[:1])

rule all:
    input: evidence(cells), csv([*TABLES["study"], *TABLES["boundaries"]]), csv(f"transfer_{name}" for name in directions), stamp

rule run:
    output: f"results/{preset}/predictions/{{run}}.{{split}}.npz"
    input: plain_of
    shell: "{sys.executable:q} -m rastudy sweep {flags:q} --run {wildcards.run:q} --split {wildcards.split} --jobs 1"

rule tables:
    output: csv(TABLES["study"])
    input: evidence(cells)
    shell: "{sys.executable:q} -m rastudy tables --preset {preset:q}"

rule notebooks:
    output: csv(TABLES["boundaries"]), stamp
    input: csv(TABLES["study"])
    shell: "{sys.executable:q} -m rastudy sweep {flags:q} --keep-committed --jobs {threads}"

rule transfer:
    output: f"results/{preset}/transfer_{{direction}}.csv"
    input: csv(TABLES["study"])
    shell: "{sys.executable:q} -m rastudy sweep {flags:q} --direction {wildcards.direction} --jobs {threads}"
