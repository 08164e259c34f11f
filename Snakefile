# The study as one dependency graph, on one machine or on a cluster:
#
#   snakemake --cores 2 --config preset=smoke
#   snakemake --executor slurm --jobs 50 --config preset=imagenet data=DIR
#
# Every CSV is a target: snakemake --cores 2 results/digits/gains.csv
# Settings of --config: preset, full, data, device, directions; README.md has a recipe for Slurm.
import sys

from rastudy.sweep.workflow import Study

study = Study(**config)


wildcard_constraints:
    run="[^/]+?",
    split="val|test",
    direction="[a-z_]+",


localrules:
    all,
    csvs,
    tables,


rule all:
    input:
        study.csvs,
        study.notebooks,


rule csvs:  # and no notebooks
    input:
        study.csvs,


rule train:
    output:
        study.curve("{run}"),
    input:
        lambda w: study.starts_from(w.run),
    params:
        command=lambda w: study.train(w.run),
        code=study.code,  # a change trains anew
    resources:
        mem_mb=lambda w: study.megabytes(w.run),
    shell:
        "{sys.executable} {params.command} {study.place}"


rule evaluate:
    output:
        f"results/{study.preset}/runs/{{run}}.{{split}}.csv",
    input:
        lambda w: [study.curve(w.run)] if w.run in study.trained else [],
    params:
        command=lambda w: study.evaluate(w.run, w.split),
    resources:
        mem_mb=lambda w: study.megabytes(w.run),
    shell:
        "{sys.executable} {params.command} {study.place}"


rule tables:
    output:
        study.tables,
    input:
        study.of_runs(study.cells),
    params:
        command=study.make_tables(),
    shell:
        "{sys.executable} {params.command}"


rule boundaries:
    output:
        study.boundaries,
    input:
        study.of_runs(study.cells, ["test"]),
    params:
        command=study.measure(),
    resources:
        mem_mb=4000,
    shell:
        "{sys.executable} {params.command} {study.place}"


rule transfer:
    output:
        f"results/{study.preset}/transfer_{{direction}}.csv",
    input:
        lambda w: study.read_by(w.direction),
    params:
        command=lambda w: study.transfer(w.direction),
    resources:
        mem_mb=4000,
    shell:
        "{sys.executable} {params.command} {study.place}"


rule notebooks:
    output:
        study.notebooks,
    input:
        study.tables,
        study.boundaries,
        study.transfers,
    params:
        command=study.execute(),
    resources:
        mem_mb=4000,
    shell:
        "{sys.executable} {params.command} {study.place}"
