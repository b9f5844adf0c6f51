"""`gpukmeans cluster`: K-means over the rows of files, in one process or on the ranks that torchrun starts."""

from pathlib import Path

import typer

import gpukmeans_cli.options as options
import gpukmeans_cli.validation as validation
from gpukmeans_cli.rows.reporter import ClusterReporter
from gpukmeans_cli.system.rank_store import rank_store
from gpukmeans_cli.system.startup import import_torch


def cluster(
    inputs: options.ClusterInputs = None,
    n_clusters: options.Clusters = None,
    key: options.TensorKey = None,
    batch_rows: options.BatchRows = None,
    output: options.CentersOutput = Path("centers.safetensors"),
    labels: options.LabelsFolder = None,
    force: options.Force = False,
    checkpoint: options.CheckpointFile = None,
    every: options.CheckpointEvery = 10,
    resume: options.Resume = False,
    metric: options.MetricName = "euclidean",
    init: options.ClusterInit = "auto",
    n_init: options.ClusterNInit = 1,
    refine: options.ClusterRefine = 0,
    max_iter: options.MaxIter = 100,
    tol: options.ClusterTol = 1e-4,
    seed: options.Seed = 0,
    dtype: options.DtypeName = None,
    device: options.DeviceName = "auto",
    timeout: options.Timeout = None,
    as_json: options.JsonObject = False,
    quiet: options.Quiet = False,
    verbose: options.ClusterVerbose = False,
) -> int:
    """Cluster the rows of files, which may be larger than memory, by K-means; ranks of torchrun divide the rows."""
    inputs = validation.required(inputs, "a file of rows", "gpukmeans cluster rows.npy -k 64")
    n_clusters = validation.required(n_clusters, "the number of clusters", "-k 64")
    validation.check_no_stdin(inputs)
    validation.check_suffix(output, ".safetensors", ".npy")
    validation.check_resume(resume, checkpoint)
    validation.check_tol(tol)
    group_timeout = validation.parse_timeout(timeout)
    validation.check_device_name(device)
    env = validation.find_rank_env(output)
    reporter = ClusterReporter(
        is_main=env.is_main, as_json=as_json, quiet=quiet, verbose=verbose, inputs=[*map(str, inputs)]
    )

    with rank_store(env) as ranks:
        import_torch()  # not earlier: the import takes longer than small tasks
        import torch

        from gpukmeans_cli.rows.run import ClusterTask
        from gpukmeans_cli.rows.task_runner import PreparationError, run_task

        task = ClusterTask(
            inputs=tuple(inputs),
            key=key,
            n_clusters=n_clusters,
            metric=metric,
            init=init,
            n_init=n_init,
            refine=refine,
            max_iter=max_iter,
            tol=tol,
            seed=seed,
            batch_rows=batch_rows,
            dtype=None if dtype is None else getattr(torch, dtype),
            device=validation.find_device_of_rank(device, ranks),
            output=output,
            labels=labels,
            checkpoint=checkpoint,
            every=every,
            resume=resume,
            force=force,
        )
        try:
            return 0 if run_task(task, ranks, group_timeout, reporter) else 1
        except PreparationError as error:
            raise typer.TyperException(str(error)) from None
