"""The state of a training on disk, through orbax, so that it can resume when killed.

A save is written beside the one before and gets its name once it is complete; then the
older one is deleted. So a training that is killed resumes from its last save.
"""

from pathlib import Path
from typing import Any

import jax

# orbax takes over a second to import, and only long trainings need it: it is imported
# in the functions.


def save(folder: Path, step: int, arrays: Any, facts: Any) -> None:
    """Keep the state before `step`, in place of the one that `folder` holds.

    `arrays` is a tree of arrays, `facts` anything that JSON can hold.
    """
    import orbax.checkpoint as ocp

    items = ocp.args.Composite(
        arrays=ocp.args.StandardSave(arrays),
        facts=ocp.args.JsonSave(facts),
    )
    with _manager(folder) as manager:
        manager.save(step, args=items)
        manager.wait_until_finished()


def restore(folder: Path, template: Any) -> tuple[Any, Any] | None:
    """Return (arrays, facts) as saved last, or None where nothing was saved.

    `template` is a tree with the structure, shapes and dtypes of the arrays.

    Raises:
        ValueError: the save is another model's, or damaged.
    """
    # orbax would make the folder.
    if not folder.is_dir():
        return None
    import orbax.checkpoint as ocp

    items = ocp.args.Composite(
        arrays=ocp.args.StandardRestore(template),
        facts=ocp.args.JsonRestore(),
    )
    with _manager(folder) as manager:
        step = manager.latest_step()
        if step is None:
            return None
        try:
            state = manager.restore(step, args=items)
        # orbax, tensorstore and the file system each raise errors of their own.
        except Exception as error:
            reason = str(error).splitlines()[0]
            raise ValueError(
                f"{folder}: cannot resume from here ({reason}); delete it to start "
                "this training anew"
            ) from None
    return state["arrays"], state["facts"]


def _manager(folder: Path) -> Any:
    import orbax.checkpoint as ocp

    # Of several processes one alone comes here: orbax must not wait for the others.
    index = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=index,
        active_processes={index},
        barrier_sync_key_prefix=str(index),
    )
    options = ocp.CheckpointManagerOptions(
        max_to_keep=1,
        # A save is complete before the next step changes its arrays.
        enable_async_checkpointing=False,
        # What a save that was killed left behind.
        cleanup_tmp_directories=True,
        # So it has to be where processes are named.
        create=False,
        multiprocessing_options=alone,
    )
    folder.mkdir(parents=True, exist_ok=True)
    return ocp.CheckpointManager(folder.absolute(), options=options)
