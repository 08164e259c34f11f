# The study as a dependency graph, on one machine or on a cluster (README.md has a recipe for Slurm):
#   snakemake --cores 2 --config preset=smoke
#   snakemake --executor slurm --jobs 50 --config preset=imagenet data=DIR
# Settings of --config: preset, full (1), data, device, and directions of transfer, separated by spaces.
import sys
from rastudy.__main__ import parse
from rastudy.grid import read_first, select
from rastudy.paths import TABLES, root, short

preset, directions = config.pop("preset", "digits"), config.pop("directions", "").split()
flags = ["--preset", preset] + ["--full"] * int(config.pop("full", 0))
flags += [word for name in list(config) for word in (f"--{name}", str(config[name]))]
cells = {cell.config.run_id: cell for cell in select(parse(["sweep", *flags])[1])}
place = "" if str(short(root())) == "." else f"{short(root())}/"  # runs/study/, or where RASTUDY_ROOT says
results, stamp = f"{place}results/{preset}", f"{place}runs/{preset}/notebooks/stamp.json"
csv = lambda names: [f"{results}/{name}.csv" for name in names]
evidence = lambda runs: [f"{results}/predictions/{run}.{split}.npz" for run in runs for split in cells[run].splits]

def first(wildcards):
    return evidence(run.config.run_id for run in read_first(cells[wildcards.run], list(cells.values())))

rule all:
    input: evidence(cells), csv([*TABLES["study"], *TABLES["boundaries"]]), csv(f"transfer_{name}" for name in directions), stamp

rule run:
    output: f"{results}/predictions/{{run}}.{{split}}.npz"
    input: first
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
    output: f"{results}/transfer_{{direction}}.csv"
    input: csv(TABLES["study"])
    shell: "{sys.executable:q} -m rastudy sweep {flags:q} --direction {wildcards.direction} --jobs {threads}"
