"""From options to a plan: what will be trained, checked before anything is made.

All of it is cheap: no simulator, no PyTorch, no network.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sinergym_trainer.algorithms import Algorithm, find_algorithm
from sinergym_trainer.board import Destination, destination
from sinergym_trainer.environments import EnvironmentSpec
from sinergym_trainer.environments.catalogue import Environment, resolve
from sinergym_trainer.errors import InvalidOptions
from sinergym_trainer.options import Options
from sinergym_trainer.process.surroundings import DEFAULT_BUCKET, default_threads


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What will be trained, and how."""

    options: Options
    environment: Environment
    algorithm: Algorithm
    spec: EnvironmentSpec
    threads: int
    """PyTorch's, in the training and in its evaluation."""
    supervised: bool
    """A runner leads this training: it uploads the results and removes the VM."""

    @property
    def checkpoints(self) -> bool:
        """Whether checkpoints are written at all."""
        return bool(self.options.checkpoint_minutes or self.options.checkpoint_steps)

    @property
    def bucket(self) -> str | None:
        """Where this program uploads the results itself, or None."""
        options = self.options
        if not options.remote_store or self.supervised:
            return None
        return options.bucket_name or os.environ.get("SINERGYM_BUCKET") or DEFAULT_BUCKET

    def board(self, output: Path, name: str) -> Destination | None:
        """Where TensorBoard's event files go, or None."""
        if not self.options.tensorboard:
            return None
        return destination(self.options.tensorboard, output=output, name=name)

    def notes(self) -> Iterator[str]:
        """What its user should know before it begins, a line each."""
        options, environment = self.options, self.environment
        if environment.note:
            yield environment.note
        if options.group_name or options.auto_delete:
            yield "--group_name and --auto_delete: the runner removes its VM and the group now"
        if options.remote_store and self.supervised:
            yield "--remote_store: the runner uploads the results"
        loose = environment.actions == "continuous" and not self.algorithm.bounded
        if loose and not options.normalize_action:
            yield (
                f"note: {self.algorithm.name} starts with actions around 0, which"
                f" {environment.id} clips to its lowest setpoints; --normalize_action lets it act"
                " in [-1, 1]"
            )


def check(options: Options) -> Plan:
    """Find environment and algorithm, and whether all of it goes together.

    Raises:
        InvalidOptions: it does not; the message says what would.
    """
    environment = resolve(options.environment)
    algorithm = find_algorithm(options.algorithm)
    algorithm.check(
        hyperparameters=options.hyperparameters(),
        actions=environment.actions,
        where=environment.id,
        n_envs=options.n_envs,
        policy_kwargs=options.policy_kwargs,
    )
    if options.normalize_action and environment.actions != "continuous":
        raise InvalidOptions(
            f"--normalize_action is for continuous actions; those of {environment.id} are"
            f" {environment.actions}"
        )
    if options.tensorboard:
        destination(options.tensorboard, output=Path(), name="")
    return Plan(
        options=options,
        environment=environment,
        algorithm=algorithm,
        spec=EnvironmentSpec(
            id=environment.id,
            run_period=options.run_period,
            reward=options.reward,
            reward_kwargs=options.reward_kwargs,
            energy_weight=options.energy_weight,
            normalize_action=options.normalize_action,
            logger=options.logger,
            multiobs=options.multiobs,
        ),
        threads=options.threads or default_threads(),
        supervised=bool(os.environ.get("SINERGYM_EXPERIMENT")),
    )


def run_name(plan: Plan, now: datetime) -> str:
    """`<algorithm>-<environment>-episodes<n>-seed<s>-id-<id>(<date>)`, the name of the seeds.

    The date is `YYYY-MM-DD_HH-MM-SS` in UTC: without the spaces and colons that object names and
    shells trip over. Seed and id are left out when not given; `timesteps<n>` stands for episodes
    when those were asked for. In a sweep the experiment's number comes before the date, as many
    of them begin in the same second.
    """
    options = plan.options
    parts = [
        plan.algorithm.name,
        plan.environment.id,
        f"timesteps{options.timesteps}" if options.timesteps else f"episodes{options.episodes}",
    ]
    if options.seed is not None:
        parts.append(f"seed{options.seed}")
    if options.id:
        parts.append(f"id-{options.id}")
    if experiment := os.environ.get("SINERGYM_EXPERIMENT"):
        parts.append(experiment)
    return f"{'-'.join(parts)}({now:%Y-%m-%d_%H-%M-%S})"
