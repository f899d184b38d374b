"""A running training on disk, through orbax, so that one that is killed goes on from its last save.

A save is written beside the one before and renamed when whole; then the older one goes.
"""

from pathlib import Path
from typing import Any


def save(folder: Path, step: int, arrays: Any, facts: Any) -> None:
    """Keep a tree of arrays and some JSON as the state before that step, in place of what `folder` held."""
    import orbax.checkpoint as ocp  # takes over a second to import, and only long trainings need it

    items = ocp.args.Composite(
        arrays=ocp.args.StandardSave(arrays), facts=ocp.args.JsonSave(facts)
    )
    with _manager(folder) as manager:
        manager.save(step, args=items)
        manager.wait_until_finished()


def restore(folder: Path, like: Any) -> tuple[Any, Any] | None:
    """(arrays, facts) as saved last, or None where nothing was; `like` has the arrays' structure, shapes and dtypes.

    Raises:
        ValueError: what is there is of another model or damaged.
    """
    if not folder.is_dir():
        return None
    import orbax.checkpoint as ocp

    with _manager(folder) as manager:
        if (step := manager.latest_step()) is None:
            return None
        items = ocp.args.Composite(
            arrays=ocp.args.StandardRestore(like), facts=ocp.args.JsonRestore()
        )
        try:
            found = manager.restore(step, args=items)
        except (
            Exception
        ) as error:  # orbax, tensorstore and the file system each raise their own
            raise ValueError(
                f"{folder}: cannot go on from here ({str(error).splitlines()[0]}); delete it to start this training anew"
            ) from None
    return found["arrays"], found["facts"]


def _manager(folder: Path) -> Any:
    import orbax.checkpoint as ocp

    options = ocp.CheckpointManagerOptions(
        max_to_keep=1, enable_async_checkpointing=False, cleanup_tmp_directories=True
    )
    return ocp.CheckpointManager(folder.absolute(), options=options)
