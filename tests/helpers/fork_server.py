"""The process that tests fork their commands from, with the slow imports already made."""

import multiprocessing

# Importing fairseq, timm and FSDP2 takes seconds: the server does it once for all forks. The plugin
# must not be in this list, nor a module that imports a part of it: every fairseq command of a test
# has to load the plugin itself, as it does for a user.
forking = multiprocessing.get_context("forkserver")
forking.set_forkserver_preload(
    [
        "fairseq_cli.train",
        "fairseq_cli.hydra_train",
        "fairseq_cli.generate",
        "fairseq_cli.preprocess",
        "fairseq_cli.interactive",
        "fairseq_cli.validate",
        "timm.data",
        "timm.task",
        "torch.distributed.fsdp",
    ]
)
