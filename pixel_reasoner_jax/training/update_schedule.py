"""How many updates a run of RL is planned to make."""

from __future__ import annotations

import dataclasses

from ml_collections import ConfigDict

from pixel_reasoner_jax.config import ConfigError
from pixel_reasoner_jax.training.replay import planned_responses


@dataclasses.dataclass(frozen=True)
class UpdateSchedule:
    """How many updates a run is planned to make.

    An episode in which groups are dropped may make fewer updates than planned. The run ends with its planned episodes
    all the same; the learning rate follows the updates that were made, so it is then not yet down to its last value.

    Attributes:
      steps: planned updates of the whole run.
      updates_per_episode: planned updates of an episode; the last one has fewer where `steps` is no multiple.
    """

    steps: int
    updates_per_episode: int

    @classmethod
    def of(cls, config: ConfigDict, records: int, data_name: str) -> UpdateSchedule:
        """Makes the schedule of an experiment.

        Args:
          config: see `run`.
          records: how many records of the data set are in an epoch.
          data_name: names the data set in the error message.

        Raises:
          ConfigError: the records do not fill one episode.
        """
        train, per_episode = config.train, config.grpo.queries_per_episode
        queries = records * train.epochs
        samples = config.rollout.samples
        responses = planned_responses(config.replay.method, per_episode * samples, samples)
        updates_per_episode = -(-responses // train.batch_size)
        steps = train.steps or queries // per_episode * updates_per_episode
        if not steps:
            raise ConfigError(
                f"{queries} queries of {data_name} in config.train.epochs do not fill an episode:"
                f" config.grpo.queries_per_episode is {per_episode}"
            )
        return cls(steps, updates_per_episode)

    @property
    def episodes(self) -> int:
        """Episodes of the whole run."""
        return -(-self.steps // self.updates_per_episode)

    def planned(self, episode: int) -> int:
        """How many updates are planned for an episode, which is numbered from 1."""
        before = (episode - 1) * self.updates_per_episode
        return max(min(self.updates_per_episode, self.steps - before), 0)
