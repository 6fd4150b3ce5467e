"""The table of patches: each change to fairseq, why it is made, and when it may go.

The functions are in the files that the names of the patches begin with. README.md beside this file
says how to add a patch.
"""

from ..checkpoints.contents import list_fairseq_globals
from . import batches, checkpoints, datasets, distributed, generation, hydra, precision
from .replacing import LATE_COMMANDS, Patch, Permission

SAFE_LOADING = "torch.serialization:add_safe_globals"
READ_IN = "ve-fairseq 0.12.3"

PATCHES: tuple[Patch, ...] = (
    Permission(
        name="checkpoints.safe_globals",
        replaces={SAFE_LOADING: list_fairseq_globals},
        without="Commands cannot load a checkpoint with a Namespace or numpy numbers in it, since "
        "torch's safe loading refuses them.",
        effect="Checkpoints load with safe loading left on, which runs no code from a file.",
        since="torch 2.6",
        until="fairseq saves plain data, or allows these classes itself",
        test="tests/plugin/test_patches_on_and_off.py::"
        "test_without_patches_a_checkpoint_with_a_namespace_is_not_loaded",
    ),
    Patch(
        name="checkpoints.damage",
        replaces={
            "fairseq.checkpoint_utils:load_checkpoint_to_cpu": checkpoints.load_or_explain,
        },
        without="A truncated checkpoint ends in `failed finding central directory`, and one with a "
        "flipped bit is loaded without a word.",
        effect="The error names the file and the newest complete checkpoint in its folder.",
        since=READ_IN,
        until="torch compares checksums, and fairseq names the file",
        test="tests/plugin/test_checkpoints.py::"
        "test_resuming_from_a_torn_checkpoint_ends_in_one_clear_sentence",
    ),
    Patch(
        name="checkpoints.finite",
        replaces={
            "fairseq.checkpoint_utils:load_checkpoint_to_cpu": checkpoints.refuse_nonfinite_weights,
        },
        without="A checkpoint with a weight that is nan is loaded, and everything it computes is "
        "nan.",
        effect="A file with an infinite or nan weight is refused, of any model.",
        since=READ_IN,
        until="fairseq checks it",
        test="tests/plugin/test_patches_checkpoints.py::test_a_file_with_a_nan_is_refused",
    ),
    Patch(
        name="checkpoints.reason",
        replaces={"fairseq.trainer:Trainer.load_checkpoint": checkpoints.name_what_does_not_fit},
        without="Training answers every checkpoint that does not fit with `please ensure that the "
        "architectures match`.",
        effect="Where the dictionary or the kind of a weight differs, the error says so.",
        since=READ_IN,
        until="fairseq passes the model's own error on",
        test="tests/plugin/test_fingerprint.py::"
        "test_training_refuses_a_permuted_dictionary_in_its_last_sentence",
    ),
    Patch(
        name="checkpoints.ema",
        replaces={"fairseq.models.ema.ema:EMA.restore": checkpoints.restore_what_is_not_averaged},
        without="The first update with --store-ema removes the last layer norm from the averaged "
        "encoder, which fairseq takes for one of an old version, and each warns of a missing "
        "fingerprint.",
        effect="Tensors that are not averaged keep their values.",
        since=READ_IN,
        until="fairseq restores all tensors of the average",
        test="tests/plugin/test_patches_checkpoints.py::"
        "test_a_moving_average_keeps_the_last_layer_norm",
    ),
    Patch(
        name="checkpoints.unwritable",
        replaces={"fairseq.checkpoint_utils:torch_persistent_save": checkpoints.save_or_explain},
        without="A full disk ends in a traceback of torch's writer, and leaves a part of a file.",
        effect="The error names the file and the reason, and the part is removed.",
        since=READ_IN,
        until="fairseq does so",
        test="tests/plugin/test_faults.py::test_fairseq_train_goes_on_after_the_disk_was_full",
    ),
    Patch(
        name="checkpoints.second_attempt",
        replaces={
            "fairseq.checkpoint_utils:_torch_persistent_save": checkpoints.save_from_the_start,
        },
        without="After a failed write, fairseq tries again in the middle of the file, and saves a "
        "checkpoint that cannot be loaded.",
        effect="The second attempt begins at the start of an empty file.",
        since=READ_IN,
        until="fairseq truncates the file",
        test="tests/plugin/test_faults.py::"
        "test_a_second_attempt_at_a_write_does_not_go_on_where_the_first_stopped",
    ),
    Patch(
        name="checkpoints.save_dir",
        replaces={
            "fairseq.checkpoint_utils:verify_checkpoint_directory": checkpoints.check_save_dir
        },
        without="A --save-dir that cannot be written to ends in an error that names a dummy file.",
        effect="The error names --save-dir and the reason.",
        since=READ_IN,
        until="fairseq names the option",
        test="tests/plugin/test_faults.py::test_a_folder_that_cannot_be_written_to_is_named",
    ),
    Patch(
        name="checkpoints.copy",
        replaces={"fairseq.file_io:PathManager.copy": checkpoints.copy_atomically},
        without="checkpoint_last.pt and checkpoint_best.pt are plain copies, which a kill can "
        "truncate.",
        effect="They are replaced in one step: a kill leaves the old file or the new one.",
        since=READ_IN,
        until="fairseq copies atomically",
        test="tests/plugin/test_checkpoints.py::"
        "test_a_kill_while_a_checkpoint_is_copied_leaves_the_old_one_whole",
    ),
    Patch(
        name="checkpoints.languages",
        replaces={"fairseq.trainer:Trainer.state_dict": checkpoints.save_the_languages},
        without="A checkpoint does not say its languages where fairseq found them in file names, "
        "so loading it needs the training data.",
        effect="The languages are saved in the checkpoint's configuration.",
        since=READ_IN,
        until="fairseq saves them",
        test="tests/plugin/test_patches_checkpoints.py::test_a_checkpoint_says_its_languages",
    ),
    Patch(
        name="checkpoints.early_stopping",
        replaces={
            "fairseq.trainer:Trainer.save_checkpoint": checkpoints.save_early_stopping,
            "fairseq.trainer:Trainer.load_checkpoint": checkpoints.load_early_stopping,
        },
        without="With --patience, a resumed training counts from zero and ends later.",
        effect="The count is saved, and a resumed training ends where it would have ended.",
        since=READ_IN,
        until="fairseq saves the count",
        test="tests/plugin/test_patches_checkpoints.py::"
        "test_a_resumed_training_stops_when_it_would_have_stopped",
    ),
    Patch(
        name="datasets.files",
        replaces={"fairseq.data.data_utils:load_indexed_dataset": datasets.load_checked_dataset},
        without="Truncated data gives wrong sentences, and a token beyond the dictionary an error "
        "deep in the embedding.",
        effect="A file that does not fit its index or its dictionary is refused when it is loaded.",
        since=READ_IN,
        until="fairseq's format has checksums",
        test="tests/plugin/test_bad_input.py::test_binarised_corpora",
    ),
    Patch(
        name="batches.remainder",
        replaces={"fairseq.data.data_utils:batch_by_size": batches.batch_the_remainder},
        without="The longest sentences of a set are dropped where their number is not a multiple "
        "of 8, and fewer than 8 sentences are an error.",
        effect="They are one more batch.",
        since="ve-fairseq 0.12.3 (0.12.2 keeps them)",
        until="fairseq keeps the last batch",
        test="tests/plugin/test_patches_batches.py::test_each_sentence_is_in_one_batch",
    ),
    Patch(
        name="batches.resuming",
        replaces={
            "fairseq.trainer:Trainer.get_train_iterator": batches.resume_with_the_same_batches,
        },
        without="A training that is resumed in a later epoch than the first gets other batches.",
        effect="It gets the batches of the training that it resumes, bit for bit on the CPU.",
        since=READ_IN,
        until="fairseq makes batches that do not depend on the epoch of the start",
        test="tests/plugin/test_patches_batches.py::test_a_resumed_training_goes_on_bit_for_bit",
    ),
    Patch(
        name="batches.processes",
        replaces={
            "fairseq.data.iterators:EpochBatchIterator.state_dict": (
                batches.save_number_of_processes
            ),
            "fairseq.data.iterators:EpochBatchIterator.load_state_dict": (
                batches.resume_with_other_processes
            ),
        },
        without="Resumed with another number of processes, a training skips sentences or sees them "
        "twice.",
        effect="It goes on where it was, in the middle of an epoch too, or is refused.",
        since=READ_IN,
        until="fairseq counts the batches of all processes",
        test="tests/plugin/test_distributed.py::"
        "test_another_number_of_processes_goes_on_where_a_run_was",
    ),
    Permission(
        name="distributed.safe_globals",
        replaces={SAFE_LOADING: distributed.list_broadcast_globals},
        without="Several processes cannot resume: they receive the checkpoint's configuration from "
        "rank 0, and torch's safe loading refuses it.",
        effect="They receive it with safe loading left on.",
        since="torch 2.6",
        until="fairseq sends plain data, or allows these classes itself",
        test="tests/plugin/test_patches_distributed.py::"
        "test_torchrun_trains_one_model_and_resumes_it",
    ),
    Patch(
        name="distributed.torchrun",
        replaces={"fairseq.distributed.utils:call_main": distributed.join_before_main},
        without="Processes of torchrun on the CPU or on one GPU train a model each, into one "
        "folder; a --ddp-backend or init method that needs a GPU does nothing or fails deep down.",
        effect="They train one model; what cannot work is refused with the reason.",
        since=READ_IN,
        until="fairseq joins torchrun without GPUs",
        test="tests/plugin/test_patches_distributed.py::"
        "test_torchrun_trains_one_model_and_resumes_it",
    ),
    Patch(
        name="distributed.ddp_on_cpu",
        replaces={
            "fairseq.models.distributed_fairseq_model:DistributedDataParallel": (
                distributed.make_ddp_for_any_device
            ),
        },
        without="The default --ddp-backend fails on the CPU, since it names a GPU.",
        effect="It works; the class is a subclass of torch's.",
        since=READ_IN,
        until="fairseq leaves the device out on the CPU",
        test="tests/plugin/test_patches_distributed.py::"
        "test_torchrun_trains_one_model_and_resumes_it",
    ),
    Patch(
        name="precision.bf16",
        replaces={"fairseq.distributed.utils:call_main": precision.use_bf16_without_tpu},
        without="--bf16 on the command line asks for a TPU, and fails without one.",
        effect="It asks for a TPU only where torch_xla is installed.",
        since=READ_IN,
        until="fairseq's --bf16 does not set --tpu",
        test="tests/plugin/test_patches_precision.py::test_bf16_trains_without_a_tpu",
    ),
    Patch(
        name="precision.overflow",
        replaces={"fairseq.trainer:Trainer.train_step": precision.skip_overflow_without_gpu},
        without="With --fp16 on the CPU, the first overflow ends the training.",
        effect="The update is skipped and the loss scale lowered, as on a GPU.",
        since=READ_IN,
        until="fairseq creates the zero on the model's device",
        test="tests/plugin/test_faults.py::"
        "test_an_update_that_is_not_a_number_is_skipped_under_loss_scaling",
    ),
    Patch(
        name="precision.recomputation",
        replaces={
            "fairseq.modules.checkpoint_activations:_checkpointed_forward": (
                precision.recompute_under_autocast
            ),
        },
        without="With --amp and --checkpoint-activations, the backward pass recomputes in float32, "
        "which gives other gradients.",
        effect="It recomputes under the autocast of the forward pass.",
        since=READ_IN,
        until="fairseq uses torch.utils.checkpoint",
        test="tests/plugin/test_patches_precision.py::"
        "test_checkpointed_activations_are_computed_twice_alike_under_autocast",
    ),
    Patch(
        name="generation.search",
        replaces={
            "fairseq.sequence_generator:SequenceGenerator.__init__": (
                generation.check_search_options
            ),
        },
        without="A beam of 0, or a length penalty that is nan, fails deep in the search or gives "
        "nonsense.",
        effect="The option is refused, in every task that builds a SequenceGenerator (not in "
        "translation_lev, which has no beam).",
        since=READ_IN,
        until="fairseq checks the options",
        test="tests/plugin/test_patches_generation.py::"
        "test_options_that_cannot_produce_a_translation_are_refused",
    ),
    Patch(
        name="generation.nbest",
        replaces={"fairseq.distributed.utils:call_main": generation.check_nbest},
        without="--nbest 0 prints no translation, and --nbest -1 leaves the last one out.",
        effect="The option is refused.",
        since=READ_IN,
        until="fairseq checks the option",
        test="tests/plugin/test_patches_generation.py::test_an_nbest_below_1_is_refused",
    ),
    Patch(
        name="generation.bad_lines",
        replaces={
            "fairseq_cli.interactive:make_batches": generation.set_bad_lines_aside,
            "fairseq.tasks:FairseqTask.inference_step": generation.leave_bad_lines_blank,
        },
        without="fairseq-interactive translates an empty line into words, and ends at an over-long "
        "one.",
        effect="Both get an empty translation, with a message, and it goes on (not in tasks with "
        "an `inference_step` of their own).",
        since=READ_IN,
        until="fairseq does so",
        test="tests/plugin/test_patches_generation.py::"
        "test_interactive_leaves_bad_lines_blank_and_goes_on",
    ),
    Patch(
        name="hydra.presets",
        replaces={"fairseq_cli.train:add_defaults": None},
        without="fairseq-hydra-train takes the defaults of the model, whichever architecture "
        "`model._name` names.",
        effect="The architecture's own options are filled in.",
        since=READ_IN,
        until="fairseq-hydra-train calls the architecture's function",
        test="tests/plugin/test_patches_hydra.py::test_hydra_fills_in_the_named_architecture",
    ),
    Patch(
        name="hydra.torchrun",
        replaces={"fairseq_cli.train:add_defaults": hydra.join_inside_main},
        without="fairseq-hydra-train loads the plugin too late for distributed.torchrun.",
        effect="Processes of torchrun train one model.",
        since=READ_IN,
        until="distributed.torchrun goes",
        test="tests/plugin/test_patches_hydra.py::test_torchrun_trains_one_model_with_hydra",
    ),
    LATE_COMMANDS,
    Patch(
        name="models.init_decoder_from",
        replaces={"fairseq.trainer:Trainer.load_checkpoint": None},
        without="--init-decoder-from has no effect: only the trainer knows that a training begins.",
        effect="A feature of the model, not a repair: the decoder's weights are copied then.",
        since="any",
        until="fairseq tells a model that its training begins",
        test="tests/plugin/test_decoder_init.py::"
        "test_a_training_begins_with_the_decoder_and_the_embeddings",
        is_feature=True,
    ),
)
