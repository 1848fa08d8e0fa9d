"""What watches a training from outside, as the run-time choices ask for it: meters, trackers, a recording."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from gristmill.core.config import to_plain
from gristmill.core.errors import UserError
from gristmill.core.files import read_json, write_json
from gristmill.training.device import Compute
from gristmill.training.meters import StepMeter
from gristmill.training.parallel.stragglers import Stragglers
from gristmill.training.parallel.watch import Watch
from gristmill.training.parallel.world import World
from gristmill.training.profile import Recording
from gristmill.training.trackers import Tracker


@dataclass
class Watching:
    """One training that is watched."""

    meter: StepMeter
    recording: Recording
    trackers: list[Tracker]
    """On the first process."""
    signs: Watch
    """Called with what this process does now; of several, each sees when another one hangs."""
    stragglers: Stragglers

    @classmethod
    def begin(cls, compute: Compute, world: World, folder: Path, config: Any, *, name: str, left: int,
              settings: Any, holding: Callable[[], Mapping[str, Iterable[tuple[str, Tensor | None]]]],
              say: Callable[[str], None]) -> Watching:
        """folder: of the stage. config: of the model. name: of the artifact. left: steps to go. settings: what trackers
        note beside plan.json. holding: see `profile.Holding`."""
        telemetry, runtime = folder / "telemetry", compute.runtime
        meter = StepMeter.of(compute, config, world.size, hosts(world))
        if world.main:
            write_json(telemetry / "meters.json", meter.described())
        asked = runtime.profile or runtime.memory_snapshot
        recording = Recording(telemetry / "profile", compute, left if asked else 0, operations=runtime.profile,
                              memory=runtime.memory_snapshot, holding=holding, rank=world.rank, say=say)
        described = {**_plan(folder), "training": to_plain(settings)}
        trackers = [Tracker(spec, name, telemetry, described, say) for spec in runtime.track] if world.main else []
        signs = Watch(telemetry / "ranks", world.rank, world.size, limit=runtime.hang_after,
                      start=world.tell(uuid.uuid4().hex))
        return cls(meter, recording, trackers, signs, Stragglers(world, say=say))

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Numbers of a step, for the trackers."""
        for tracker in self.trackers:
            tracker.write(step, values)

    def close(self, finished: bool) -> None:
        """finished: the training is over, not interrupted."""
        self.recording.close()
        for tracker in self.trackers:
            tracker.close(finished)


def hosts(world: World) -> int:
    """On how many computers the processes run."""
    each = int(os.environ.get("LOCAL_WORLD_SIZE", world.size)) or 1
    return max(1, world.size // each)


def holding(model: Mapping[nn.Parameter, str], states: Mapping[str, Tensor], buffers: Mapping[str, Tensor],
            average: Mapping[str, Tensor]) -> dict[str, list[tuple[str, Tensor | None]]]:
    """What a training keeps between steps, by what it is."""
    return {
        "weights": [(name, parameter) for parameter, name in model.items()],
        "gradients": [(name, parameter.grad) for parameter, name in model.items()],
        "optimizer": list(states.items()), "buffers": list(buffers.items()), "average": list(average.items()),
    }


def _plan(folder: Path) -> dict[str, Any]:
    try:
        found = read_json(folder / "plan.json")
    except UserError:
        return {}
    return found if isinstance(found, dict) else {}
