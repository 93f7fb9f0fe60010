"""coordinator.v1.Plans: the plans of the planning loop, and its switch."""

import msgspec
from msgspec import UNSET
from msgspec.structs import asdict

from coordinator.answers.plans import (
    AutopilotMode,
    MadePlan,
    PlanAnswer,
    PlanningRound,
    plan_fields,
)
from coordinator.config import Autopilot
from coordinator.planning.loop import PlanningLoop
from coordinator.planning.notes import PlanNote
from coordinator.rpc_errors import Context, answered, unary
from logstore.base.errors import (
    InvalidArgumentError,
)
from logstore.proto.coordinator_v1 import coordinator_pb2 as pb
from logstore.proto.coordinator_v1.coordinator_pb2_grpc import (
    PlansServicer,
)
from sharder.plan import explain, plan
from sharder.view import dump_view


class PlansService(PlansServicer):
    """The plans of the planning loop, and its switch."""

    def __init__(self, loop: PlanningLoop) -> None:
        self._loop = loop

    @unary
    async def Plan(self, request: pb.PlanRequest, context: Context) -> pb.JsonResponse:
        """The plan for now; with `history` the last ones of the loop as well, oldest first.

        With `view` also its inputs, which `sharder.view.load_view` reads back."""
        seen = await self._loop.view()
        made = plan(seen)
        answer = PlanAnswer(
            autopilot=self._loop.mode.value,
            **asdict(plan_fields(made)),
            explain=explain(made) if request.explain else UNSET,
            view=msgspec.Raw(dump_view(seen)) if request.view else UNSET,
            history=[_round(note) for note in self._loop.history] if request.history else UNSET,
        )
        return answered(answer)

    @unary
    async def SetAutopilot(
        self, request: pb.SetAutopilotRequest, context: Context
    ) -> pb.JsonResponse:
        try:
            mode = Autopilot(request.mode)
        except ValueError:
            modes = ", ".join(mode.value for mode in Autopilot)
            raise InvalidArgumentError(
                f"mode is {request.mode!r}, it must be one of {modes}"
            ) from None
        await self._loop.set_mode(mode)
        return answered(AutopilotMode(autopilot=self._loop.mode.value))

    @unary
    async def GetPlanner(self, request: pb.GetPlannerRequest, context: Context) -> pb.JsonResponse:
        """Every setting of the planner; with `history` their changes as well."""
        return answered(await self._loop.tuning.settings(history=request.history))

    @unary
    async def SetPlanner(self, request: pb.SetPlannerRequest, context: Context) -> pb.JsonResponse:
        """Set and reset settings in one write, for the next plan; the answer has them alone."""
        try:
            values = msgspec.json.decode(request.values_json or b"{}", type=dict[str, object])
        except msgspec.DecodeError as e:
            raise InvalidArgumentError(f"values_json: {e}, it must be an object by name") from None
        by = request.by or context.peer()
        return answered(await self._loop.tuning.change(values, list(request.resets), by))

    @unary
    async def Weights(self, request: pb.WeightsRequest, context: Context) -> pb.JsonResponse:
        """The migration weights of a log's shards, or of all, by shard."""
        return answered(await self._loop.weights.rows(request.log))

    @unary
    async def SetWeight(self, request: pb.SetWeightRequest, context: Context) -> pb.JsonResponse:
        """Set a shard's migration weight, or take back what was set; it acts in the next plan."""
        weight = request.weight if request.HasField("weight") else None
        by = request.by or context.peer()
        return answered(await self._loop.weights.set(request.shard, weight, by))


def _round(note: PlanNote) -> PlanningRound:
    made = note.plan
    return PlanningRound(
        at_us=note.at_us,
        plan=MadePlan(**asdict(plan_fields(made)), explain=explain(made))
        if made is not None
        else None,
        started=note.started,
        skipped=note.skipped,
    )
